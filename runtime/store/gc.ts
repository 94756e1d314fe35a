/**
 * Garbage collection: which objects of the store can go, and deleting them beside whatever runs. It never takes what is pinned, what a living run
 * has found or made (leases.ts), or what was used within the keep window. Traces stay when their objects go: the journal still says what made
 * them, and a run that wants one makes it again.
 */
import { existsSync, mkdirSync, renameSync } from "node:fs"
import { readdir, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type { StoreError } from "../errors.ts"
import { whileNobodyBegins } from "./flights.ts"
import { statusOf } from "../inspect/history.ts"
import type { Journal } from "./journal.ts"
import { shardFiles } from "./shards.ts"
import { type FoundObject, sizeOf, type Store } from "./store.ts"

export interface CollectPolicy {
  /** Objects that no run made or found for so long, in milliseconds. */
  readonly olderThan?: number | undefined
  /** The least recently used until the rest has at most so many bytes. */
  readonly maxSize?: number | undefined
  /** Objects that no trace names: what a forced or killed run left. True when nothing else is asked for. */
  readonly unreachable?: boolean | undefined
  /** Whatever was used so recently stays, in milliseconds. */
  readonly keep: number
}

export interface StoredItem extends FoundObject {
  /** When a run last made or found it, in milliseconds since 1970; else when it was put there. */
  readonly used: number
  /** The node whose result it last was; null when the journal does not know. */
  readonly node: string | null
  readonly pipeline: string | null
  readonly pinned: boolean
  /** Whether a trace names it. */
  readonly reachable: boolean
  /** The run that needs it now; null when none does. */
  readonly held: string | null
}

/**
 * Something beside the objects that can go: quarantined objects, folders of killed runs, an interrupted gc's trash; and what is as old as the objects
 * that are asked for: logs, checkpoints of nodes that were not finished, what mapped stages made of shards.
 */
export interface Leftover {
  readonly what: "quarantine" | "tmp" | "trash" | "log" | "checkpoint" | "shards"
  readonly path: string
  readonly size: number
}

export interface Collection {
  readonly objects: ReadonlyArray<StoredItem & { readonly why: "unreachable" | "old" | "beyond the size" }>
  readonly leftovers: ReadonlyArray<Leftover>
  readonly kept: { readonly objects: number; readonly size: number }
  /** Bytes beyond the size asked for that can't go: pinned, in use or used recently. */
  readonly over: number
}

/** Every object with what the journal knows of it. */
export const storedItems = (journal: Journal, store: Store): Effect.Effect<Array<StoredItem>, StoreError> =>
  Effect.gen(function* () {
    const objects = yield* Effect.promise(() => store.objects())
    const [uses, traced, nodes] = [journal.lastUses(), journal.tracedDigests(), journal.nodesOf()]
    const pins = new Set(store.pins().map((pin) => pin.digest))
    const leased = yield* Effect.try({
      try: () => store.leases().whileNobodyLeases((held) => held),
      catch: (cause) => cause as StoreError
    })
    return objects.map((object) => ({
      ...object,
      used: Math.max(uses.get(object.digest) ?? 0, object.made),
      node: nodes.get(object.digest)?.node ?? null,
      pipeline: nodes.get(object.digest)?.pipeline ?? null,
      pinned: pins.has(object.digest),
      reachable: traced.has(object.digest),
      held: leased.get(object.digest) ?? null
    }))
  })

/** What a collection by this policy would take. Deletes nothing. */
export const planCollection = (
  journal: Journal,
  store: Store,
  policy: CollectPolicy,
  now: number = Date.now()
): Effect.Effect<Collection, StoreError> =>
  Effect.gen(function* () {
    const unreachable = policy.unreachable ?? (policy.olderThan === undefined && policy.maxSize === undefined)
    const items = yield* storedItems(journal, store)
    const taken = new Map<string, Collection["objects"][number]>()
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
      leftovers: yield* Effect.promise(() => leftovers(journal, store, policy, now)),
      kept: { objects: items.length - taken.size, size: left },
      over: Math.max(0, left - (policy.maxSize ?? Infinity))
    }
  })

