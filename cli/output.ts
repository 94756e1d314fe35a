/** What commands write to stdout and stderr. All text passes here or through the live view, and none of it reaches a terminal raw. */
import { visible, visibleJson } from "../schemas/visible.ts"

/** Text for stdout: what the command was asked for. Line ends are the caller's. */
export const write = (text: string): void => void process.stdout.write(visible(text))

/** A JSON document for stdout, or with `indent` undefined a line of JSON. */
export const writeJson = (document: unknown, indent: number | undefined = 2): void =>
  void process.stdout.write(`${visibleJson(document, indent)}\n`)

/** Text for stderr: what is said beside it. Line ends are the caller's. */
export const tell = (text: string): void => void process.stderr.write(visible(text))
