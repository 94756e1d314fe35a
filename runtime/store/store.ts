/**
 * The content-addressed store: `objects/ab/<digest>/` holds an artifact's files and its manifest `artifact.json`, whose sha256 is the digest.
 * Nothing in it ever changes. Writes go to `tmp/`, are fsynced, then renamed. `pins/<digest>` names what gc must leave; what it takes goes to
 * `trash/` by a rename (collect.ts), which a run's leases forbid (leases.ts).
 *
 * Calls that only touch what the kernel has in memory are synchronous: for small files a trip through the thread pool costs more than the call.
 * What waits for a disk (fsync, reading large files) is not.
 */
import { createHash, hash as hashOf } from "node:crypto"
import {
  closeSync,
  existsSync,
  fchmodSync,
  fsync,
  mkdtempSync,
  openSync,
  read,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync
} from "node:fs"
import { readdir, readFile, rm, stat } from "node:fs/promises"
import { hostname } from "node:os"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import * as Effect from "effect/Effect"
import type { ArtifactError, ArtifactType } from "../../schemas/artifact.ts"
import { isGone, messageOf, StoreError } from "../errors.ts"
import { makeFolder } from "./home.ts"
import { type Holder, Leases } from "./leases.ts"

/** Raised when manifests change. */
const format = 1
export interface Manifest {
  readonly format: number
  readonly type: string
  readonly contentDigest: string
  readonly files: ReadonlyArray<{ readonly path: string; readonly size: number; readonly sha256: string }>
}
export interface StoredObject {
  readonly digest: string
  readonly contentDigest: string
}
/** An object as it lies in the store. */
export interface FoundObject {
  readonly digest: string
  /** The type of its manifest; undefined when that is damaged. */
  readonly type: string | undefined
  /** Bytes of all its files. */
  readonly size: number
  /** When it was put there, in milliseconds since 1970. */
  readonly made: number
}
export interface Pin {
  readonly digest: string
  readonly note: string
  readonly made: number
}

/** A written folder that only has to be made durable: its type is checked, its files are hashed, its manifest is in it. */
export interface SealedObject extends StoredObject {
  readonly directory: string
  /** Its files, the manifest among them. */
  readonly files: ReadonlyArray<string>
}

const manifestName = "artifact.json"

/** A file below this size is read at once, a larger one in pieces of it, the next of which is read while one is hashed. */
const pieceSize = 1 << 20
/** What small files are read into: in one turn of the event loop, so one is enough. */
const scratch = Buffer.allocUnsafeSlow(pieceSize)

/** Reads from the beginning until the file or the scratch buffer ends; how much. */
const readToScratch = (file: number): number => {
  let size = 0
  // A read of nothing is the end; a short one is not.
  for (let n = 1; n > 0 && size < pieceSize; size += n) n = readSync(file, scratch, size, pieceSize - size, null)
  return size
}

/** A file's bytes, in the scratch buffer where they fit: to be used at once. */
const readSmall = (path: string): Buffer => {
  const file = openSync(path, "r")
  try {
    const size = readToScratch(file)
    return size < pieceSize ? scratch.subarray(0, size) : readFileSync(path)
  } finally {
    closeSync(file)
  }
}

const readAsync = promisify(read)
const digestFileAt = async (path: string): Promise<{ readonly size: number; readonly sha256: string }> => {
  const file = openSync(path, "r")
  try {
    let size = readToScratch(file)
    if (size < pieceSize) return { size, sha256: hashOf("sha256", scratch.subarray(0, size)) }
    const hash = createHash("sha256").update(scratch)
    let [piece, next] = [Buffer.allocUnsafeSlow(pieceSize), Buffer.allocUnsafeSlow(pieceSize)]
    let reading = readAsync(file, piece, 0, pieceSize, null)
    for (;;) {
      const { bytesRead } = await reading
      if (bytesRead === 0) return { size, sha256: hash.digest("hex") }
      size += bytesRead
      reading = readAsync(file, next, 0, pieceSize, null)
      hash.update(piece.subarray(0, bytesRead))
      ;[piece, next] = [next, piece]
    }
  } finally {
    closeSync(file)
  }
}
export const sha256File = async (path: string): Promise<string> => (await digestFileAt(path)).sha256

