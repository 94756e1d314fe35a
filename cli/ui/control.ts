/** Actions of the page, allowed with `--allow-control` and the right token: stop and resume runs, pin results, write notes. */
import { spawn } from "node:child_process"
import { existsSync, readdirSync, readlinkSync, realpathSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import { messageOf } from "../../runtime/errors.ts"
import { askedOf, type CommandLine, statusOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import type { RunNote } from "../../runtime/store/notes.ts"
import { Store } from "../../runtime/store/store.ts"
import { BadRequest, Conflict } from "./api.ts"
import { placeOf } from "./rows.ts"
import { runWithLine } from "./runs.ts"

/** Whether a process has this file open: never signals another process that reuses the run's process id. */
const hasOpen = (pid: number, file: string): boolean => {
  const folder = `/proc/${pid}/fd`
  try {
    const path = realpathSync(file)
    return readdirSync(folder).some((name) => {
      try {
        return readlinkSync(join(folder, name)) === path
      } catch {
        // Closed in the meantime.
        return false
      }
    })
  } catch {
    return false
  }
}

/** Asks a run to stop: its stages save checkpoints, finished results are kept, and the run can be resumed. */
export const stopRun = Effect.fnUntraced(function* (id: string) {
  const { home } = yield* Store
  const { run } = yield* runWithLine(id)
  const asked = askedOf(run)
  if (asked === undefined || (yield* statusOf(run)) !== "running") return yield* new Conflict({ message: "The run has already ended." })
  const { pid } = asked.process
  if (!hasOpen(pid, join(home, "leases", asked.holder)))
    return yield* new BadRequest({
      message: `The run's process (${pid}) can't be identified from here: it belongs to another machine, container or user. Press Ctrl-C where it runs.`
    })
  yield* Effect.try({
    try: () => process.kill(pid, "SIGTERM"),
    catch: (cause) => new BadRequest({ message: `Stopping the process ${pid}: ${messageOf(cause)}.` })
  })
  return { message: "Stopping: stages save checkpoints first." }
})

/** The same path in a clone and in the package. */
const command = join(dirname(createRequire(import.meta.url).resolve("caravan/package.json")), "cli/caravan.js")
/** A command that can't start reports it within this many milliseconds; Node and the pipeline have to load first. */
const patience = 20_000
const maxOutput = 2000

/** Flags that select nodes: removed when a command line is rerun from a node. */
const choosing = ["--only", "--from", "--until"]
const withoutChoice = (words: ReadonlyArray<string>): ReadonlyArray<string> =>
  words.filter((word, i) => !choosing.includes(word) && !choosing.includes(words[i - 1] ?? ""))

/** A command line's arguments, restricted to a node and its dependents. */
export const wordsFrom = ({ words }: CommandLine, node: string | undefined): ReadonlyArray<string> => {
  if (node === undefined) return words
  const at = words.indexOf("--")
  return [...withoutChoice(words.slice(0, at)), `--from=${node}`, `--force=${node}`, ...words.slice(at)]
}

/** Starts a command line; waits until its run appears in the journal or the command reports why it can't start. */
const begin = Effect.fnUntraced(function* (words: ReadonlyArray<string>, folder: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const known = new Set((yield* journal.runs({ limit: 20 })).map(({ id }) => id))
  if (!existsSync(folder)) return yield* new BadRequest({ message: `The folder in which it was started, ${folder}, no longer exists.` })
  const child = spawn(process.execPath, [command, words[0]!, "--quiet", ...words.slice(1)], {
    cwd: folder,
    env: { ...process.env, CARAVAN_HOME: store.home },
    stdio: ["ignore", "ignore", "pipe"],
    // It outlives this server.
    detached: true
  })
  let [said, ended] = ["", undefined as number | null | undefined]
  child.stderr.on("data", (chunk: Buffer) => (said = `${said}${chunk.toString()}`.slice(-maxOutput)))
  child.on("exit", (code) => (ended = code))
  child.on("error", (cause) => ((said = cause.message), (ended = 1)))
  const began = performance.now()
  while (performance.now() - began < patience) {
    yield* Effect.sleep("100 millis")
    const begun = (yield* journal.runs({ limit: 20 })).find(({ id }) => !known.has(id))
    if (begun !== undefined) {
      // The pipe must neither block the process nor keep this server from exiting.
      child.stderr.resume()
      child.unref()
      return { run: begun.id, message: "Started." }
    }
    if (ended !== undefined) return yield* new BadRequest({ message: `It could not start: ${said.trim() || `it ended with ${ended}`}` })
  }
  child.unref()
  return { run: null, message: "Started; its run is not in the journal yet." }
})

/** Runs the same command again: finished results are reused. With a node, reruns that node and its dependents. */
export const beginAgain = Effect.fnUntraced(function* (id: string, node: string | undefined) {
  const { graph, run } = yield* runWithLine(id)
  const again = askedOf(run)?.again
  if (again === undefined || again.words[0] !== "run")
    return yield* new BadRequest({
      message:
        "It was not started by a command, so it can't be resumed here: start it as before (from a program, or an older version of caravan)."
    })
  if ((yield* statusOf(run)) === "running") return yield* new Conflict({ message: "The run is still running. Stop it first." })
  if (node !== undefined && !graph.some(({ id: name, stage }) => name === node && stage !== null))
    return yield* new BadRequest({ message: `The run has no node "${node}".` })
  return yield* begin(wordsFrom(again, node), again.folder)
})

export const setPin = Effect.fnUntraced(function* (digest: string, isPinned: boolean, note: string) {
  const store = yield* Store
  if (isPinned) {
    yield* placeOf(digest)
    yield* store.pin(digest, note)
  } else yield* store.unpin(digest)
  return { message: isPinned ? "Pinned: gc keeps it until you unpin it." : "Unpinned." }
})

export const setNote = Effect.fnUntraced(function* (id: string, { note, tags }: RunNote) {
  const journal = yield* Journal
  yield* runWithLine(id)
  yield* journal.writeNote(id, { note: note.trim(), tags: [...new Set(tags.map((tag) => tag.trim()).filter((tag) => tag !== ""))] })
  return { message: "Saved." }
})
