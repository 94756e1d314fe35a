/** Child processes that run stages (child.ts): each receives one job at a time over the IPC channel. */
import { type ChildProcess, fork } from "node:child_process"
import { readFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { StringDecoder } from "node:string_decoder"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { StageInfo } from "../define/stage-info.ts"
import { StageError } from "../errors.ts"
import { changedSince } from "../key/code-identity.ts"
import type { FromChild, ToChild } from "./child.ts"
import { type Execute, timedOut } from "./execute.ts"
import { gang } from "./gang.ts"
import type { Outcome } from "./run-stage.ts"

/** How long a stage that was asked to stop may take to finish its step and save, in milliseconds. */
const savingTime = 120_000
/** Interval between checks of a child's memory, in milliseconds. */
const memoryInterval = 200

/** Node treats a longer time than this (24.8 days) as 1 ms. */
const longestTimer = 2 ** 31 - 1

/** Calls `body` after any number of milliseconds; returns a function that cancels it. */
export const after = (milliseconds: number, body: () => void): (() => void) => {
  let timer: NodeJS.Timeout
  const wait = (left: number) => {
    timer = setTimeout(() => (left > longestTimer ? wait(left - longestTimer) : body()), Math.min(left, longestTimer))
  }
  wait(milliseconds)
  return () => clearTimeout(timer)
}

/** Resident memory of a process in MiB; undefined if the process has ended or the system does not report it (only Linux does). */
const residentMemory = (pid: number): number | undefined => {
  try {
    const match = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))
    return match === null ? undefined : Number(match[1]) / 1024
  } catch {
    return undefined
  }
}

const tooLarge = (stage: StageInfo, limit: number, found: number): Effect.Effect<never, StageError> =>
  Effect.fail(
    new StageError({
      reason: "Memory",
      message: `The process of stage ${stage.name} used ${Math.ceil(found)} MiB of memory, more than its limit of ${limit} MiB, and was stopped. Increase the limit, or reduce the batch size.`,
      isRetryable: false
    })
  )

/** Number of bytes of a child's last output kept to explain a crash. */
const tailBytes = 4000

/**
 * Children are kept for the next job, because starting one takes about a second. An interrupted or crashed child is not reused. All are killed when
 * the scope ends.
 */
export const processPool = (prepare: string | undefined): Effect.Effect<Execute, never, Scope.Scope> =>
  Effect.map(children(prepare), ({ run }) => run)

/** The same for one rank of a group whose others are started elsewhere: its place is in this process's environment (`rankVariables`). */
export const rankProcess = (prepare: string | undefined): Effect.Effect<Execute, never, Scope.Scope> =>
  Effect.map(children(prepare), ({ one }) => one)

const children = (prepare: string | undefined) =>
  Effect.acquireRelease(
    Effect.sync(() => childProcesses(prepare)),
    ({ close }) => Effect.sync(close)
  )

/** An idle child. Memory left from earlier stages would count against a limit, so a stage with a limit uses a child below half of it, if there is one. */
const takeIdle = (idle: Array<ChildProcess>, memory: number | undefined): ChildProcess | undefined => {
  if (memory === undefined) return idle.pop()
  const at = idle.findLastIndex(({ pid }) => (residentMemory(pid ?? -1) ?? 0) < memory / 2)
  return at === -1 ? undefined : idle.splice(at, 1)[0]
}

/** Where a stage's process comes from, and where it goes afterwards. */
interface Placing {
  readonly take: (stage: StageInfo, memory: number | undefined) => ChildProcess
  readonly giveBack: (stage: StageInfo, child: ChildProcess) => void
  /** For a rank other than the first: the first rank's process. */
  readonly leader?: ChildProcess | undefined
}

/** Kills a process and waits until it has ended. */
const killed = (child: ChildProcess): Promise<void> =>
  new Promise((resolve) => {
    if (hasEnded(child) || child.pid === undefined) return resolve()
    child.once("exit", () => resolve())
    child.kill("SIGKILL")
  })

const hasEnded = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode !== null || signalCode !== null

