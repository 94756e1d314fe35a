/** Writing to stdout and stderr. All text goes through here or the live view, so no control characters reach a terminal. */
import { visible, visibleJson } from "../schemas/visible.ts"

/** Writes the command's output to stdout. The caller adds line ends. */
export const write = (text: string): void => void process.stdout.write(visible(text))

export const writeJson = (document: unknown): void => void process.stdout.write(`${visibleJson(document, 2)}\n`)

/** Writes one line of JSON to stdout. */
export const writeJsonLine = (row: unknown): void => void process.stdout.write(`${visibleJson(row)}\n`)

/** Writes a message to stderr. The caller adds line ends. */
export const tell = (text: string): void => void process.stderr.write(visible(text))
