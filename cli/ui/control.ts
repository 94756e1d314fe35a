/** What the page may do to runs, where `--allow-control` says so and the token is right: stop them, begin them again, pin results, write notes. */
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

/** Whether a process has this file open: so that no other process that has a run's number by now is told to end. */
const hasOpen = (pid: number, file: string): boolean => {
  const folder = `/proc/${pid}/fd`
  try {
    const path = realpathSync(file)
    return readdirSync(folder).some((name) => {
      try {
        return readlinkSync(join(folder, name)) === path
      } catch {
        // Closed meanwhile.
        return false
      }
    })
  } catch {
    return false
  }
}

/** Tells a run to end: it lets its stages save, keeps what is finished, and can be gone on from. */
export const stopRun = Effect.fnUntraced(function* (id: string) {
  const { home } = yield* Store
  const { run } = yield* runWithLine(id)
  const asked = askedOf(run)
  if (asked === undefined || (yield* statusOf(run)) !== "running")
    return yield* new Conflict({ message: "The run does not go on any more." })
  const { pid } = asked.process
  if (!hasOpen(pid, join(home, "leases", asked.holder)))
    return yield* new BadRequest({
      message: `The run's process (${pid}) can't be told from others here: it is of another machine or container, or of another user. Press Ctrl-C where it runs.`
    })
  yield* Effect.try({
    try: () => process.kill(pid, "SIGTERM"),
    catch: (cause) => new BadRequest({ message: `Telling the process ${pid} to end: ${messageOf(cause)}.` })
  })
  return { message: "It was told to end: stages save first." }
})

/** As in a clone, so in the package. */
const command = join(dirname(createRequire(import.meta.url).resolve("caravan/package.json")), "cli/caravan.js")
/** A command that can't start says so within this many milliseconds; Node and the pipeline have to be loaded first. */
const patience = 20_000
const mostSaid = 2000

/** Flags that choose nodes: those of a command line that is begun from a node make room. */
const choosing = ["--only", "--from", "--until"]
const withoutChoice = (words: ReadonlyArray<string>): ReadonlyArray<string> =>
  words.filter((word, i) => !choosing.includes(word) && !choosing.includes(words[i - 1] ?? ""))

/** The words of a command line, from a node on. */
export const wordsFrom = ({ words }: CommandLine, node: string | undefined): ReadonlyArray<string> => {
  if (node === undefined) return words
  const at = words.indexOf("--")
  return [...withoutChoice(words.slice(0, at)), `--from=${node}`, `--force=${node}`, ...words.slice(at)]
}

/** Begins a command line; waits until its run is in the journal, or until it says why it can't start. */
const begin = Effect.fnUntraced(function* (words: ReadonlyArray<string>, folder: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const known = new Set((yield* journal.runs({ limit: 20 })).map(({ id }) => id))
  if (!existsSync(folder)) return yield* new BadRequest({ message: `The folder that it was begun in, ${folder}, is gone.` })
  const child = spawn(process.execPath, [command, words[0]!, "--quiet", ...words.slice(1)], {
    cwd: folder,
    env: { ...process.env, CARAVAN_HOME: store.home },
    stdio: ["ignore", "ignore", "pipe"],
    // It outlives this server.
    detached: true
  })
  let [said, ended] = ["", undefined as number | null | undefined]
  child.stderr.on("data", (chunk: Buffer) => (said = `${said}${chunk.toString()}`.slice(-mostSaid)))
  child.on("exit", (code) => (ended = code))
  child.on("error", (cause) => ((said = cause.message), (ended = 1)))
  const began = performance.now()
  while (performance.now() - began < patience) {
    yield* Effect.sleep("100 millis")
    const begun = (yield* journal.runs({ limit: 20 })).find(({ id }) => !known.has(id))
    if (begun !== undefined) {
      // Its end of the pipe must not keep it from writing on, nor this server from ending.
      child.stderr.resume()
      child.unref()
      return { run: begun.id, message: "It goes on." }
    }
    if (ended !== undefined) return yield* new BadRequest({ message: `It could not begin: ${said.trim() || `it ended with ${ended}`}` })
  }
  child.unref()
  return { run: null, message: "It was begun, and its run is not in the journal yet." }
})

/** Begins a run again: what is finished is found. With a node, that one and what depends on it is made again. */
export const beginAgain = Effect.fnUntraced(function* (id: string, node: string | undefined) {
  const { graph, run } = yield* runWithLine(id)
  const again = askedOf(run)?.again
  if (again === undefined || again.words[0] !== "run")
    return yield* new BadRequest({
      message: "It was not begun by a command line: begin it as it was begun (a program, or an older version of caravan)."
    })
  if ((yield* statusOf(run)) === "running") return yield* new Conflict({ message: "The run goes on. Stop it first." })
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
  return { message: isPinned ? "gc keeps it until it is unpinned." : "It is not pinned any more." }
})

export const setNote = Effect.fnUntraced(function* (id: string, { note, tags }: RunNote) {
  const journal = yield* Journal
  yield* runWithLine(id)
  yield* journal.writeNote(id, { note: note.trim(), tags: [...new Set(tags.map((tag) => tag.trim()).filter((tag) => tag !== ""))] })
  return { message: "Written." }
})
