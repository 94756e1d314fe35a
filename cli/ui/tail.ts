/** Reads what was appended to a file since the last read. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs"

/** Maximum bytes per read; the rest is read next time. */
const maxBytes = 1 << 20

export interface Part {
  /** Complete lines, without line ends. */
  readonly lines: ReadonlyArray<string>
  /** The offset where the next part begins. */
  readonly next: number
  /** The file's size in bytes. */
  readonly size: number
}

/** The complete lines of a file from a byte offset; an incomplete last line is left for the next read. A missing file is empty. */
export const linesFrom = (path: string, from: number, most = maxBytes): Part => {
  let file: number
  try {
    file = openSync(path, "r")
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return { lines: [], next: from, size: 0 }
    throw cause
  }
  try {
    const { size } = fstatSync(file)
    // The file was rewritten.
    const start = from > size ? 0 : from
    const bytes = Buffer.allocUnsafe(Math.min(most, size - start))
    let length = 0
    while (length < bytes.length) {
      const read = readSync(file, bytes, length, bytes.length - length, start + length)
      if (read === 0) break
      length += read
    }
    let end = bytes.lastIndexOf(0x0a, length - 1) + 1
    // A line longer than one read arrives in pieces.
    if (length === 0) end = 0
    else if (end === 0 && length === most) end = length
    const text = bytes.toString("utf8", 0, end)
    return { lines: text === "" ? [] : text.replace(/\n$/, "").split("\n"), next: start + end, size }
  } finally {
    closeSync(file)
  }
}
