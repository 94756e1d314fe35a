/** Shared results in a folder, accessed through a separate process (folder-process.ts) with a deadline per call. */
import { type ChildProcess, fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import { type SharedFiles, SharedError } from "./files.ts"
import type { Answer, Call } from "./folder-process.ts"

type Without<C> = C extends Call ? Omit<C, "id"> : never

/** `seconds`: how long a call may take without progress. */
export const sharedFolder = (
  folder: string,
  { isReadOnly, seconds }: { readonly isReadOnly: boolean; readonly seconds: number }
): SharedFiles => {
  let child: ChildProcess | undefined
  let last = 0
  let isClosed = false
  const waiting = new Map<number, { readonly heard: (answer: Answer) => void; readonly lost: () => void }>()
  const start = (): ChildProcess => {
    const entry = fileURLToPath(import.meta.resolve(import.meta.url.endsWith(".ts") ? "./folder-process.ts" : "./folder-process.js"))
    const started = fork(entry, [folder, isReadOnly ? "read-only" : "read-write"], {
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      execArgv: [],
      serialization: "advanced"
    })
    started.on("message", (answer: Answer) => waiting.get(answer.id)?.heard(answer))
    const lost = () => {
      if (child === started) child = undefined
      for (const { lost } of waiting.values()) lost()
    }
    started.once("exit", lost)
    started.once("error", lost)
    // It does not keep the run alive, except while a call is pending.
    started.unref()
    started.channel?.unref()
    return started
  }
  const call = (given: Without<Call>): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (isClosed) return reject(new SharedError("refused", "it is closed"))
      const id = ++last
      const process = (child ??= start())
      let timer: NodeJS.Timeout
      const done = (body: () => void) => {
        clearTimeout(timer)
        waiting.delete(id)
        if (waiting.size === 0) process.channel?.unref()
        body()
      }
      const late = () =>
        done(() => {
          // It may hang forever: do not wait for it.
          process.kill("SIGKILL")
          if (child === process) child = undefined
          reject(new SharedError("slow", `no answer within ${seconds} s`))
        })
      const wait = () => {
        timer = setTimeout(late, seconds * 1000)
      }
      wait()
      process.channel?.ref()
      waiting.set(id, {
        lost: () => done(() => reject(new SharedError("refused", "the process that reads it ended"))),
        heard: (answer) => {
          if ("moving" in answer) {
            clearTimeout(timer)
            return wait()
          }
          done(() => ("trouble" in answer ? reject(new SharedError(answer.trouble, answer.message)) : resolve(answer.value)))
        }
      })
      process.send({ ...given, id })
    })
  return {
    where: folder,
    isReadOnly,
    begin: () => call({ does: "begin" }) as Promise<void>,
    entry: (name) => call({ does: "entry", name }) as Promise<Uint8Array | undefined>,
    putEntry: (name, bytes) => call({ does: "putEntry", name, bytes }) as Promise<void>,
    has: (name) => call({ does: "has", name }) as Promise<number | undefined>,
    fetch: (name, path, size) => call({ does: "fetch", name, path, size }) as Promise<boolean>,
    send: (name, path) => call({ does: "send", name, path }) as Promise<void>,
    close: () => {
      isClosed = true
      child?.kill("SIGKILL")
      child?.disconnect?.()
    }
  }
}
