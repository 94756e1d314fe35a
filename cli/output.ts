/** What commands write to stdout and stderr. All text passes here or through the live view, and none of it reaches a terminal raw. */
import { visible, visibleJson } from "../schemas/visible.ts"

/** Text for stdout: what the command was asked for. Line ends are the caller's. */
export const write = (text: string): void => void process.stdout.write(visible(text))

/** A JSON document for stdout. */
export const writeJson = (document: unknown): void => void process.stdout.write(`${visibleJson(document, 2)}\n`)

/** A line of JSON for stdout: one of several. */
export const writeJsonLine = (row: unknown): void => void process.stdout.write(`${visibleJson(row)}\n`)

/** Text for stderr: what is said beside it. Line ends are the caller's. */
export const tell = (text: string): void => void process.stderr.write(visible(text))
