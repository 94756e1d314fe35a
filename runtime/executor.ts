/** Executors: in this process for stages that move data, in pooled child processes for stages that compute with tensors. */
import { type ChildProcess, fork } from "node:child_process"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import type { FromChild, ToChild } from "./child.ts"
import { StageError } from "./errors.ts"
import { type Job, runStage } from "./run-stage.ts"
import type { Progress, StageInfo } from "./stage.ts"

export interface Executor {
  /** `changedCode` gives the files of the stage's code that are no longer what its key says. */
  readonly run: (
    stage: StageInfo,
    job: Job,
    progress: (progress: Progress) => void,
    changedCode: Effect.Effect<ReadonlyArray<string>>,
    /** What a child prints, as it comes. */
    printed?: (text: string) => void
  ) => Effect.Effect<Readonly<Record<string, number>>, StageError>
  readonly close: () => void
}

export const inProcess: Executor = { run: runStage, close: () => undefined }

/** How much of a child's last output is kept to explain a crash. */
const tailBytes = 4000

/** Children are kept for the next job: starting one costs about a second. An interrupted or crashed one is not used again. */
export const processPool = (): Executor => {
  const idle: Array<ChildProcess> = []
  const all = new Set<ChildProcess>()
  const start = (): ChildProcess => {
    const entry = fileURLToPath(import.meta.resolve(import.meta.url.endsWith(".ts") ? "./child.ts" : "./child.js"))
    const child = fork(entry, [String(process.pid)], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      execArgv: [],
      // Numbers that JSON does not know (a loss that is NaN) come through.
      serialization: "advanced",
      env: { NODE_COMPILE_CACHE: join(tmpdir(), "node-compile-cache"), ...process.env }
    })
    all.add(child)
    // A broken channel: the child is of no more use. Its exit says the rest.
    child.on("error", () => child.kill("SIGKILL"))
    child.once("exit", () => {
      all.delete(child)
      const at = idle.indexOf(child)
      if (at !== -1) idle.splice(at, 1)
    })
    return child
  }
  return {
    run: (stage, job, progress, changedCode, printed) =>
      Effect.callback<Readonly<Record<string, number>>, StageError>((resume) => {
        const child = idle.pop() ?? start()
        child.ref()
        let tail = ""
        let finished = false
        let checked = Promise.resolve()
        const output = (chunk: Buffer) => {
          const text = chunk.toString("utf8")
          tail = (tail + text).slice(-tailBytes)
          printed?.(text)
        }
        const forget = () => {
          child.stdout?.off("data", output)
          child.stderr?.off("data", output)
          child.off("message", heard)
          child.off("exit", exited)
          child.off("error", broken)
        }
        const finish = (result: Effect.Effect<Readonly<Record<string, number>>, StageError>, reuse: boolean) => {
          forget()
          if (finished) return
          finished = true
          if (reuse) {
            child.unref()
            idle.push(child)
          }
          resume(result)
        }
        const heard = (message: FromChild) => {
          if (message.type === "progress") progress(message.progress)
          else if (message.type === "loaded") checked = check()
          else if (message.type === "done") void checked.then(() => finish(Effect.succeed(message.metrics), true))
          else if (message.type === "failed")
            void checked.then(() => finish(Effect.fail(new StageError({ reason: message.reason, message: message.message })), true))
        }
        // What the child has loaded is what the files hold now.
        const check = async () => {
          const files = await Effect.runPromise(changedCode)
          if (files.length === 0) return
          child.kill("SIGKILL")
          const message = `The code of stage ${stage.name} changed while the pipeline ran (${files.join(", ")}). What is finished is kept: run again to go on with the new code.`
          finish(Effect.fail(new StageError({ reason: "CodeChanged", message })), false)
        }
        const exited = (code: number | null, signal: string | null) => {
          const how =
            signal === "SIGKILL" ? "was killed (out of memory?)" : signal !== null ? `was ended by ${signal}` : `ended with code ${code}`
          // What it wrote last may still be in the pipes; a grandchild may hold them open for good.
          const tell = () => {
            clearTimeout(patience)
            const said = tail.trim() === "" ? "" : ` Its last words:\n${tail.trim()}`
            finish(Effect.fail(new StageError({ reason: "Crash", message: `The process of stage ${stage.name} ${how}.${said}` })), false)
          }
          const patience = setTimeout(tell, 500)
          child.once("close", tell)
        }
        const broken = (error: Error) => {
          if (child.pid === undefined)
            finish(
              Effect.fail(new StageError({ reason: "Crash", message: `Starting a process for stage ${stage.name}: ${error.message}.` })),
              false
            )
        }
        child.stdout?.on("data", output)
        child.stderr?.on("data", output)
        child.on("message", heard)
        child.on("exit", exited)
        child.on("error", broken)
        child.send({ job } satisfies ToChild)
        return Effect.sync(() => {
          finished = true
          forget()
          child.kill("SIGKILL")
        })
      }),
    close: () => {
      for (const child of all) child.kill("SIGKILL")
    }
  }
}