const leftovers = async (journal: Journal, store: Store, policy: CollectPolicy, now: number): Promise<Array<Leftover>> => {
  const found: Array<Leftover> = []
  const add = async (what: Leftover["what"], path: string) => found.push({ what, path, size: await sizeOf(path) })
  const list = async (folder: string): Promise<Array<string>> =>
    (await readdir(join(store.home, folder)).catch(() => [])).map((name) => join(store.home, folder, name))
  for (const path of await list("quarantine")) {
    const made = await stat(path).catch(() => undefined)
    if (made !== undefined && now - Math.floor(made.ctimeMs) >= policy.keep) await add("quarantine", path)
  }
  for (const path of await store.abandoned()) await add("tmp", path)
  const age = async (paths: ReadonlyArray<string>): Promise<number> => {
    const times = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)))
    // Whole milliseconds, as `now` is: what was written in this very one is no younger than it.
    return now - Math.max(...times.map((found) => Math.floor(found?.mtimeMs ?? 0)))
  }
  const window = policy.olderThan === undefined ? Infinity : Math.max(policy.olderThan, policy.keep)
  const making = whileNobodyBegins(store.leases(), (keys) => keys)
  for (const path of await list("checkpoints")) {
    const key = keyOf(path)
    // Of a node that has its result there is no use for them; its run was killed as it took them away.
    const trace = journal.trace(key)
    const least = trace !== undefined && store.present(trace.digest) ? policy.keep : window
    const inside = (await readdir(path).catch(() => [])).map((name) => join(path, name))
    if (!making.has(key) && (await age([path, ...inside])) >= least) await add("checkpoint", path)
  }
  for (const path of await list("shards")) {
    if (!path.endsWith(".db") || (await age(shardFiles(path))) < window) continue
    found.push({ what: "shards", path, size: (await Promise.all(shardFiles(path).map(sizeOf))).reduce((a, b) => a + b, 0) })
  }
  for (const path of await list("trash")) await add("trash", path)
  if (policy.olderThan !== undefined) {
    const runs = new Map(journal.runs().map((run) => [run.id, run]))
    for (const path of await list("logs")) {
      const run = runs.get(keyOf(path))
      // One that goes on may have started months ago, and write on.
      if (run !== undefined && statusOf(run, store.leases()) === "running") continue
      const inside = async () => (await readdir(path).catch(() => [])).map((name) => join(path, name))
      const since = typeof run?.finished === "number" ? now - run.finished : await age([path, ...(await inside())])
      if (since >= window) await add("log", path)
    }
  }
  return found
}

/** The key of the node whose checkpoints these are; the run whose logs. */
const keyOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1)

export interface Collected {
  readonly objects: number
  readonly size: number
  /** Objects that were to go and stayed: somebody pinned, found or used them meanwhile. */
  readonly stayed: ReadonlyArray<{ readonly digest: string; readonly why: string }>
}

/** Deletes what the plan named, unless it has come into use since. */
export const collect = (journal: Journal, store: Store, collection: Collection): Effect.Effect<Collected, StoreError> =>
  Effect.gen(function* () {
    const planned = new Map(collection.objects.map((item) => [item.digest, item]))
    const stayed = yield* store.moveToTrash([...planned.keys()], (digest) =>
      // A run that ended since the plan was made has recorded what it used before it let go of its leases.
      (journal.lastUse(digest) ?? 0) > planned.get(digest)!.used ? "used by a run since" : undefined
    )
    const busy = yield* Effect.try({ try: () => discard(store, collection.leftovers), catch: (cause) => cause as StoreError })
    yield* store.emptyTrash()
    const leftovers = collection.leftovers.filter((leftover) => !busy.includes(leftover))
    for (const { what, path } of leftovers)
      if (what !== "trash") yield* Effect.promise(() => rm(path, { recursive: true, force: true }).catch(() => undefined))
    const gone = collection.objects.filter((item) => !stayed.has(item.digest))
    return {
      objects: gone.length,
      size: [...gone, ...leftovers].reduce((sum, { size }) => sum + size, 0),
      stayed: [...stayed].map(([digest, why]) => ({ digest, why }))
    }
  })

/** Moves checkpoints and shards to the trash, those of keys that nobody makes; gives those that stayed. */
const discard = (store: Store, leftovers: ReadonlyArray<Leftover>): ReadonlyArray<Leftover> => {
  const trash = join(store.home, "trash")
  mkdirSync(trash, { recursive: true })
  const move = (path: string) => {
    if (existsSync(path)) renameSync(path, join(trash, `${keyOf(path)}-${Date.now()}-${process.pid}`))
  }
  return whileNobodyBegins(store.leases(), (making) =>
    leftovers.filter((leftover) => {
      if (leftover.what === "checkpoint" && making.has(keyOf(leftover.path))) return true
      if (leftover.what === "checkpoint") move(leftover.path)
      if (leftover.what === "shards") for (const path of shardFiles(leftover.path)) move(path)
      return false
    })
  )
}