const childProcesses = (prepare: string | undefined): { readonly run: Execute; readonly one: Execute; readonly close: () => void } => {
  // A child with the tensor engine uses more memory: a light stage with a memory limit does not run there.
  const idle = { tensors: [] as Array<ChildProcess>, light: [] as Array<ChildProcess> }
  const all = new Set<ChildProcess>()
  const start = (variables: Readonly<Record<string, string>> = {}): ChildProcess => {
    const entry = fileURLToPath(import.meta.resolve(import.meta.url.endsWith(".ts") ? "./child.ts" : "./child.js"))
    const child = fork(entry, [String(process.pid)], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      execArgv: [],
      // Passes numbers that JSON lacks (a NaN loss).
      serialization: "advanced",
      env: { NODE_COMPILE_CACHE: join(tmpdir(), "node-compile-cache"), ...process.env, ...variables }
    })
    all.add(child)
    // A broken channel: the child can't be used any more. Its exit reports the rest.
    child.on("error", () => child.kill("SIGKILL"))
    child.once("exit", () => {
      all.delete(child)
      for (const list of Object.values(idle)) {
        const at = list.indexOf(child)
        if (at !== -1) list.splice(at, 1)
      }
    })
    return child
  }
  /** Runs a stage in the child that `take` returns; afterwards the child goes to `giveBack`. */
  const runIn =
    ({ giveBack, leader, take }: Placing): Execute =>
    ({ stage, job, code, cache, limits, onProgress, onOutput }) =>
      Effect.callback<Outcome, StageError>((resume) => {
        const { memory, seconds } = limits ?? {}
        const child = take(stage, memory)
        child.ref()
        let tail = ""
        let finished = false
        let keeping = false
        let checked = Promise.resolve()
        const hear = (text: string) => {
          if (text === "") return
          tail = (tail + text).slice(-tailBytes)
          onOutput?.(text)
        }
        // One decoder per pipe: a character may be split between two chunks.
        const listening = [child.stdout, child.stderr].map((stream) => {
          const decoder = new StringDecoder("utf8")
          const output = (chunk: Buffer) => hear(decoder.write(chunk))
          stream?.on("data", output)
          return () => {
            stream?.off("data", output)
            hear(decoder.end())
          }
        })
        const giveUp = (error: Effect.Effect<never, StageError>) => {
          if (finished) return
          child.kill("SIGKILL")
          finish(error, false)
        }
        const callOff = seconds === undefined ? undefined : after(seconds * 1000, () => giveUp(timedOut(stage, seconds)))
        const watch =
          memory === undefined
            ? undefined
            : setInterval(() => {
                const found = residentMemory(child.pid ?? -1)
                if (found !== undefined && found > memory) giveUp(tooLarge(stage, memory, found))
              }, memoryInterval)
        const forget = () => {
          callOff?.()
          clearInterval(watch)
          for (const leave of listening) leave()
          child.off("message", heard)
          child.off("exit", exited)
          child.off("error", broken)
        }
        const finish = (result: Effect.Effect<Outcome, StageError>, reuse: boolean) => {
          forget()
          if (finished) return
          finished = true
          if (reuse) giveBack(stage, child)
          resume(result)
        }
        const heard = (message: FromChild) => {
          if (message.type === "progress") onProgress(message.progress)
          else if (message.type === "keeping") keeping = true
          else if (message.type === "loaded") checked = check()
          else if (message.type === "done") void checked.then(() => finish(Effect.succeed(message.outcome), true))
          else if (message.type === "failed") void checked.then(() => finish(Effect.fail(new StageError(message.error)), true))
          else if (message.type === "broken") giveUp(Effect.fail(new StageError(message.error)))
        }
        // The child has loaded the current content of the files.
        const check = async () => {
          const files = await Effect.runPromise(changedSince(code, stage, cache))
          if (files.length === 0) return
          child.kill("SIGKILL")
          const message = `The code of stage ${stage.name} changed while the pipeline ran (${files.join(", ")}). Finished results are kept: run again to continue with the new code.`
          finish(Effect.fail(new StageError({ reason: "CodeChanged", message, isRetryable: false })), false)
        }
        const exited = (code: number | null, signal: string | null) => {
          const how =
            signal === "SIGKILL"
              ? "was killed (out of memory?)"
              : signal !== null
                ? `was terminated by ${signal}`
                : `exited with code ${code}`
          // Its last output may still be in the pipes; a grandchild may keep them open forever.
          const tell = () => {
            clearTimeout(patience)
            const said = tail.trim() === "" ? "" : ` Its last output:\n${tail.trim()}`
            finish(
              Effect.fail(
                new StageError({ reason: "Crash", message: `The process of stage ${stage.name} ${how}.${said}`, isRetryable: true })
              ),
              false
            )
          }
          const patience = setTimeout(tell, 500)
          child.once("close", tell)
        }
        const broken = (error: Error) => {
          if (child.pid === undefined)
            finish(
              Effect.fail(
                new StageError({
                  reason: "Crash",
                  message: `Starting a process for stage ${stage.name}: ${error.message}.`,
                  isRetryable: true
                })
              ),
              false
            )
        }
        child.on("message", heard)
        child.on("exit", exited)
        child.on("error", broken)
        child.send({ job, prepare: stage.resources.tensors === true ? prepare : undefined } satisfies ToChild)
        // Interrupted: a stage with checkpoints may save one before it ends.
        return Effect.callback<void>((ended) => {
          if (finished) return ended(Effect.void)
          finished = true
          forget()
          const kill = () => child.kill("SIGKILL")
          const patience = setTimeout(kill, savingTime)
          child.on("message", (message: FromChild) => {
            if (message.type === "done" || message.type === "failed" || message.type === "broken") kill()
          })
          const gone = () => {
            clearTimeout(patience)
            ended(Effect.void)
          }
          if (hasEnded(child) || child.pid === undefined) return gone()
          child.once("exit", gone)
          // It takes part when its leader saves.
          if (leader !== undefined && !hasEnded(leader)) leader.once("exit", kill)
          else if (keeping && child.connected) child.send({ stop: true } satisfies ToChild)
          else kill()
        })
      })
  const waiting = (stage: StageInfo) => (stage.resources.tensors === true ? idle.tensors : idle.light)
  const one = runIn({
    take: (stage, memory) => takeIdle(waiting(stage), memory) ?? start(),
    giveBack: (stage, child) => {
      child.unref()
      waiting(stage).push(child)
    }
  })
  const several = gang<ChildProcess>((variables, leader) => {
    const process = start(variables)
    return { process, execute: runIn({ take: () => process, giveBack: () => undefined, leader }), kill: () => killed(process) }
  })
  return {
    run: (work) => (work.job.ranks === undefined ? one(work) : several(work)),
    one,
    close: () => {
      for (const child of all) child.kill("SIGKILL")
    }
  }
}
