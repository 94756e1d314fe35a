/** What was written to a file since it was last looked at. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs"

/** Read at once, at most: what is left comes the next time. */
const mostBytes = 1 << 20

export interface Part {
  /** Whole lines, without their ends. */
  readonly lines: ReadonlyArray<string>
  /** Where the next part begins. */
  readonly next: number
  /** Bytes of the file. */
  readonly size: number
}

/** Whole lines of a file from a byte on; a line that is still being written is left for the next time. A file that is not there is empty. */
export const linesFrom = (path: string, from: number, most = mostBytes): Part => {
  let file: number
  try {
    file = openSync(path, "r")
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return { lines: [], next: from, size: 0 }
    throw cause
  }
  try {
    const { size } = fstatSync(file)
    // It was written anew.
    const start = from > size ? 0 : from
    const bytes = Buffer.allocUnsafe(Math.min(most, size - start))
    let length = 0
    while (length < bytes.length) {
      const read = readSync(file, bytes, length, bytes.length - length, start + length)
      if (read === 0) break
      length += read
    }
    let end = bytes.lastIndexOf(0x0a, length - 1) + 1
    // A line longer than is read at once comes in pieces.
    if (length === 0) end = 0
    else if (end === 0 && length === most) end = length
    const text = bytes.toString("utf8", 0, end)
    return { lines: text === "" ? [] : text.replace(/\n$/, "").split("\n"), next: start + end, size }
  } finally {
    closeSync(file)
  }
}
