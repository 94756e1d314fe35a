/**
 * Processes whose file system fails on demand: the shim (shim.c), its control file, and runners (runner.ts) with it. Only on Linux with a C
 * compiler; `shim` says why it is not available elsewhere, and tests that need it are skipped with that reason.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"
import type { RunOptions } from "../../runtime/run/options.ts"

/** Whether every call is failed in turn (`npm run test:faults`), or only a sample of them (the ordinary suite). */
export const everything = process.env.FAULTS === "all"
/** 1, 2, ... up to `count`; in the ordinary suite about `sample` of them, evenly spaced. */
export const numbers = (count: number, sample: number): Array<number> => {
  const step = everything ? 1 : Math.max(1, Math.floor(count / sample))
  return Array.from({ length: Math.floor((count - 1) / step) + 1 }, (_, i) => 1 + i * step)
}

const root = new URL("../../", import.meta.url).pathname

const buildShim = (): { readonly path: string } | { readonly reason: string } => {
  if (process.platform !== "linux") return { reason: `${process.platform}: the shim is for Linux` }
  const source = join(root, "tests/faults/shim.c")
  const folder = join(root, ".caravan/faults")
  const path = join(folder, `shim-${createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16)}.so`)
  if (existsSync(path)) return { path }
  mkdirSync(folder, { recursive: true })
  for (const compiler of [process.env.CC, "cc", "gcc", "g++", "clang"]) {
    if (compiler === undefined) continue
    const fresh = `${path}.${process.pid}`
    const { status, stderr } = spawnSync(compiler, [
      "-x",
      "c",
      "-O2",
      "-shared",
      "-fPIC",
      "-Wall",
      "-o",
      fresh,
      source,
      "-ldl",
      "-lpthread"
    ])
    if (status === 0) {
      renameSync(fresh, path)
      return { path }
    }
    if (status !== null) throw new Error(`compiling ${source} with ${compiler} ended with ${status}: ${stderr.toString()}`)
  }
  return { reason: "no C compiler: on Debian, apt-get install gcc" }
}
export const shim = buildShim()
/** For test titles: empty, or why tests that need the shim are skipped. */
export const without = "path" in shim ? "" : ` (skipped: ${shim.reason})`

/** Classes of calls: bits (the same as in shim.c). */
export const call = {
  openRead: 1,
  openWrite: 2,
  write: 4,
  sync: 8,
  rename: 16,
  mkdir: 32,
  unlink: 64,
  truncate: 128,
  chmod: 256,
  link: 512,
  read: 1024
} as const
/** Every call that changes something. */
export const changing = 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256 | 512
export const mode = { nothing: 0, killBefore: 1, killAfter: 2, refuseOnce: 3, refuseFrom: 4, short: 5, stop: 6 } as const
/** Linux's error numbers. */
export const errno = { EIO: 5, EACCES: 13, EMFILE: 24, ENOSPC: 28, EROFS: 30 } as const

export interface Fault {
  readonly mode: (typeof mode)[keyof typeof mode]
  readonly mask: number
  readonly error?: number
  /** The call's number, counted from 1. */
  readonly at?: number
  /** Number of bytes that can be written until the disk is full. */
  readonly budget?: number
  readonly logging?: boolean
  /** Processes whose calls count: all, only the runner's, only its children's. */
  readonly of?: "all" | "parent" | "children"
}

