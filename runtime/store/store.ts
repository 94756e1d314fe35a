/**
 * The content-addressed store (objects.ts). Objects never change. Writes go to `tmp/`, are fsynced, then renamed. gc renames objects to `trash/`,
 * unless pins (pins.ts) or a run's leases (leases.ts) forbid it.
 */
import { existsSync, mkdtempSync, renameSync, writeFileSync } from "node:fs"
import { readdir, rm } from "node:fs/promises"
import { dirname, join } from "node:path"
import { hash } from "node:crypto"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { ArtifactError, ArtifactType } from "../../schemas/artifact.ts"
import { storeError, StoreError } from "../errors.ts"
import type { OnBytes } from "../key/file-digest.ts"
import { makeFolder, syncPath } from "./durable.ts"
import { type Claim, type Claimed, claimedKeys, claimKey, releaseClaims, stillHeld, withClaimsLocked } from "./in-flight.ts"
import { type Holder, isHolderAlive, Leases } from "./leases.ts"
import {
  allObjects,
  damageOf,
  describeFiles,
  format,
  type FoundObject,
  type Manifest,
  manifestName,
  objectPath,
  type Presence,
  presenceOf,
  putAll,
  type SealedObject,
  setAside,
  type StoredObject
} from "./objects.ts"
import { allPins, type Pin, pinsFolder, removePin, writePin } from "./pins.ts"
import { isAlive, processSpace } from "./process-identity.ts"
import { isReadOnly } from "./read-only.ts"

