/**
 * A process that scores answers: it reads one line of JSON per answer and writes one line with the score. A user's function runs in such a process too, so that one that
 * never returns can be stopped.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { createInterface } from "node:readline"

/** The outcome for one answer. */
export type Scored =
  | { readonly is: "answered"; readonly line: string }
  | { readonly is: "ended"; readonly how: string; readonly said: string }
  | { readonly is: "late" }
  /** It wrote more lines than requested, so the lines cannot be matched to answers. */
  | { readonly is: "more"; readonly line: string }

/** Bytes of its latest output kept to explain a failure. */
const tailBytes = 2000

export class ScorerProcess {
  readonly #child: ChildProcess
  readonly #lines: Array<string> = []
  #wake: () => void = () => {}
  #ended: string | undefined
  #said = ""

  /** `folder`: the working directory of the process. */
  constructor(command: ReadonlyArray<string>, folder: string) {
    const [program = "", ...args] = command
    const child = spawn(program, args, { cwd: folder, stdio: ["pipe", "pipe", "pipe"] })
    this.#child = child
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.#lines.push(line)
      this.#wake()
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => (this.#said = (this.#said + text).slice(-tailBytes)))
    // Writing to a process that has ended: its exit is reported separately.
    child.stdin.on("error", () => {})
    child.on("error", (cause: NodeJS.ErrnoException) =>
      this.#end(cause.code === "ENOENT" ? `there is no program ${program}` : cause.message)
    )
    // "close" comes after all output was read.
    child.on("close", (code, signal) => this.#end(signal === null ? `it ended with code ${code}` : `it was ended by ${signal}`))
  }

  #end(how: string): void {
    this.#ended ??= how
    this.#wake()
  }

  /** Sends a line and waits at most `seconds` for an answer; a process that is late is killed. */
  async ask(line: string, seconds: number): Promise<Scored> {
    const more = this.#lines.shift()
    if (more !== undefined) return { is: "more", line: more }
    if (this.#ended === undefined) this.#child.stdin!.write(`${line}\n`)
    let timer: NodeJS.Timeout | undefined
    const isLate = new Promise<"late">((resolve) => (timer = setTimeout(() => resolve("late"), seconds * 1000)))
    try {
      for (;;) {
        const answer = this.#lines.shift()
        if (answer !== undefined) return { is: "answered", line: answer }
        if (this.#ended !== undefined) return { is: "ended", how: this.#ended, said: this.#said.trim() }
        const heard = new Promise<void>((resolve) => (this.#wake = resolve))
        if ((await Promise.race([heard, isLate])) === "late") {
          this.kill()
          return { is: "late" }
        }
      }
    } finally {
      clearTimeout(timer)
    }
  }

  kill(): void {
    this.#child.kill("SIGKILL")
  }
}

/**
 * Runs the default export of a module for each line: writes its number, or the error it threw. Its console output goes to stderr. It ends with its
 * parent, even if the parent is killed while the function runs forever: a separate thread watches the parent.
 */
const host = `
import { createInterface } from "node:readline"
import { format } from "node:util"
import { Worker } from "node:worker_threads"
const watch = "setInterval(() => { if (process.ppid !== " + Number(process.argv[2]) + ") process.kill(process.pid, 'SIGKILL') }, 250)"
new Worker(watch, { eval: true, execArgv: [] }).unref()
for (const name of ["log", "info", "debug"]) console[name] = (...said) => process.stderr.write(format(...said) + "\\n")
const say = (result) => process.stdout.write(JSON.stringify(result ?? null) + "\\n")
const words = (thrown) => (thrown instanceof Error ? thrown.name + ": " + thrown.message : String(thrown))
const { default: score } = await import(process.argv[1])
if (typeof score !== "function") throw new TypeError("its default export is " + (score === undefined ? "missing" : "a " + typeof score + ", expected a function"))
for await (const line of createInterface({ input: process.stdin })) {
  const { prompt, answer, ...more } = JSON.parse(line)
  try {
    const value = await score(prompt, answer, more)
    say(typeof value === "number" ? (Number.isFinite(value) ? value : String(value)) : { got: value === undefined ? "undefined" : JSON.stringify(value) })
  } catch (thrown) {
    say({ threw: words(thrown) })
  }
}
`

/** The command that runs a module, given by URL. */
export const moduleCommand = (url: string): ReadonlyArray<string> => [
  process.execPath,
  "--input-type=module",
  "-e",
  host,
  url,
  String(process.pid)
]
