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
import { changedSince, touchedSince } from "../key/code-identity.ts"
import type { FromChild, ToChild } from "./child.ts"
import { type Execute, timedOut } from "./execute.ts"
import { gang } from "./gang.ts"
import type { Outcome } from "./run-stage.ts"

/** Time that an interrupted stage has to finish its step and save a checkpoint, in milliseconds. */
const saveTimeout = 120_000
/** Interval between checks of a child's memory, in milliseconds. */
const memoryInterval = 200

/** The longest delay of a Node timer (24.8 days), in milliseconds: Node treats longer delays as 1 ms. */
const longestDelay = 2 ** 31 - 1

/** Calls `body` after any number of milliseconds; returns a function that cancels it. */
export const after = (milliseconds: number, body: () => void): (() => void) => {
  let timer: NodeJS.Timeout
  const wait = (left: number) => {
    timer = setTimeout(() => (left > longestDelay ? wait(left - longestDelay) : body()), Math.min(left, longestDelay))
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

/** The last characters of a child's output are kept to explain a crash. */
const tailLength = 4000

/**
 * Children are kept for the next job, because starting one takes about a second. An interrupted or crashed child is not reused. All are killed when
 * the scope ends.
 */
export const processPool = (prepare: string | undefined): Effect.Effect<Execute, never, Scope.Scope> =>
  Effect.map(children(prepare), ({ run }) => run)

/** Like `processPool`, for one rank of a group whose other ranks run elsewhere. The environment says which rank this is (`rankVariables`). */
export const rankProcess = (prepare: string | undefined): Effect.Effect<Execute, never, Scope.Scope> =>
  Effect.map(children(prepare), ({ one }) => one)

const children = (prepare: string | undefined) =>
  Effect.acquireRelease(
    Effect.sync(() => childProcesses(prepare)),
    ({ close }) => Effect.sync(close)
  )

/**
 * Takes an idle child, if there is one. Memory left over from earlier stages counts against a stage's limit, so a stage with a limit only gets a child
 * that uses less than half of it.
 */
const takeIdle = (idle: Array<ChildProcess>, memory: number | undefined): ChildProcess | undefined => {
  if (memory === undefined) return idle.pop()
  const at = idle.findLastIndex(({ pid }) => (residentMemory(pid ?? -1) ?? 0) < memory / 2)
  return at === -1 ? undefined : idle.splice(at, 1)[0]
}

/** Where a stage's process comes from, and where it goes afterwards. */
interface Placing {
  readonly take: (stage: StageInfo, memory: number | undefined) => ChildProcess
  /** `loadedOther`: it loaded files that differ from those in the keys. */
  readonly giveBack: (stage: StageInfo, child: ChildProcess, loadedOther: boolean) => void
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
    // The channel is broken, so the child is unusable. The exit handler reports the error.
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
        let savesCheckpoints = false
        /** Whether the child loaded files that differ from those in the keys, although this stage does not depend on the difference. */
        let loadedOther = false
        let codeCheck = Promise.resolve()
        const onText = (text: string) => {
          if (text === "") return
          tail = (tail + text).slice(-tailLength)
          onOutput?.(text)
        }
        // One decoder per pipe: a character may be split between two chunks.
        const stopReading = [child.stdout, child.stderr].map((stream) => {
          const decoder = new StringDecoder("utf8")
          const output = (chunk: Buffer) => onText(decoder.write(chunk))
          stream?.on("data", output)
          return () => {
            stream?.off("data", output)
            onText(decoder.end())
          }
        })
        const killWith = (error: Effect.Effect<never, StageError>) => {
          if (finished) return
          child.kill("SIGKILL")
          finish(error, false)
        }
        const cancelTimeout = seconds === undefined ? undefined : after(seconds * 1000, () => killWith(timedOut(stage, seconds)))
        const memoryTimer =
          memory === undefined
            ? undefined
            : setInterval(() => {
                const found = residentMemory(child.pid ?? -1)
                if (found !== undefined && found > memory) killWith(tooLarge(stage, memory, found))
              }, memoryInterval)
        const stopListening = () => {
          cancelTimeout?.()
          clearInterval(memoryTimer)
          for (const stop of stopReading) stop()
          child.off("message", onMessage)
          child.off("exit", onExit)
          child.off("error", onError)
        }
        const finish = (result: Effect.Effect<Outcome, StageError>, reuse: boolean) => {
          stopListening()
          if (finished) return
          finished = true
          if (reuse) giveBack(stage, child, loadedOther)
          resume(result)
        }
        const onMessage = (message: FromChild) => {
          if (message.type === "progress") onProgress(message.progress)
          else if (message.type === "saves-checkpoints") savesCheckpoints = true
          else if (message.type === "loaded") codeCheck = checkCode()
          else if (message.type === "done") void codeCheck.then(() => finish(Effect.succeed(message.outcome), true))
          else if (message.type === "failed") void codeCheck.then(() => finish(Effect.fail(new StageError(message.error)), true))
          else if (message.type === "broken") killWith(Effect.fail(new StageError(message.error)))
        }
        // The child has loaded the files as they are now, which must be the code in the key.
        const checkCode = async () => {
          loadedOther = touchedSince(code).length > 0
          const files = await Effect.runPromise(changedSince(code, stage, cache))
          if (files.length === 0) return
          child.kill("SIGKILL")
          const message = `The code of stage ${stage.name} changed while the pipeline ran (${files.join(", ")}). Finished results are kept: run again to continue with the new code.`
          finish(Effect.fail(new StageError({ reason: "CodeChanged", message, isRetryable: false })), false)
        }
        const onExit = (code: number | null, signal: string | null) => {
          const how =
            signal === "SIGKILL"
              ? "was killed (out of memory?)"
              : signal !== null
                ? `was terminated by ${signal}`
                : `exited with code ${code}`
          const report = () => {
            clearTimeout(timer)
            const output = tail.trim() === "" ? "" : ` Its last output:\n${tail.trim()}`
            finish(
              Effect.fail(
                new StageError({ reason: "Crash", message: `The process of stage ${stage.name} ${how}.${output}`, isRetryable: true })
              ),
              false
            )
          }
          // Wait for output that is still in the pipes, but not forever: a grandchild may keep them open.
          const timer = setTimeout(report, 500)
          child.once("close", report)
        }
        const onError = (error: Error) => {
          if (child.pid === undefined)
            finish(
              Effect.fail(
                new StageError({
                  reason: "Crash",
                  message: `Starting a process for stage ${stage.name}: ${error.message}. Free memory or end other processes, then run again.`,
                  isRetryable: true
                })
              ),
              false
            )
        }
        child.on("message", onMessage)
        child.on("exit", onExit)
        child.on("error", onError)
        child.send({ job, prepare: stage.resources.tensors === true ? prepare : undefined } satisfies ToChild)
        // On interruption, a stage with checkpoints may save one before it ends.
        return Effect.callback<void>((ended) => {
          if (finished) return ended(Effect.void)
          finished = true
          stopListening()
          const kill = () => child.kill("SIGKILL")
          const timer = setTimeout(kill, saveTimeout)
          child.on("message", (message: FromChild) => {
            if (message.type === "done" || message.type === "failed" || message.type === "broken") kill()
          })
          const onEnd = () => {
            clearTimeout(timer)
            ended(Effect.void)
          }
          if (hasEnded(child) || child.pid === undefined) return onEnd()
          child.once("exit", onEnd)
          // The first rank's save involves all ranks, so the others run until it has exited.
          if (leader !== undefined && !hasEnded(leader)) leader.once("exit", kill)
          else if (savesCheckpoints && child.connected) child.send({ stop: true } satisfies ToChild)
          else kill()
        })
      })
  const idleFor = (stage: StageInfo) => (stage.resources.tensors === true ? idle.tensors : idle.light)
  const one = runIn({
    take: (stage, memory) => takeIdle(idleFor(stage), memory) ?? start(),
    giveBack: (stage, child, loadedOther) => {
      // Another stage of the same module may depend on the difference: a new process loads it and is checked.
      if (loadedOther) return void child.kill("SIGKILL")
      child.unref()
      idleFor(stage).push(child)
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
