/**
 * Garbage collection: selects objects that can be deleted, and deletes them while runs continue. Never deletes objects that are pinned, held by a
 * living run (leases.ts), or used within the keep window. Traces remain after their objects are deleted: the journal still records what made them,
 * and a run that needs one recomputes it.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs"
import { readdir, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type { StoreError } from "../errors.ts"
import { statusOf } from "./asked.ts"
import { Journal } from "./journal.ts"
import { type FoundObject, sizeOf } from "./objects.ts"
import { shardFiles } from "./shards.ts"
import { Store } from "./store.ts"

export interface GcPolicy {
  /** Objects that no run made or used for this many milliseconds. */
  readonly olderThan?: number | undefined
  /** The least recently used objects, until the rest has at most this many bytes. */
  readonly maxSize?: number | undefined
  /** Objects without a trace: left by --force or killed runs. The default if nothing else is requested. */
  readonly unreachable?: boolean | undefined
  /** Objects used within this many milliseconds are kept. */
  readonly keep: number
}

export interface StoredItem extends FoundObject {
  /** When a run last made or used it, in milliseconds since 1970; otherwise when it was stored. */
  readonly used: number
  /** The last node with it as its result; null if the journal does not know. */
  readonly node: string | null
  readonly pipeline: string | null
  readonly pinned: boolean
  /** Whether a trace names it. */
  readonly reachable: boolean
  /** The run that currently needs it; null if none does. */
  readonly held: string | null
}

/**
 * Something other than objects that can be deleted: quarantined objects, folders of killed runs, an interrupted gc's trash; and, as old as the
 * requested objects: logs, checkpoints and Slurm jobs of unfinished nodes, and shard results of mapped stages.
 */
interface Leftover {
  readonly what: "quarantine" | "tmp" | "trash" | "log" | "checkpoint" | "job" | "shards"
  readonly path: string
  readonly size: number
}

export interface GcPlan {
  readonly objects: ReadonlyArray<StoredItem & { readonly why: "unreachable" | "old" | "beyond the size" }>
  readonly leftovers: ReadonlyArray<Leftover>
  readonly kept: { readonly objects: number; readonly size: number }
  /** Bytes above the requested size that can't be deleted: pinned, in use or used recently. */
  readonly over: number
}

/** All objects with the journal's information about them. */
export const storedItems: Effect.Effect<Array<StoredItem>, StoreError, Store | Journal> = Effect.gen(function* () {
  const [store, journal] = [yield* Store, yield* Journal]
  const objects = yield* store.objects
  const [uses, traced, nodes] = [yield* journal.lastUses(), yield* journal.tracedDigests(), yield* journal.nodesOf()]
  const pins = new Set((yield* store.pins).map((pin) => pin.digest))
  const leased = yield* store.leased
  /** A sidecar counts as used, pinned and held together with its results. */
  const results = new Map<string, Array<string>>()
  for (const { sidecar, result } of yield* journal.sidecars()) results.set(sidecar, [...(results.get(sidecar) ?? []), result])
  return objects.map((object) => {
    const digests = results.get(object.digest) ?? [object.digest]
    const known = digests.map((digest) => nodes.get(digest)).find((node) => node !== undefined)
    return {
      ...object,
      used: Math.max(object.made, ...digests.map((digest) => uses.get(digest) ?? 0)),
      node: known?.node ?? null,
      pipeline: known?.pipeline ?? null,
      pinned: digests.some((digest) => pins.has(digest)),
      reachable: digests.some((digest) => traced.has(digest)),
      held: digests.map((digest) => leased.get(digest)).find((by) => by !== undefined) ?? null
    }
  })
})

/** What a collection with this policy would delete. Deletes nothing. */
export const planGc = (policy: GcPolicy, now: number = Date.now()): Effect.Effect<GcPlan, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const unreachable = policy.unreachable ?? (policy.olderThan === undefined && policy.maxSize === undefined)
    const items = yield* storedItems
    const taken = new Map<string, GcPlan["objects"][number]>()
    const free = items.filter((item) => !item.pinned && item.held === null && now - item.used >= policy.keep)
    for (const item of free) {
      if (unreachable && !item.reachable) taken.set(item.digest, { ...item, why: "unreachable" })
      else if (policy.olderThan !== undefined && now - item.used >= policy.olderThan) taken.set(item.digest, { ...item, why: "old" })
    }
    const total = items.reduce((sum, item) => sum + item.size, 0)
    let left = total - [...taken.values()].reduce((sum, item) => sum + item.size, 0)
    if (policy.maxSize !== undefined) {
      const oldest = free.filter((item) => !taken.has(item.digest)).sort((a, b) => a.used - b.used || (a.digest < b.digest ? -1 : 1))
      for (const item of oldest) {
        if (left <= policy.maxSize) break
        taken.set(item.digest, { ...item, why: "beyond the size" })
        left -= item.size
      }
    }
    return {
      objects: [...taken.values()].sort((a, b) => b.size - a.size || (a.digest < b.digest ? -1 : 1)),
      leftovers: yield* leftovers(policy, now),
      kept: { objects: items.length - taken.size, size: left },
      over: Math.max(0, left - (policy.maxSize ?? Infinity))
    }
  })

