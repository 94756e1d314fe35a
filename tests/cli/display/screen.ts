/** A terminal for tests: its screen after everything written to it. Supports what the live view uses, and fails on anything else. */
import { EventEmitter } from "node:events"

export class Screen extends EventEmitter {
  readonly isTTY = true
  columns: number
  rows: number
  cursorShown = true
  /** Everything that was written. */
  written = ""
  #lines: Array<string> = [""]
  #row = 0
  #column = 0

  constructor(columns: number, rows = 24) {
    super()
    this.columns = columns
    this.rows = rows
  }

  /** Resizing by a user: lines that no longer fit are wrapped, then the program is notified. */
  resize(columns: number, rows = this.rows): void {
    const lines: Array<string> = []
    for (const line of this.#lines) {
      for (let at = 0; at === 0 || at < line.length; at += columns) lines.push(line.slice(at, at + columns))
    }
    this.#row += lines.length - this.#lines.length
    this.#lines = lines
    this.columns = columns
    this.rows = rows
    this.emit("resize")
  }

  readonly write = (text: string): boolean => {
    this.written += text
    // oxlint-disable-next-line no-control-regex
    for (const [part, code] of text.matchAll(/\u001b\[([?\d]*[A-Za-z])|[^\u001b]/gu)) {
      if (code === undefined) this.#put(part)
      else if (/^\d+m$/.test(code)) continue
      else if (code === "?25l") this.cursorShown = false
      else if (code === "?25h") this.cursorShown = true
      else if (code === "0J") {
        this.#lines.length = this.#row + 1
        this.#lines[this.#row] = this.#lines[this.#row]!.slice(0, this.#column)
      } else if (/^\d+A$/.test(code)) this.#row = Math.max(0, this.#row - Number(code.slice(0, -1)))
      else throw new Error(`the terminal of the tests does not know ESC [ ${code}`)
    }
    return true
  }

  #put(character: string): void {
    if (character === "\r") this.#column = 0
    else if (character === "\n") this.#newLine()
    else {
      if (this.#column >= (this.columns || 80)) this.#newLine()
      const line = this.#lines[this.#row]!.padEnd(this.#column)
      this.#lines[this.#row] = line.slice(0, this.#column) + character + line.slice(this.#column + 1)
      this.#column++
    }
  }
  #newLine(): void {
    this.#row++
    this.#column = 0
    this.#lines[this.#row] ??= ""
  }

  get text(): string {
    return this.#lines.join("\n").trimEnd()
  }
  get stream(): NodeJS.WriteStream {
    return this as unknown as NodeJS.WriteStream
  }
}
