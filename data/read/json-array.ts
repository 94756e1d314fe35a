/** Streams the elements of a JSON file that is one list. The complete list is never in memory. */
import { damaged } from "./bytes.ts"
import { longest, parseJson } from "./lines.ts"
import { BadRow, type Record } from "./record.ts"

const [quote, backslash, comma, open, close, brace, unbrace, feed] = [0x22, 0x5c, 0x2c, 0x5b, 0x5d, 0x7b, 0x7d, 10]
const isSpace = (byte: number): boolean => byte === 0x20 || byte === feed || byte === 0x0d || byte === 9

const notJson = new BadRow("(the line)", "not JSON: white space that JSON does not allow", "not JSON")

/** The parsed elements, each with the line on which it begins. An element that is not valid JSON has a fault. */
export async function* jsonArray(path: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<ReadonlyArray<Record>> {
  const wrong = (found: string) => damaged(path, "one JSON list of rows", found)
  let state = "before" as "before" | "between" | "element" | "after"
  let [line, start, depth, count] = [1, 1, 0, 0]
  let [inString, isEscaped, afterComma] = [false, false, false]
  let rest: Array<Buffer> = []
  let held = 0
  for await (const chunk of chunks) {
    const records: Array<Record> = []
    let from = 0
    const take = (to: number) => {
      const bytes = rest.length === 0 ? chunk.subarray(from, to) : Buffer.concat([...rest, chunk.subarray(from, to)])
      ;[rest, held] = [[], 0]
      count++
      // Elements of other white space than JSON's (a no-break space, a byte order mark) are not blank lines to be skipped.
      records.push(parseJson(start, bytes) ?? { line: start, unit: "line", value: bytes.toString("utf8"), fault: notJson })
    }
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!
      if (byte === feed) line++
      if (inString) {
        if (isEscaped) isEscaped = false
        else if (byte === backslash) isEscaped = true
        else if (byte === quote) inString = false
        continue
      }
      if (state === "element") {
        if (byte === quote) inString = true
        else if (byte === open || byte === brace) depth++
        else if (depth > 0) {
          if (byte === close || byte === unbrace) depth--
        } else if (byte === comma || byte === close) {
          take(i)
          state = byte === comma ? "between" : "after"
          afterComma = byte === comma
        }
        continue
      }
      if (isSpace(byte)) continue
      if (state === "before") {
        // The list begins here. Only white space and a byte order mark may precede it.
        if (byte === open) state = "between"
        else if (byte < 0x80) throw wrong(`something other than a list on line ${line}`)
        continue
      }
      if (state === "after") throw wrong(`text after the end of the list, on line ${line}`)
      if (byte === close) {
        if (afterComma) throw wrong(`a trailing comma before the end of the list, on line ${line}`)
        state = "after"
      } else if (byte === comma) throw wrong(`two commas in a row, on line ${line}`)
      else {
        ;[state, start, from] = ["element", line, i]
        if (byte === quote) inString = true
        else if (byte === open || byte === brace) depth = 1
      }
    }
    if (state === "element") {
      rest.push(chunk.subarray(from))
      held += chunk.length - from
      if (held > longest)
        throw damaged(path, `elements of at most ${longest} bytes`, `a longer one from line ${start} on`, "Remove or split it.")
    }
    if (records.length > 0) yield records
  }
  if (state === "before") return
  if (state !== "after")
    throw damaged(
      path,
      "a complete JSON list",
      `the end of the file on line ${line}, ${state === "element" ? `within element ${count + 1}` : `after ${count} elements`}`
    )
}