const leftovers = (policy: GcPolicy, now: number): Effect.Effect<Array<Leftover>, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const [store, journal] = [yield* Store, yield* Journal]
    const found: Array<Leftover> = []
    const add = (what: Leftover["what"], path: string, files: ReadonlyArray<string> = [path]) =>
      Effect.map(sizesOf(files), (size) => found.push({ what, path, size }))
    const list = (folder: string) => inside(join(store.home, folder))
    for (const path of yield* list("quarantine")) {
      const made = yield* statOf(path)
      if (made !== undefined && now - Math.floor(made.ctimeMs) >= policy.keep) yield* add("quarantine", path)
    }
    for (const path of yield* store.abandoned) yield* add("tmp", path)
    const window = policy.olderThan === undefined ? Infinity : Math.max(policy.olderThan, policy.keep)
    const making = yield* store.claimed
    for (const path of yield* list("checkpoints")) {
      const key = nodeKeyOf(path)
      // Useless once the node has its result; the run was killed while removing them.
      const trace = yield* journal.trace(key)
      const least = trace !== undefined && (yield* store.present(trace.digest)) ? policy.keep : window
      if (!making.has(key) && now - (yield* lastWritten([path, ...(yield* inside(path))])) >= least) yield* add("checkpoint", path)
    }
    for (const path of yield* list("jobs"))
      // A job that still runs without its driver keeps writing.
      if (!making.has(nodeKeyOf(path)) && now - (yield* lastWritten([path, ...(yield* insideTwice(path))])) >= window)
        yield* add("job", path)
    for (const path of yield* list("shards"))
      if (path.endsWith(".db") && now - (yield* lastWritten(shardFiles(path))) >= window) yield* add("shards", path, shardFiles(path))
    for (const path of yield* list("trash")) yield* add("trash", path)
    if (policy.olderThan !== undefined) {
      const runs = new Map((yield* journal.runs()).map((run) => [run.id, run]))
      for (const path of yield* list("logs")) {
        const run = runs.get(keyOf(path))
        // A running run may have started months ago and still write.
        if (run !== undefined && (yield* statusOf(run)) === "running") continue
        const ended = typeof run?.finished === "number" ? run.finished : yield* lastWritten([path, ...(yield* inside(path))])
        if (now - ended >= window) yield* add("log", path)
      }
    }
    return found
  })

const remove = (path: string) => Effect.promise(() => rm(path, { recursive: true, force: true }).catch(() => undefined))
const statOf = (path: string) => Effect.promise(() => stat(path).catch(() => undefined))
const inside = (folder: string) => Effect.promise(async () => (await readdir(folder).catch(() => [])).map((name) => join(folder, name)))
const insideTwice = (folder: string) =>
  Effect.flatMap(inside(folder), (paths) => Effect.map(Effect.forEach(paths, inside), (below) => [...paths, ...below.flat()]))
const sizesOf = (paths: ReadonlyArray<string>) =>
  Effect.promise(async () => (await Promise.all(paths.map(sizeOf))).reduce((a, b) => a + b, 0))
/** The latest modification time of these, in whole milliseconds like Date.now(); 0 if none exists. */
const lastWritten = (paths: ReadonlyArray<string>) =>
  Effect.map(Effect.forEach(paths, statOf), (times) => Math.max(...times.map((found) => Math.floor(found?.mtimeMs ?? 0))))

/** The last part of a path: the run with these logs. */
const keyOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1)
/** The key of the node with these checkpoints or this job; workers that share its shards add their number (cluster/deal-out.ts). */
const nodeKeyOf = (path: string): string => keyOf(path).replace(/\.\d+$/, "")

export interface GcResult {
  readonly objects: number
  readonly size: number
  /** Objects that were planned for deletion but stayed: pinned, found or used in the meantime. */
  readonly stayed: ReadonlyArray<{ readonly digest: string; readonly why: string }>
}

/** Deletes the planned objects, except those used since. */
export const gc = (plan: GcPlan): Effect.Effect<GcResult, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const [store, journal] = [yield* Store, yield* Journal]
    const planned = new Map(plan.objects.map((item) => [item.digest, item]))
    // On a full disk the next steps may need space: first delete what needs none.
    yield* store.emptyTrash
    for (const { what, path } of plan.leftovers) if (what === "tmp" || what === "quarantine" || what === "log") yield* remove(path)
    const stayed = yield* store.moveToTrash([...planned.keys()], (digest) =>
      // A run that ended after planning recorded its uses before releasing its leases.
      (journal.lastUseUnsafe(digest) ?? 0) > planned.get(digest)!.used ? "used by a run since" : undefined
    )
    const busy = yield* discard(plan.leftovers)
    yield* store.emptyTrash
    const leftovers = plan.leftovers.filter((leftover) => !busy.includes(leftover))
    const gone = plan.objects.filter((item) => !stayed.has(item.digest))
    return {
      objects: gone.length,
      size: [...gone, ...leftovers].reduce((sum, { size }) => sum + size, 0),
      stayed: [...stayed].map(([digest, why]) => ({ digest, why }))
    }
  })

/** Moves checkpoints and shards to the trash unless their key is being computed; returns those that stayed. */
const discard = (leftovers: ReadonlyArray<Leftover>): Effect.Effect<ReadonlyArray<Leftover>, StoreError, Store> =>
  Store.use((store) => {
    const trash = join(store.home, "trash")
    const move = (path: string) => {
      if (!existsSync(path)) return
      try {
        renameSync(path, join(trash, `${keyOf(path)}-${Date.now()}-${process.pid}`))
      } catch (cause) {
        // If the store's data is on a shared file system, so is its trash (cluster/home.ts); shards are local to the driver.
        if ((cause as NodeJS.ErrnoException).code !== "EXDEV") throw cause
        rmSync(path, { recursive: true, force: true })
      }
    }
    return store.withClaimsLocked((making) => {
      mkdirSync(trash, { recursive: true })
      return leftovers.filter((leftover) => {
        const isOfKey = leftover.what === "checkpoint" || leftover.what === "job"
        if (isOfKey && making.has(nodeKeyOf(leftover.path))) return true
        if (isOfKey) move(leftover.path)
        if (leftover.what === "shards") for (const path of shardFiles(leftover.path)) move(path)
        return false
      })
    })
  })