/** The file that the processes with a shim share with the test. */
class Control {
  readonly path: string
  readonly #file: number
  constructor(path: string) {
    this.path = path
    writeFileSync(path, Buffer.alloc(4096))
    this.#file = openSync(path, "r+")
    this.#write(40, -1n)
  }
  #write(at: number, value: bigint | number): void {
    const bytes = Buffer.alloc(typeof value === "bigint" ? 8 : 4)
    if (typeof value === "bigint") bytes.writeBigInt64LE(value)
    else bytes.writeInt32LE(value)
    writeSync(this.#file, bytes, 0, bytes.length, at)
  }
  #read(at: number): number {
    const bytes = Buffer.alloc(8)
    readSync(this.#file, bytes, 0, 8, at)
    return Number(bytes.readBigInt64LE())
  }
  arm(fault: Fault): void {
    this.#write(4, fault.mode)
    this.#write(8, fault.mask)
    this.#write(12, fault.error ?? 0)
    this.#write(16, BigInt(fault.at ?? 0))
    this.#write(24, 0n)
    this.#write(32, 0n)
    this.#write(40, BigInt(fault.budget ?? -1))
    this.#write(56, fault.logging === true ? 1 : 0)
    this.#write(60, { all: 0, parent: 1, children: 2 }[fault.of ?? "all"])
    this.#write(0, 1)
  }
  disarm(): { readonly count: number; readonly fired: number } {
    this.#write(0, 0)
    this.#write(56, 0)
    return { count: this.#read(24), fired: this.#read(32) }
  }
  /** Moves the processes' date, in seconds. */
  moveClock(seconds: number): void {
    this.#write(48, BigInt(seconds))
  }
  close(): void {
    closeSync(this.#file)
  }
}

export interface Request {
  readonly home: string
  readonly settings: Readonly<Record<string, string>>
  readonly options?: Partial<RunOptions>
}
export interface RanNode {
  readonly id: string
  readonly status: string
  readonly key: string | null
  readonly digest: string | null
  readonly error: string | null
  readonly metrics: Readonly<Record<string, number>>
}
export type Answer =
  | { readonly type: "ready" }
  | { readonly type: "started"; readonly node: string }
  | { readonly type: "finished"; readonly node: string; readonly digest: string }
  | { readonly type: "step"; readonly node: string; readonly step: number }
  | { readonly type: "note"; readonly node: string; readonly message: string }
  | { readonly type: "done"; readonly status: string; readonly nodes: ReadonlyArray<RanNode> }
  | { readonly type: "refused"; readonly tag: string; readonly message: string }

/** The result of a request. */
export interface Outcome {
  readonly started: ReadonlyArray<string>
  /** Nodes that were reported as made, with their digests. */
  readonly finished: Readonly<Record<string, string>>
  readonly notes: ReadonlyArray<string>
  /** The steps that were reported as done and saved, in order. */
  readonly steps: ReadonlyArray<number>
  /** "died": the process ended before it answered. */
  readonly end:
    | Extract<Answer, { type: "done" | "refused" }>
    | { readonly type: "died"; readonly signal: string | null; readonly code: number | null }
  readonly count: number
  readonly fired: number
}

/** Time after which a run of these small pipelines counts as hanging, in milliseconds. */
const patience = 60_000

export interface RunnerOptions {
  /** Calls on files below this folder go through the shim. */
  readonly below?: string
  readonly patience?: number
  readonly log?: string
  readonly environment?: Readonly<Record<string, string>>
}

/** A process that runs the pipeline on request, with or without the shim. */
export class Runner {
  readonly process: ChildProcess
  readonly control: Control | undefined
  readonly #answers: Array<Answer> = []
  #wake: () => void = () => undefined
  #ended: { readonly signal: string | null; readonly code: number | null } | undefined
  #stderr = ""

  readonly #patience: number
  constructor(options: RunnerOptions = {}) {
    this.#patience = options.patience ?? patience
    const environment: Record<string, string> = {}
    if (options.below !== undefined) {
      if (!("path" in shim)) throw new Error(shim.reason)
      this.control = new Control(join(mkdtempSync(join(tmpdir(), "caravan-control-")), "control"))
      Object.assign(environment, {
        LD_PRELOAD: shim.path,
        FAULTS_ROOT: options.below,
        FAULTS_CONTROL: this.control.path,
        // Calls that bypass libc are not seen.
        UV_USE_IO_URING: "0",
        // One after the other, so that call number n is always the same call.
        UV_THREADPOOL_SIZE: "1",
        ...(options.log === undefined ? {} : { FAULTS_LOG: options.log })
      })
    }
    this.process = spawn(process.execPath, [join(root, "tests/faults/runner.ts")], {
      stdio: ["pipe", "pipe", "pipe"],
      env: {
        NODE_COMPILE_CACHE: join(tmpdir(), "node-compile-cache"),
        ...process.env,
        NODE_OPTIONS: "",
        ...environment,
        ...options.environment
      }
    })
    this.process.stdin!.on("error", () => undefined)
    this.process.stderr!.on("data", (chunk: Buffer) => (this.#stderr += chunk.toString()))
    createInterface({ input: this.process.stdout! }).on("line", (line) => {
      this.#answers.push(JSON.parse(line) as Answer)
      this.#wake()
    })
    this.process.on("close", (code, signal) => {
      this.#ended = { code, signal }
      this.#wake()
    })
  }

  get stderr(): string {
    return this.#stderr
  }

  /** The next answer; undefined when the process has ended. */
  async #next(): Promise<Answer | undefined> {
    for (const end = Date.now() + this.#patience; ;) {
      if (this.#answers.length > 0) return this.#answers.shift()
      if (this.#ended !== undefined) return undefined
      if (Date.now() > end) throw new Error(`no answer within ${this.#patience / 1000} s: it hangs. ${this.#stderr}`)
      let timer: NodeJS.Timeout | undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        timer = setTimeout(resolve, this.#patience)
      })
      clearTimeout(timer)
    }
  }

  async ready(): Promise<void> {
    const answer = await this.#next()
    if (answer?.type !== "ready") throw new Error(`the runner did not start: ${this.#stderr}`)
  }

  /** Runs once, with a fault if one is given. */
  async run(request: Request, fault?: Fault, heard: (answer: Answer) => void = () => undefined): Promise<Outcome> {
    if (fault !== undefined) this.control!.arm(fault)
    this.process.stdin!.write(`${JSON.stringify(request)}\n`)
    const finished: Record<string, string> = {}
    const notes: Array<string> = []
    const started: Array<string> = []
    const steps: Array<number> = []
    for (;;) {
      const answer = await this.#next()
      if (answer !== undefined) heard(answer)
      if (answer?.type === "started") started.push(answer.node)
      else if (answer?.type === "finished") finished[answer.node] = answer.digest
      else if (answer?.type === "step") steps.push(answer.step)
      else if (answer?.type === "note") notes.push(answer.message)
      else if (answer?.type !== "ready") {
        const counts = this.control?.disarm() ?? { count: 0, fired: 0 }
        return { started, finished, notes, steps, end: answer ?? { type: "died", ...this.#ended! }, ...counts }
      }
    }
  }

  /** Resolves once the process is stopped, or `other` has resolved. */
  async stopped(other: Promise<unknown>): Promise<void> {
    const state = { over: false }
    void other.then(() => (state.over = true))
    const isStopped = () => /^State:\s+[Tt]/m.test(readFileSync(`/proc/${this.process.pid}/status`, "utf8"))
    while (!state.over && !isStopped()) await sleep(2)
  }

  async close(): Promise<void> {
    if (this.#ended === undefined) {
      const closed = new Promise((resolve) => this.process.once("close", resolve))
      this.process.kill("SIGKILL")
      await closed
    }
    if (this.control !== undefined) {
      this.control.close()
      rmSync(join(this.control.path, ".."), { recursive: true, force: true })
    }
  }
}

/** Calls `use` with a process that is ready, and ends the process. */
export const withRunner = async <A>(options: RunnerOptions, use: (runner: Runner) => Promise<A>): Promise<A> => {
  const runner = new Runner(options)
  try {
    await runner.ready()
    return await use(runner)
  } finally {
    await runner.close()
  }
}

/** A file system without real fsyncs: processes see no difference, and a sweep takes half the time. */
export const fast = existsSync("/dev/shm") ? "/dev/shm" : tmpdir()

/** A new folder outside the project, with words.txt in it. */
export const faultFolder = (base: string = fast): string => {
  const folder = mkdtempSync(join(base, "caravan-faults-"))
  writeFileSync(join(folder, "words.txt"), "alpha\nbeta\ngamma\n")
  return folder
}
export const remove = (folder: string): void => rmSync(folder, { recursive: true, force: true })

export const requestOf = (folder: string, home: string, settings: Readonly<Record<string, string>> = {}): Request => ({
  home,
  settings: { file: join(folder, "words.txt"), ...settings }
})

/** Node -> digest of a run that succeeded. */
export const digestsOf = (outcome: Outcome): Record<string, string | null> => {
  if (outcome.end.type !== "done" || outcome.end.status !== "succeeded")
    throw new Error(`the run did not succeed: ${JSON.stringify(outcome.end)}`)
  return Object.fromEntries(outcome.end.nodes.map(({ id, digest }) => [id, digest]))
}
export const statusesOf = (outcome: Outcome): Record<string, string> =>
  outcome.end.type === "done" ? Object.fromEntries(outcome.end.nodes.map(({ id, status }) => [id, status])) : {}
