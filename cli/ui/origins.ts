/** An artifact's origin and uses, as in `caravan lineage`; and whether a run matches its lock file. */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import { messageOf } from "../../runtime/errors.ts"
import { ancestry, descent, type LineageEntry, makings, type Named, resolveArtifact } from "../../runtime/inspect/lineage.ts"
import { lockPath, readLock } from "../../runtime/run/lock-file.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Lineage, type LockState, NotFound } from "./api.ts"
import { plainRow } from "./rows.ts"
import { recordedOf, runWithLine } from "./runs.ts"

/** Maximum number of entries in a tree; `caravan lineage` shows all. */
const maxEntries = 2000

const named = ({ digest, kind, name, type }: Named) => ({ kind, digest, type, name })
const flat = (entries: ReadonlyArray<LineageEntry>): Array<Lineage["from"][number]> =>
  entries.flatMap((entry) => [
    { ...named(entry), depth: entry.depth, port: entry.port, isRepeated: entry.next === undefined },
    ...flat(entry.next ?? [])
  ])

export const lineageOf = Effect.fnUntraced(function* (digest: string) {
  const store = yield* Store
  const known = yield* Effect.mapError(resolveArtifact(digest), (error) => new NotFound({ message: messageOf(error) }))
  const made = yield* makings(digest)
  return {
    artifact: named(known),
    isThere: yield* store.present(digest),
    made: made.slice(-20).map(({ at, config, files, milliseconds, node, pipeline, run, stage }) => ({
      ...{ at, milliseconds, node, pipeline, run, stage },
      config: plainRow(config) as Record<string, unknown>,
      code: Object.keys(files).filter((name) => !name.includes("node_modules/"))
    })),
    from: flat(yield* ancestry(known)).slice(0, maxEntries),
    into: flat(yield* descent(known)).slice(0, maxEntries)
  } satisfies Lineage
})

const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

/** Compares what a run recorded with the lock file next to its pipeline. Does not check the current code and inputs: `caravan run --locked` does. */
export const lockState = Effect.fnUntraced(function* (id: string) {
  const journal = yield* Journal
  const { run } = yield* runWithLine(id)
  const again = askedOf(run)?.again
  const file = again?.words[again.words.indexOf("--") + 1]
  if (again === undefined || file === undefined)
    return {
      state: "none",
      path: "",
      message: "The run was not started by a command, so its pipeline file is unknown.",
      differences: []
    } satisfies LockState
  const at = again.words.indexOf("--lock")
  const path =
    at !== -1 && at < again.words.indexOf("--") ? resolve(again.folder, again.words[at + 1]!) : lockPath(resolve(again.folder, file))
  if (!existsSync(path))
    return { state: "none", path, message: "There is no lock file. `caravan freeze` writes one.", differences: [] } satisfies LockState
  const read = yield* Effect.result(readLock(path))
  if (read._tag === "Failure") return { state: "unreadable", path, message: messageOf(read.failure), differences: [] } satisfies LockState
  const lock = read.success
  const executions = new Map((yield* journal.executionsOf(id)).map((execution) => [execution.node, execution]))
  const recorded = yield* journal.read((tables) => recordedOf(run, tables))
  const wires = new Map(recorded?.nodes.map((node) => [node.id, node.inputs]))
  const differences: Array<LockState["differences"][number]> = []
  const add = (node: string, what: string, before: unknown, after: unknown) => {
    if (!isSame(before, after)) differences.push({ node, what, before: plainRow(before ?? null), after: plainRow(after ?? null) })
  }
  const names = new Set([
    ...Object.keys(lock.nodes),
    ...(recorded?.nodes.flatMap(({ id: node, stage }) => (stage === null ? [] : [node])) ?? executions.keys())
  ])
  for (const name of names) {
    const frozen = own(lock.nodes, name)
    const execution = executions.get(name)
    if (frozen === undefined) add(name, "node", null, "only in this run")
    else if (execution === undefined || execution.key === "") {
      if (recorded !== undefined && !wires.has(name)) add(name, "node", "only in the lock file", null)
    } else {
      add(name, "stage", frozen.stage, execution.stage)
      for (const field of new Set([...Object.keys(frozen.config), ...Object.keys(execution.parts.config)]))
        add(name, `config ${field}`, own(frozen.config, field), own(execution.parts.config, field))
      add(name, "seed", frozen.seed, execution.parts.seed)
      add(name, "code", frozen.code, execution.parts.code)
      if (wires.has(name)) add(name, "inputs", frozen.inputs, wires.get(name))
      if (frozen.result !== null && execution.digest !== null) add(name, "result", frozen.result, execution.digest)
    }
  }
  const message = differences.length === 0 ? "The run matches the lock file." : "The run does not match the lock file."
  return { state: differences.length === 0 ? "same" : "differs", path, message, differences } satisfies LockState
})