/** Every file below a folder, relative, sorted. Links and special files are refused: an artifact is files. */
const listFiles = (directory: string): Array<string> => {
  const out: Array<string> = []
  const visit = (below: string) => {
    for (const entry of readdirSync(join(directory, below), { withFileTypes: true })) {
      const path = join(below, entry.name)
      if (entry.isDirectory()) visit(path)
      else if (entry.isFile()) out.push(path)
      else throw new Error(`${join(directory, path)} is not a plain file: an artifact holds files and folders only`)
    }
  }
  visit("")
  if (out.includes(manifestName)) throw new Error(`the stage wrote a file ${manifestName}: that name is the store's own`)
  return out.sort()
}

/** As many at once as libuv has threads, and a few that wait: a file system commits together what is asked for at the same time. */
const syncsAtOnce = 8
let syncing = 0
const waitingToSync: Array<() => void> = []
const fsyncAsync = promisify(fsync)

/** fsyncs a file or a folder, after it was given a mode if any. */
const sync = async (path: string, mode?: number): Promise<void> => {
  if (syncing === syncsAtOnce) await new Promise<void>((resolve) => waitingToSync.push(resolve))
  else syncing++
  try {
    const file = openSync(path, "r")
    try {
      if (mode !== undefined) fchmodSync(file, mode)
      await fsyncAsync(file)
    } finally {
      closeSync(file)
    }
  } finally {
    const next = waitingToSync.shift()
    if (next === undefined) syncing--
    else next()
  }
}

/** Waits for all, also when one fails: nothing goes on behind whoever hears of it. */
const allOf = async (work: ReadonlyArray<Promise<void>>): Promise<void> => {
  for (const result of await Promise.allSettled(work)) if (result.status === "rejected") throw result.reason
}

/** Renames a folder to a place where none is; false when there is one. Makes the folder of that place where it has to. */
const moved = (from: string, to: string): boolean => {
  try {
    renameSync(from, to)
    return true
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === "ENOTEMPTY" || code === "EEXIST") return false
    if (code !== "ENOENT" || existsSync(dirname(to))) throw cause
    makeFolder(dirname(to))
    return moved(from, to)
  }
}

/** The folders that hold these files, innermost first; "" is the outermost. */
export const foldersOf = (paths: ReadonlyArray<string>): Array<string> => {
  const folders = new Set([""])
  for (const path of paths) for (let folder = dirname(path); folder !== "."; folder = dirname(folder)) folders.add(folder)
  return [...folders].sort((a, b) => b.length - a.length)
}

export class Store {
  readonly home: string
  readonly #objects: string
  #leases: Leases | undefined
  #holder: Holder | undefined
  readonly #leased = new Set<string>()
  constructor(home: string) {
    this.home = home
    this.#objects = join(home, "objects")
  }

  /** From here to `release`, every object that `present` found or `commit` put there stays: gc leaves it. Throws StoreError. */
  hold(what: string): string {
    this.#holder ??= this.leases().hold(what)
    return this.#holder.id
  }
  release(): void {
    this.#holder?.release()
    this.#holder = undefined
    this.#leased.clear()
    this.#leases?.close()
    this.#leases = undefined
  }
  leases(): Leases {
    this.#leases ??= new Leases(this.home)
    return this.#leases
  }
  #lease(digests: ReadonlyArray<string>): void {
    const fresh = digests.filter((digest) => !this.#leased.has(digest))
    if (this.#holder === undefined || fresh.length === 0) return
    this.#holder.lease(fresh)
    for (const digest of fresh) this.#leased.add(digest)
  }

  path(digest: string): string {
    return `${this.#objects}/${digest.slice(0, 2)}/${digest}`
  }

  #error(doing: string, cause: unknown): StoreError {
    if (cause instanceof StoreError) return cause
    return new StoreError({
      message: `${doing}: ${messageOf(cause)}. Free some space or mend the folder ${this.home}, then run again: what is finished is kept.`
    })
  }
  #try<A>(doing: string, body: () => A | Promise<A>): Effect.Effect<A, StoreError> {
    return Effect.tryPromise({ try: async () => body(), catch: (cause) => this.#error(doing, cause) })
  }

  /** undefined when an object is not there or the disk can't read it; throws StoreError when the reason lies elsewhere. */
  #unreadable(cause: unknown): undefined {
    if (isGone(cause)) return undefined
    // Too many open files, say, or no permission: that is no reason to make a sound object again.
    throw new StoreError({
      message: `Looking at a result in the store: ${messageOf(cause)}. The result stays where it is: mend that, then run again.`
    })
  }