export interface StoreOperations {
  /** The folder of the store and the journal. */
  readonly home: string
  /** Whether the store is read-only, so that nobody can hold objects. */
  readonly isReadOnly: Effect.Effect<boolean>
  readonly path: (digest: string) => string
  /** A new empty folder for a stage to write into. */
  readonly temporary: Effect.Effect<string, StoreError>
  /** Checks a written folder's type and hashes it. */
  readonly describe: (
    directory: string,
    type: ArtifactType<any>
  ) => Effect.Effect<StoredObject & { readonly manifest: Manifest; readonly bytes: string }, StoreError | ArtifactError>
  /** Checks a written folder's type, hashes its files and writes its manifest; nothing is synced to disk yet. */
  readonly seal: (directory: string, type: ArtifactType<any>) => Effect.Effect<SealedObject, StoreError | ArtifactError>
  /** Adds sealed folders durably; they must not be recorded earlier. Returns each folder's error, if any; one failure does not prevent the others. */
  readonly put: (objects: ReadonlyArray<SealedObject>) => Effect.Effect<ReadonlyArray<StoreError | undefined>>
  /** Adds one written folder. */
  readonly commit: (directory: string, type: ArtifactType<any>) => Effect.Effect<StoredObject, StoreError | ArtifactError>
  /** An object's state, without reading its bytes. A holding store protects it from gc from now on. */
  readonly presence: (digest: string) => Effect.Effect<Presence, StoreError>
  /** Like `presence`, for several objects, in the same order. */
  readonly presences: (digests: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Presence>, StoreError>
  /** Whether the object exists and each of its files has its recorded size. */
  readonly present: (digest: string) => Effect.Effect<boolean, StoreError>
  /** Reads the object and returns a description of its damage; undefined if its bytes match the manifest. Called before each use by a stage. */
  readonly damage: (digest: string, onBytes?: OnBytes) => Effect.Effect<string | undefined, StoreError>
  /** Moves a damaged object to quarantine, so that it is recomputed. Returns its new path, or undefined if it no longer exists. */
  readonly quarantine: (digest: string) => Effect.Effect<string | undefined, StoreError>
  /** All objects, unordered. Reads the manifests, not the bytes. */
  readonly objects: Effect.Effect<ReadonlyArray<FoundObject>, StoreError>
  /**
   * Moves these objects to the trash, except those that are held or pinned, or for which `reasonToKeep` returns a reason. Returns the kept objects, each
   * with its reason.
   * Objects in the trash no longer exist for runs; `emptyTrash` frees their space.
   */
  readonly moveToTrash: (
    digests: ReadonlyArray<string>,
    reasonToKeep: (digest: string) => string | undefined
  ) => Effect.Effect<ReadonlyMap<string, string>, StoreError>
  /** Deletes the trash, including what an interrupted gc left there. */
  readonly emptyTrash: Effect.Effect<void, StoreError>
  /** Protects an object from gc until it is unpinned. */
  readonly pin: (digest: string, note: string) => Effect.Effect<void, StoreError>
  /** Returns whether there was a pin. */
  readonly unpin: (digest: string) => Effect.Effect<boolean, StoreError>
  readonly pins: Effect.Effect<ReadonlyArray<Pin>, StoreError>
  readonly remove: (directory: string) => Effect.Effect<void>
  /** Folders in tmp/ left by killed runs, except those of other machines and containers, whose processes can't be checked. */
  readonly abandoned: Effect.Effect<ReadonlyArray<string>>
  /** Removes what killed runs left in tmp/. */
  readonly sweep: Effect.Effect<void, StoreError>
  /** Returns this store, but protects every object that it finds or adds from gc until the scope ends. `what` describes the holder in messages. */
  readonly hold: (what: string) => Effect.Effect<HeldStore, StoreError, Scope.Scope>
  /** Whether a holder's process is alive. */
  readonly isHeld: (holder: string) => Effect.Effect<boolean>
  /** The objects that living holders need, and their holders. */
  readonly leased: Effect.Effect<ReadonlyMap<string, string>, StoreError>
  /** The keys being computed; also in a store that can't be written to. */
  readonly claimed: Effect.Effect<ReadonlySet<string>, StoreError>
  /** Calls `body` with the keys that are being computed, under a lock that stops runs from claiming more. Keep it short: runs wait for the lock. */
  readonly withClaimsLocked: <A>(body: (keys: ReadonlySet<string>) => A) => Effect.Effect<A, StoreError>
}

/** A store that holds the objects it finds, and can claim keys to compute their results. */
export interface HeldStore extends StoreOperations {
  readonly holder: string
  readonly claim: (key: string) => Effect.Effect<Claimed, StoreError>
  /** The keys of the claims that are still valid: check before recording results. */
  readonly stillHeld: (claims: ReadonlyArray<Claim>) => Effect.Effect<ReadonlySet<string>, StoreError>
  /** Releases claims: their results are recorded, or will not be computed. */
  readonly release: (claims: ReadonlyArray<Claim>) => Effect.Effect<void, StoreError>
}

export class Store extends Context.Service<Store, StoreOperations>()("caravan/runtime/Store") {
  /** The store in this folder. Nothing is created before the first write. */
  static readonly layer = (home: string): Layer.Layer<Store> =>
    Layer.effect(
      Store,
      Effect.gen(function* () {
        let leases: Leases | undefined
        yield* Effect.addFinalizer(() => Effect.sync(() => leases?.close()))
        return operations(home, () => (leases ??= new Leases(home)))
      })
    )
}

/** Number of objects moved to the trash per transaction. Small, because runs that look for an object wait for the transaction. */
const trashBatch = 64

const operations = (home: string, leases: () => Leases, holder?: Holder): StoreOperations => {
  const error = (doing: string) =>
    storeError((reason) => `${doing}: ${reason}. Free some space or fix the folder ${home}, then run again: finished results are kept.`)
  const attempt = <A>(doing: string, body: () => A): Effect.Effect<A, StoreError> => Effect.try({ try: body, catch: error(doing) })
  const attemptAsync = <A>(doing: string, body: () => Promise<A>): Effect.Effect<A, StoreError> =>
    Effect.tryPromise({ try: body, catch: error(doing) })

  const trash = join(home, "trash")
  const temporaryPrefix = join(home, "tmp", `${process.pid}-${processSpace()}-`)

  const leased = new Set<string>()
  const lease = (digests: ReadonlyArray<string>): void => {
    const fresh = digests.filter((digest) => !leased.has(digest))
    if (holder === undefined || fresh.length === 0) return
    holder.lease(fresh)
    for (const digest of fresh) leased.add(digest)
  }

  const presence: StoreOperations["presence"] = (digest) =>
    attempt("Checking a result in the store", () => {
      lease([digest])
      return presenceOf(home, digest)
    })

  const describe: StoreOperations["describe"] = Effect.fnUntraced(function* (directory, type) {
    yield* type.validate(directory)
    const files = yield* attemptAsync("Hashing a stage's output", () => describeFiles(directory))
    const contentDigest =
      type.contentDigest === undefined ? hash("sha256", JSON.stringify([type.name, files])) : yield* type.contentDigest(directory)
    const manifest: Manifest = { format, type: type.name, contentDigest, files }
    const bytes = JSON.stringify(manifest, undefined, 1)
    return { digest: hash("sha256", bytes), contentDigest, manifest, bytes }
  })
  const seal: StoreOperations["seal"] = Effect.fnUntraced(function* (directory, type) {
    const { digest, contentDigest, manifest, bytes } = yield* describe(directory, type)
    yield* attempt("Writing an object's manifest", () => writeFileSync(join(directory, manifestName), bytes))
    return { digest, contentDigest, directory, files: [...manifest.files.map((file) => file.path), manifestName] }
  })
  const put: StoreOperations["put"] = Effect.fn("Store.put")((objects) => {
    const doing = "Committing a stage's output"
    return attempt(doing, () => lease(objects.map(({ digest }) => digest))).pipe(
      Effect.andThen(attemptAsync(doing, () => putAll(home, objects))),
      Effect.match({
        onFailure: (failure) => objects.map(() => failure),
        onSuccess: (failures) => failures.map((failure) => (failure === undefined ? undefined : error(doing)(failure.cause)))
      })
    )
  })
  const abandoned = Effect.promise(async () => {
    const found: Array<string> = []
    for (const name of await readdir(join(home, "tmp")).catch(() => [] as Array<string>)) {
      const [id, space] = name.split("-")
      const pid = Number(id)
      if (space === processSpace() && Number.isInteger(pid) && pid > 0 && !isAlive(pid)) found.push(join(home, "tmp", name))
    }
    return found
  })

  const all: StoreOperations = {
    home,
    isReadOnly: Effect.sync(() => isReadOnly(join(home, "leases.db"))),
    path: (digest) => objectPath(home, digest),
    temporary: attempt("Creating a temporary folder in the store", () => {
      try {
        return mkdtempSync(temporaryPrefix)
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
        makeFolder(dirname(temporaryPrefix))
        return mkdtempSync(temporaryPrefix)
      }
    }),
    describe,
    seal,
    put,
    commit: Effect.fn("Store.commit")(function* (directory, type) {
      const sealed = yield* seal(directory, type)
      const [failure] = yield* put([sealed])
      if (failure !== undefined) return yield* failure
      return { digest: sealed.digest, contentDigest: sealed.contentDigest }
    }),
    presence,
    present: (digest) => Effect.map(presence(digest), (found) => found !== "missing"),
    presences: (digests) =>
      attempt("Checking results in the store", () => {
        lease(digests)
        return digests.map((digest) => presenceOf(home, digest))
      }),
    damage: (digest, onBytes) => attemptAsync("Reading a result in the store", () => damageOf(home, digest, onBytes)),
    quarantine: (digest) => attempt("Moving a damaged object to quarantine", () => setAside(home, digest)),
    objects: attemptAsync("Listing the objects of the store", () => allObjects(home)),
    moveToTrash: Effect.fn("Store.moveToTrash")(function* (digests, reasonToKeep) {
      const stayed = new Map<string, string>()
      for (let i = 0; i < digests.length; i += trashBatch) {
        yield* attempt("Moving objects to the trash", () => {
          makeFolder(trash)
          leases().withLeasesLocked((needed) => {
            const pinned = new Set(allPins(home).map((pin) => pin.digest))
            for (const digest of digests.slice(i, i + trashBatch)) {
              const by = needed.get(digest)
              const reason = pinned.has(digest) ? "pinned" : by !== undefined ? `in use by ${by}` : reasonToKeep(digest)
              if (reason !== undefined) stayed.set(digest, reason)
              else if (existsSync(objectPath(home, digest)))
                renameSync(objectPath(home, digest), join(trash, `${digest}-${Date.now()}-${process.pid}`))
            }
          })
        })
        yield* Effect.sleep(0)
      }
      return stayed
    }),
    emptyTrash: attemptAsync("Emptying the store's trash", async () => {
      // The folder itself stays: another gc may be moving something there.
      for (const name of await readdir(trash).catch(() => [])) await rm(join(trash, name), { recursive: true, force: true })
    }),
    pin: (digest, note) =>
      attemptAsync("Pinning an artifact", async () => {
        // Under the lock, so that it never happens between gc's check of the pins and its rename.
        leases().withLeasesLocked(() => {
          if (!existsSync(join(objectPath(home, digest), manifestName)))
            throw new Error(`the artifact ${digest} is no longer in the store; only its record remains. A run recomputes it`)
          writePin(home, digest, note)
        })
        for (const folder of [pinsFolder(home), home]) await syncPath(folder)
      }),
    unpin: (digest) => attempt("Unpinning an artifact", () => removePin(home, digest)),
    pins: attempt("Reading the pins", () => allPins(home)),
    remove: (directory) =>
      // Usually it no longer exists.
      Effect.suspend(() =>
        existsSync(directory) ? Effect.promise(() => rm(directory, { recursive: true, force: true }).catch(() => undefined)) : Effect.void
      ),
    abandoned,
    sweep: Effect.flatMap(abandoned, (folders) =>
      attemptAsync("Removing what killed runs left", async () => {
        for (const folder of folders) await rm(folder, { recursive: true, force: true })
      })
    ),
    hold: (what) =>
      Effect.acquireRelease(
        attempt("Holding the store", () => {
          const held = leases().hold(what)
          try {
            // gc needs this folder when the disk is full: create it while there is space.
            makeFolder(trash)
          } catch {
            // Later writes report the problem.
          }
          return held
        }),
        (held) => Effect.sync(() => held.release())
      ).pipe(Effect.map((held) => heldBy(home, leases, held))),
    isHeld: (id) => Effect.sync(() => isHolderAlive(home, id)),
    leased: attempt("Listing the holders of the store", () => leases().leased()),
    claimed: attempt("Listing the keys being computed", () => claimedKeys(leases())),
    withClaimsLocked: (body) => attempt("Listing the keys being computed", () => withClaimsLocked(leases(), body))
  }
  return all
}

const heldBy = (home: string, leases: () => Leases, holder: Holder): HeldStore => {
  const attempt = <A>(body: () => A): Effect.Effect<A, StoreError> =>
    Effect.try({ try: body, catch: storeError((reason) => `Claiming a result to compute: ${reason}.`) })
  return {
    ...operations(home, leases, holder),
    holder: holder.id,
    claim: (key) => attempt(() => claimKey(leases(), holder.id, key)),
    stillHeld: (claims) => attempt(() => stillHeld(leases(), claims)),
    release: (claims) => attempt(() => releaseClaims(leases(), claims))
  }
}
