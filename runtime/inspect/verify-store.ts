/** Verifies a store: reads every byte of every object. Damaged objects are set aside (damage.ts); foreign files are reported. */
import type { Dirent } from "node:fs"
import { readdir, readFile } from "node:fs/promises"
import { join, relative } from "node:path"
import * as Effect from "effect/Effect"
import { isAbsent, storeError, type StoreError } from "../errors.ts"
import type { OnBytes } from "../key/file-digest.ts"
import { Journal } from "../store/journal.ts"
import { type FoundObject, type Manifest, manifestName } from "../store/objects.ts"
import { Store } from "../store/store.ts"
import { type Damage, findDamage } from "./damage.ts"

export interface DamagedObject extends Damage {
  /** Where it was. */
  readonly path: string
  readonly type: string | null
  readonly size: number
  /** The last node that had it as its result or its result's sidecar; null if not recorded. */
  readonly made: { readonly pipeline: string; readonly node: string; readonly run: string } | null
}

export interface StoreVerification {
  readonly home: string
  /** Nothing is damaged. */
  readonly ok: boolean
  /** Number of objects read, and their bytes. */
  readonly objects: number
  readonly size: number
  readonly damaged: ReadonlyArray<DamagedObject>
  /** Objects that the journal does not name. */
  readonly unknown: ReadonlyArray<{ readonly digest: string; readonly path: string; readonly size: number }>
  /** Files and folders among the objects that are not objects, and files that an object's manifest does not list. */
  readonly strays: ReadonlyArray<string>
}

export interface VerifyStoreOptions {
  /** Called once with the total bytes before anything is read. */
  readonly onStart?: (size: number) => void
  readonly onBytes?: OnBytes
}

/** Checks every object of the store. */
export const verifyStore = ({ onStart, onBytes }: VerifyStoreOptions = {}): Effect.Effect<StoreVerification, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const [store, journal] = [yield* Store, yield* Journal]
    const look = <A>(body: () => Promise<A>) =>
      Effect.tryPromise({
        try: body,
        catch: storeError((reason) => `Listing the objects of the store ${store.home}: ${reason}. Make its folders readable.`)
      })
    const places = yield* look(() => placesOf(store.home))
    const strays = [...places.strays]
    const objects = (yield* store.objects).filter(({ digest }) => places.objects.has(digest))
    onStart?.(objects.reduce((sum, { size }) => sum + size, 0))
    const nodes = yield* journal.nodesOf()
    /** The result that a sidecar belongs to. */
    const results = new Map((yield* journal.sidecars()).map(({ sidecar, result }) => [sidecar, result]))
    const damaged: Array<DamagedObject> = []
    const unknown: Array<FoundObject & { readonly path: string }> = []
    for (const object of objects) {
      const { digest, type = null, size } = object
      const path = store.path(digest)
      const damage = yield* findDamage(digest, onBytes)
      if (damage !== undefined) {
        const last = (yield* journal.executionsWith(results.get(digest) ?? digest, "any")).at(-1)
        const made = last === undefined ? null : { pipeline: last.pipeline, node: last.node, run: last.run }
        damaged.push({ ...damage, path, type, size, made })
        continue
      }
      strays.push(...(yield* look(() => straysIn(path))))
      if (!nodes.has(digest) && !results.has(digest) && (yield* journal.artifact(digest)) === undefined) unknown.push({ ...object, path })
    }
    return {
      home: store.home,
      ok: damaged.length === 0,
      objects: objects.length,
      size: objects.reduce((sum, { size }) => sum + size, 0),
      damaged,
      unknown: unknown.map(({ digest, path, size }) => ({ digest, path, size })),
      strays
    }
  })

/** The digests of folders that look like objects, and the paths of everything else. */
const placesOf = async (home: string): Promise<{ readonly objects: ReadonlySet<string>; readonly strays: ReadonlyArray<string> }> => {
  const root = join(home, "objects")
  const objects = new Set<string>()
  const strays: Array<string> = []
  for (const prefix of await entriesOf(root)) {
    if (!prefix.isDirectory() || !/^[0-9a-f]{2}$/.test(prefix.name)) {
      strays.push(join(root, prefix.name))
      continue
    }
    for (const entry of await entriesOf(join(root, prefix.name))) {
      const isObject = entry.isDirectory() && /^[0-9a-f]{64}$/.test(entry.name) && entry.name.startsWith(prefix.name)
      if (isObject) objects.add(entry.name)
      else strays.push(join(root, prefix.name, entry.name))
    }
  }
  return { objects, strays }
}

/** Files of an intact object that its manifest does not list; empty if it no longer exists. */
const straysIn = async (folder: string): Promise<ReadonlyArray<string>> => {
  const text = await readFile(join(folder, manifestName), "utf8").catch((cause: unknown) => {
    if (isAbsent(cause)) return undefined
    throw cause
  })
  if (text === undefined) return []
  const named = new Set([manifestName, ...(JSON.parse(text) as Manifest).files.map(({ path }) => path)])
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries.flatMap((entry) => {
    const path = join(entry.parentPath, entry.name)
    return entry.isDirectory() || named.has(relative(folder, path)) ? [] : [path]
  })
}

/** A folder's entries; empty if it no longer exists. */
const entriesOf = (folder: string): Promise<Array<Dirent>> =>
  readdir(folder, { withFileTypes: true }).catch((cause: unknown) => {
    if (isAbsent(cause)) return []
    throw cause
  })
