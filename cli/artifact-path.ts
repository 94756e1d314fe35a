/**
 * Resolves a command-line argument to a folder or file: a path, a name or digest in the store, a path within a result ("latest:sft/adapter"), or a
 * name on the Hugging Face Hub ("hf:owner/name").
 */
import { existsSync, readdirSync, statSync } from "node:fs"
import { join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { StoreError } from "../runtime/errors.ts"
import { describeDamage, findDamage } from "../runtime/inspect/damage.ts"
import { locate } from "../runtime/inspect/resolve.ts"
import { findHome, whyNoHome } from "../runtime/store/home.ts"
import type { Journal } from "../runtime/store/journal.ts"
import { sizeOf } from "../runtime/store/objects.ts"
import { Store } from "../runtime/store/store.ts"
import type { Wanted } from "../runtime/hub/choose.ts"
import { adapterFile, adapterFolder } from "../schemas/checkpoint-files.ts"
import { didYouMean } from "../schemas/did-you-mean.ts"
import { isHubName } from "../schemas/hub-name.ts"
import { UsageError } from "./command.ts"
import { showReading } from "./display/reading.ts"
import { hubPath } from "./hub-path.ts"
import { storeAt, withStore } from "./open-store.ts"

/**
 * Artifacts of the store are first checked against their digests, so that damaged bytes are never used silently. Throws a StoreError if they are
 * damaged, a UsageError if nothing has this name or gc has deleted it.
 */
export const artifactPath = async (text: string, wanted?: Wanted): Promise<string> => (await artifactPlace(text, wanted)).path

/** The folder or file that an argument resolved to; for a result of the store (or a path within one) also which result. */
export interface Place {
  readonly path: string
  readonly origin?: {
    readonly home: string
    readonly digest: string
    /** The node by which it was named. */
    readonly node?: string | undefined
  }
}

/** Like artifactPath, but also returns the origin. `wanted`: which files of a model on the Hub to fetch. */
export const artifactPlace = async (text: string, wanted: Wanted = "all"): Promise<Place> => {
  if (isHubName(text)) return { path: await hubPath(text, wanted) }
  const home = findHome(process.cwd())
  if (whyNoHome(home) === undefined && !existsSync(join(home, "journal.db"))) {
    if (existsSync(text)) return ownPath(text)
    throw new UsageError(
      `Looking for "${text}": no such file or folder, and there is no store at ${home}. Check the path, or set CARAVAN_HOME to the store's folder.`
    )
  }
  const located = await withStore(
    Effect.gen(function* () {
      const store = yield* Store
      const located = yield* locateWithin(text)
      if (located.kind === "file") return located
      if (!(yield* store.present(located.digest)))
        return yield* Effect.fail(
          new UsageError(
            `Looking for "${text}": the result ${located.digest.slice(0, 12)} is no longer in the store. Run its pipeline to recompute it.`
          )
        )
      yield* requireSound(located.digest, text)
      const path = join(store.path(located.digest), located.within)
      if (located.within !== "" && !isFolder(path))
        return yield* Effect.fail(
          new UsageError(
            `Looking for "${text}": the result has no folder "${located.within}".${didYouMean(located.within, foldersIn(store.path(located.digest)))}`
          )
        )
      return { kind: "artifact" as const, path, origin: { home, digest: located.digest, node: located.execution?.node } }
    })
  )
  return located.kind === "file" ? ownPath(located.path) : { path: located.path, origin: located.origin }
}

/** Like `locate`; for a result also the folder within it ("" for the result itself or for one of its files). */
const locateWithin = Effect.fn("locateWithin")(function* (text: string) {
  const located = yield* Effect.result(locate(text))
  if (Result.isSuccess(located)) {
    const { success: found } = located
    if (found.kind === "file") return found
    const [path, within] = text.includes("/") ? (/objects\/..\/[0-9a-f]{64}\/(.*)$/.exec(resolve(text)) ?? []) : []
    return { ...found, within: path !== undefined && isFolder(text) ? within! : "" }
  }
  const [, name = "", within = ".."] = /^([^/]+)\/(.+)$/.exec(text) ?? []
  if (within.split("/").includes("..")) return yield* Effect.fail(located.failure)
  const owner = yield* Effect.option(locate(name))
  if (Option.isNone(owner) || owner.value.kind === "file") return yield* Effect.fail(located.failure)
  return { ...owner.value, within }
})

const foldersIn = (path: string): Array<string> =>
  readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true

/** Resolves an argument to an adapter's folder: a folder in PEFT's layout, or the adapter/ folder of a checkpoint trained with LoRA. */
export const adapterPath = async (text: string | undefined): Promise<string | undefined> => {
  if (text === undefined) return undefined
  const path = await artifactPath(text)
  const within = join(path, adapterFolder)
  return existsSync(join(within, adapterFile)) ? within : path
}

/** A file or folder of the user's, or one in another store. */
const ownPath = async (text: string): Promise<Place> => {
  const path = resolve(text)
  const [, home, digest] = /^(.*)\/objects\/[0-9a-f]{2}\/([0-9a-f]{64})(?:\/.*)?$/.exec(path) ?? []
  if (home === undefined || digest === undefined || !existsSync(join(home, "journal.db"))) return { path }
  await Effect.runPromise(Effect.provide(requireSound(digest, text), storeAt(home)))
  return { path, origin: { home, digest } }
}

const requireSound = (digest: string, name: string): Effect.Effect<void, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const reading = showReading(`Reading ${name}`)
    const path = (yield* Store).path(digest)
    reading.start(yield* Effect.promise(() => sizeOf(path)))
    const damage = yield* findDamage(digest, reading.onBytes).pipe(Effect.ensuring(Effect.sync(reading.close)))
    if (damage !== undefined) return yield* new StoreError({ message: describeDamage(`The artifact ${name}`, damage) })
  })
