/** A run's outputs, printed at the end of `caravan run`: short reports and all paths. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import type { RunResult } from "../../runtime/run/events.ts"
import { pageFile, textFile } from "../../stages/common/report-files.ts"
import { count } from "./units.ts"
import { plain } from "./width.ts"

/** Maximum lines of a report shown in full, and of a shortened one. */
const maxLines = 40
const maxShortened = 25
const lineLength = 120
const longestLine = 400
/** A list is shown if it has at most this many items and each fits on a line. */
const maxItems = 10

/** A number rounded for reading. */
const rounded = (_: string, value: unknown): unknown =>
  typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value

/** A line without control characters, truncated to a readable length. */
const shown = (line: string): string => {
  const text = plain(line)
  return text.length <= longestLine ? text : `${text.slice(0, longestLine - 3)}...`
}

const isShortList = (list: ReadonlyArray<unknown>): boolean =>
  list.length <= maxItems && list.every((item) => JSON.stringify(item, rounded).length < lineLength - maxItems)

/** A value down to some depth; deeper parts that do not fit on a line are only counted. */
const linesOf = (value: unknown, depth: number, indent = ""): ReadonlyArray<string> => {
  const whole = JSON.stringify(value, rounded)
  if (typeof value !== "object" || value === null || indent.length + whole.length <= lineLength) return [whole]
  const entries = Object.entries(value)
  const [open, close, what] = Array.isArray(value) ? ["[", "]", "item"] : ["{", "}", "field"]
  if (depth === 0 || (Array.isArray(value) && !isShortList(value))) return [`${open} ${count(entries.length, what)} ${close}`]
  const inner = `${indent}  `
  return [
    open,
    ...entries.flatMap(([name, field], i) => {
      const [first, ...rest] = linesOf(field, depth - 1, inner)
      const lines = [`${inner}${Array.isArray(value) ? "" : `${JSON.stringify(name)}: `}${first}`, ...rest]
      return i < entries.length - 1 ? [...lines.slice(0, -1), `${lines.at(-1)},`] : lines
    }),
    `${indent}${close}`
  ]
}

/** JSON in at most `most` lines: as deep as fits. */
export const shortened = (value: unknown, most = maxShortened): ReadonlyArray<string> => {
  let lines = linesOf(value, 1)
  for (let depth = 2; ; depth++) {
    const deeper = linesOf(value, depth)
    if (deeper.length > most || deeper.join("\n") === lines.join("\n")) break
    lines = deeper
  }
  return lines.length <= most ? lines : [...lines.slice(0, most - 1), `  ... and ${lines.length - most + 1} more lines`]
}

/** A report's own text if it has one; otherwise its JSON, complete if small. Empty if the report is an HTML page. */
const reportLines = (path: string): ReadonlyArray<string> => {
  const text = join(path, textFile)
  if (existsSync(text)) return readFileSync(text, "utf8").trimEnd().split("\n").map(plain)
  if (existsSync(join(path, pageFile))) return []
  const file = join(path, "report.json")
  const json = readFileSync(file, "utf8").trimEnd()
  const lines = json.split("\n")
  return lines.length <= maxLines ? lines.map(shown) : [...shortened(JSON.parse(json)).map(shown), `(shortened; full report: ${file})`]
}

/** Reports as text, those with their own text last; the paths of all outputs; and links to HTML pages. */
export const outputLines = (outputs: RunResult["outputs"]): ReadonlyArray<string> => {
  const all = Object.entries(outputs)
  const reports = all.flatMap(([name, { kind, path }]) => {
    const lines = kind === "report" ? reportLines(path) : []
    return lines.length === 0 ? [] : [{ own: existsSync(join(path, textFile)), lines: [`${name}:`, ...lines, ""] }]
  })
  const width = Math.max(0, ...all.map(([name]) => name.length))
  const pages = all.filter(([, { path }]) => existsSync(join(path, pageFile)))
  return [
    ...reports.filter(({ own }) => !own).flatMap(({ lines }) => lines),
    ...reports.filter(({ own }) => own).flatMap(({ lines }) => lines),
    ...(all.length === 0 ? [] : ["Outputs:", ...all.map(([name, { path }]) => `  ${name.padEnd(width)}  ${path}`)]),
    ...pages.map(([name, { path }]) => `Open ${name} in a browser: ${pathToFileURL(join(path, pageFile)).href}`)
  ]
}