  /** A new empty folder for a stage to write into. */
  temporary(): Effect.Effect<string, StoreError> {
    const prefix = join(this.home, "tmp", `${process.pid}-${processSpace()}-`)
    return Effect.try({
      try: () => {
        try {
          return mkdtempSync(prefix)
        } catch (cause) {
          if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
          makeFolder(dirname(prefix))
          return mkdtempSync(prefix)
        }
      },
      catch: (cause) => this.#error("Making a temporary folder in the store", cause)
    })
  }

  /** What a written folder is: checks its type and hashes it. */
  describe(
    directory: string,
    type: ArtifactType<any>
  ): Effect.Effect<StoredObject & { readonly manifest: Manifest; readonly bytes: string }, StoreError | ArtifactError> {
    const self = this
    return Effect.gen(function* () {
      yield* type.validate(directory)
      const files = yield* self.#try("Hashing a stage's output", async () => {
        const list: Array<{ path: string; size: number; sha256: string }> = []
        for (const path of listFiles(directory)) list.push({ path, ...(await digestFileAt(join(directory, path))) })
        return list
      })
      const contentDigest =
        type.contentDigest === undefined ? hashOf("sha256", JSON.stringify([type.name, files])) : yield* type.contentDigest(directory)
      const manifest: Manifest = { format, type: type.name, contentDigest, files }
      const bytes = JSON.stringify(manifest, undefined, 1)
      return { digest: hashOf("sha256", bytes), contentDigest, manifest, bytes }
    })
  }

  /** Checks a written folder's type, hashes its files and writes its manifest into it: all of it in memory yet. */
  seal(directory: string, type: ArtifactType<any>): Effect.Effect<SealedObject, StoreError | ArtifactError> {
    const self = this
    return Effect.gen(function* () {
      const { digest, contentDigest, manifest, bytes } = yield* self.describe(directory, type)
      yield* Effect.try({
        try: () => writeFileSync(join(directory, manifestName), bytes),
        catch: (cause) => self.#error("Writing an object's manifest", cause)
      })
      return { digest, contentDigest, directory, files: [...manifest.files.map((file) => file.path), manifestName] }
    })
  }

  /**
   * Takes sealed folders in, durably: fsyncs everything in them, renames each to its place, then fsyncs the folders they are in. Only then may
   * any of them be recorded. Gives what went wrong with each, if anything; one that fails keeps no other from being taken in.
   */
  async keep(objects: ReadonlyArray<SealedObject>): Promise<Array<StoreError | undefined>> {
    const errors: Array<StoreError | undefined> = objects.map(() => undefined)
    const doing = "Committing a stage's output"
    const places = new Set<string>()
    const put = async (object: SealedObject) => {
      const { digest, directory, files } = object
      await allOf([
        ...files.map((file) => sync(join(directory, file), 0o444)),
        ...foldersOf(files).map((folder) => sync(join(directory, folder)))
      ])
      const target = this.path(digest)
      if (!moved(directory, target)) {
        // The same object is there already: made by another run, or by another node. It stays unless it is damaged.
        // What is left of this one is swept by a later run if it can't be removed now.
        if ((await this.damage(digest)) === undefined) await rm(directory, { recursive: true, force: true }).catch(() => undefined)
        else {
          this.#setAside(digest)
          moved(directory, target)
        }
      }
      places.add(dirname(target))
    }
    const fail = (i: number, cause: unknown) => (errors[i] ??= this.#error(doing, cause))
    try {
      this.#lease(objects.map(({ digest }) => digest))
    } catch (cause) {
      return objects.map(() => this.#error(doing, cause))
    }
    await Promise.all(objects.map((object, i) => put(object).catch((cause: unknown) => fail(i, cause))))
    await allOf([...places, join(this.home, "objects"), this.home].map((place) => sync(place))).catch((cause: unknown) =>
      objects.forEach((_, i) => fail(i, cause))
    )
    return errors
  }

  /** Takes one written folder in. */
  commit(directory: string, type: ArtifactType<any>): Effect.Effect<StoredObject, StoreError | ArtifactError> {
    const self = this
    return Effect.gen(function* () {
      const sealed = yield* self.seal(directory, type)
      const [error] = yield* Effect.promise(() => self.keep([sealed]))
      if (error !== undefined) return yield* error
      return { digest: sealed.digest, contentDigest: sealed.contentDigest }
    })
  }

  /**
   * Whether the object is there with every file at its size; the bytes are not read. While this store holds, gc leaves it from now on. Throws
   * StoreError when it can't be told.
   */
  present(digest: string): boolean {
    this.#lease([digest])
    const folder = this.path(digest)
    const manifest = this.#manifest(digest)
    try {
      return manifest !== undefined && manifest.files.every((file) => statSync(`${folder}/${file.path}`).size === file.size)
    } catch (cause) {
      this.#unreadable(cause)
      return false
    }
  }

  /**
   * What is wrong with the object's bytes; undefined when they are what the manifest says. Read whenever a stage is about to use them. Rejects
   * with StoreError when it can't be told.
   */
  async damage(digest: string): Promise<string | undefined> {
    const manifest = this.#manifest(digest)
    if (manifest === undefined) return "its manifest is missing or not what its name says"
    for (const file of manifest.files) {
      const path = join(this.path(digest), file.path)
      const sha256 = await sha256File(path).catch((cause: unknown) => this.#unreadable(cause))
      if (sha256 === undefined) return `${file.path} is missing, or the disk can't read it`
      if (sha256 !== file.sha256) return `${file.path} has changed`
    }
    return undefined
  }

  #manifest(digest: string): Manifest | undefined {
    let bytes: Buffer
    try {
      bytes = readSmall(`${this.path(digest)}/${manifestName}`)
    } catch (cause) {
      return this.#unreadable(cause)
    }
    if (hashOf("sha256", bytes) !== digest) return undefined
    const manifest = JSON.parse(bytes.toString("utf8")) as Manifest
    if (manifest.format > format)
      throw new StoreError({
        message: `Reading the result ${this.path(digest)}: it has format ${manifest.format}, this version of caravan knows formats up to ${format}. Use that newer version, or name another folder with CARAVAN_HOME.`
      })
    return manifest
  }

  /** Moves a damaged object out of the way, so that it is made again; it is kept for whoever wants to look. */
  quarantine(digest: string): Effect.Effect<void, StoreError> {
    return this.#try("Setting a damaged object aside", () => this.#setAside(digest))
  }

  #setAside(digest: string): void {
    makeFolder(join(this.home, "quarantine"))
    try {
      renameSync(this.path(digest), join(this.home, "quarantine", `${digest}-${Date.now()}-${process.pid}`))
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
    }
  }

  /** Every object, in no order. Reads the manifests, not the bytes. */
  async objects(): Promise<Array<FoundObject>> {
    const root = join(this.home, "objects")
    const found: Array<FoundObject> = []
    for (const prefix of await readdir(root).catch(() => [])) {
      for (const digest of await readdir(join(root, prefix)).catch(() => [])) {
        const folder = join(root, prefix, digest)
        const bytes = await readFile(join(folder, manifestName)).catch(() => undefined)
        const sound = bytes !== undefined && hashOf("sha256", bytes) === digest
        const manifest = sound ? (JSON.parse(bytes.toString("utf8")) as Manifest) : undefined
        const made = await stat(folder).catch(() => undefined)
        // It went while this looked.
        if (made === undefined) continue
        const size =
          manifest === undefined || manifest.format > format
            ? await sizeOf(folder)
            : manifest.files.reduce((sum, file) => sum + file.size, bytes!.length)
        // Whole milliseconds, as Date.now() counts them: what was made in this one is not of the future.
        found.push({ digest, type: manifest?.type, size, made: Math.floor(made.mtimeMs) })
      }
    }
    return found
  }

  /**
   * Moves those objects to the trash that nobody holds or has pinned, and that `still` agrees to; gives what stayed, with the reason. What is
   * in the trash is gone for runs; `emptyTrash` frees its space.
   */
  moveToTrash(
    digests: ReadonlyArray<string>,
    still: (digest: string) => string | undefined
  ): Effect.Effect<Map<string, string>, StoreError> {
    return this.#try("Moving objects to the trash", async () => {
      const trash = join(this.home, "trash")
      makeFolder(trash)
      const stayed = new Map<string, string>()
      // A few at a time: runs that look for an object wait meanwhile.
      for (let i = 0; i < digests.length; i += 64) {
        this.leases().whileNobodyLeases((leased) => {
          const pins = new Set(this.pins().map((pin) => pin.digest))
          for (const digest of digests.slice(i, i + 64)) {
            const holder = leased.get(digest)
            const reason = pins.has(digest) ? "pinned" : holder !== undefined ? `in use by ${holder}` : still(digest)
            if (reason !== undefined) stayed.set(digest, reason)
            else if (existsSync(this.path(digest))) renameSync(this.path(digest), join(trash, `${digest}-${Date.now()}-${process.pid}`))
          }
        })
        await new Promise(setImmediate)
      }
      return stayed
    })
  }

  /** Deletes what is in the trash, also what an interrupted gc left there. */
  emptyTrash(): Effect.Effect<void, StoreError> {
    return this.#try("Emptying the store's trash", async () => {
      const trash = join(this.home, "trash")
      // The folder itself stays: another gc may be moving something there.
      for (const name of await readdir(trash).catch(() => [])) await rm(join(trash, name), { recursive: true, force: true })
    })
  }

  /** Keeps gc from an object until it is unpinned. */
  pin(digest: string, note: string): Effect.Effect<void, StoreError> {
    return this.#try("Pinning an artifact", async () => {
      // Not between gc's look at the pins and its rename.
      this.leases().whileNobodyLeases(() => {
        if (!existsSync(join(this.path(digest), manifestName)))
          throw new Error(`the artifact ${digest} is no longer in the store, only its record is; a run makes it again`)
        const folder = join(this.home, "pins")
        makeFolder(folder)
        writeFileSync(
          join(folder, `${digest}.new`),
          `${JSON.stringify({ note, made: Date.now() })}
`,
          { flush: true }
        )
        renameSync(join(folder, `${digest}.new`), join(folder, digest))
      })
      for (const folder of [join(this.home, "pins"), this.home]) await sync(folder)
    })
  }
  /** Whether there was a pin. */
  unpin(digest: string): boolean {
    const file = join(this.home, "pins", digest)
    const was = existsSync(file)
    rmSync(file, { force: true })
    return was
  }
  pins(): Array<Pin> {
    const folder = join(this.home, "pins")
    if (!existsSync(folder)) return []
    return readdirSync(folder)
      .filter((name) => /^[0-9a-f]{64}$/.test(name))
      .map((digest) => {
        // The name is what counts: a pin that can't be read still holds.
        const [note, made] = readPin(join(folder, digest))
        return { digest, note, made }
      })
      .sort((a, b) => a.made - b.made || (a.digest < b.digest ? -1 : 1))
  }

  remove(directory: string): Effect.Effect<void> {
    // Mostly it is not there any more.
    return Effect.suspend(() =>
      existsSync(directory) ? Effect.promise(() => rm(directory, { recursive: true, force: true }).catch(() => undefined)) : Effect.void
    )
  }

  /** Removes what killed runs left in tmp/: folders of processes that are gone. Those of other machines and containers are not ours to judge. */
  async sweep(): Promise<void> {
    for (const folder of await this.abandoned()) await rm(folder, { recursive: true, force: true })
  }
  async abandoned(): Promise<Array<string>> {
    const found: Array<string> = []
    for (const name of await readdir(join(this.home, "tmp")).catch(() => [] as Array<string>)) {
      const [id, space] = name.split("-")
      const pid = Number(id)
      if (space === processSpace() && Number.isInteger(pid) && pid > 0 && !isAlive(pid)) found.push(join(this.home, "tmp", name))
    }
    return found
  }
}

const readPin = (file: string): readonly [note: string, made: number] => {
  try {
    const { note, made } = JSON.parse(readFileSync(file, "utf8")) as { readonly note?: string; readonly made?: number }
    return [note ?? "", made ?? 0]
  } catch {
    return ["", 0]
  }
}

/** Bytes of all files below a folder, or of a file; 0 when it is gone. */
export const sizeOf = async (path: string): Promise<number> => {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return 0
  if (!found.isDirectory()) return found.size
  let sum = 0
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []))
    if (entry.isFile()) sum += (await stat(join(entry.parentPath, entry.name)).catch(() => undefined))?.size ?? 0
  return sum
}

let space: string | undefined
/** Where process numbers mean what they mean here: this machine, and this container of it. */
export const processSpace = (): string => (space ??= readProcessSpace())
const readProcessSpace = (): string => {
  let namespace = ""
  try {
    namespace = readlinkSync("/proc/self/ns/pid")
  } catch {
    // Not Linux: the machine's name has to do.
  }
  return hashOf("sha256", `${hostname()} ${namespace}`).slice(0, 8)
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"
  }
}
