/**
 * The content-addressed store: `objects/ab/<digest>/` holds an artifact's files and its manifest `artifact.json`, whose sha256 is the digest.
 * Nothing in it ever changes. Writes go to `tmp/`, are fsynced, then renamed. `pins/<digest>` names what gc must leave; what it takes goes to
 * `trash/` by a rename (collect.ts), which a run's leases forbid (leases.ts).
 */
import { createHash } from "node:crypto"
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { chmod, mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises"
import { hostname } from "node:os"
import { dirname, join, relative } from "node:path"
import * as Effect from "effect/Effect"
import type { ArtifactError, ArtifactType } from "../schemas/artifact.ts"
import { isGone, messageOf, StoreError } from "./errors.ts"
import { type Holder, Leases } from "./leases.ts"

export interface Manifest {
  readonly format: 1
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

const manifestName = "artifact.json"

export const sha256File = async (path: string): Promise<string> => {
  const hash = createHash("sha256")
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 22 })) hash.update(chunk as Buffer)
  return hash.digest("hex")
}

/** Every file below a folder, relative, sorted. Links and special files are refused: an artifact is files. */
const listFiles = async (directory: string): Promise<Array<string>> => {
  const out: Array<string> = []
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) continue
    const path = join(entry.parentPath, entry.name)
    if (!entry.isFile()) throw new Error(`${path} is not a plain file: an artifact holds files and folders only`)
    out.push(relative(directory, path))
  }
  if (out.includes(manifestName)) throw new Error(`the stage wrote a file ${manifestName}: that name is the store's own`)
  return out.sort()
}

const sync = async (path: string): Promise<void> => {
  const handle = await open(path, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Renames a folder to a place where none is; false when there is one. */
const moved = async (from: string, to: string): Promise<boolean> => {
  try {
    await rename(from, to)
    return true
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === "ENOTEMPTY" || code === "EEXIST") return false
    throw cause
  }
}

/** The folders that hold these files, innermost first; "" is the outermost. */
const foldersOf = (paths: ReadonlyArray<string>): Array<string> => {
  const folders = new Set([""])
  for (const path of paths) for (let folder = dirname(path); folder !== "."; folder = dirname(folder)) folders.add(folder)
  return [...folders].sort((a, b) => b.length - a.length)
}

export class Store {
  readonly home: string
  #leases: Leases | undefined
  #holder: Holder | undefined
  readonly #leased = new Set<string>()
  constructor(home: string) {
    this.home = home
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
  #lease(digest: string): void {
    if (this.#holder === undefined || this.#leased.has(digest)) return
    this.#holder.lease(digest)
    this.#leased.add(digest)
  }

  path(digest: string): string {
    return join(this.home, "objects", digest.slice(0, 2), digest)
  }

  #try<A>(doing: string, body: () => Promise<A>): Effect.Effect<A, StoreError> {
    return Effect.tryPromise({
      try: body,
      catch: (cause) =>
        cause instanceof StoreError
          ? cause
          : new StoreError({
              message: `${doing}: ${messageOf(cause)}. Free some space or mend the folder ${this.home}, then run again: what is finished is kept.`
            })
    })
  }

  /** What `body` reads; undefined when there is nothing, or when the disk can't read it. Throws StoreError where the reason lies elsewhere. */
  async #read<A>(body: () => Promise<A>): Promise<A | undefined> {
    try {
      return await body()
    } catch (cause) {
      if (isGone(cause)) return undefined
      // Too many open files, say, or no permission: that is no reason to make a sound object again.
      throw new StoreError({
        message: `Looking at a result in the store: ${messageOf(cause)}. The result stays where it is: mend that, then run again.`
      })
    }
  }

  /** A new empty folder for a stage to write into. */
  temporary(): Effect.Effect<string, StoreError> {
    return this.#try("Making a temporary folder in the store", async () => {
      await mkdir(join(this.home, "tmp"), { recursive: true })
      return mkdtemp(join(this.home, "tmp", `${process.pid}-${processSpace()}-`))
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
        for (const path of await listFiles(directory)) {
          const full = join(directory, path)
          list.push({ path, size: (await stat(full)).size, sha256: await sha256File(full) })
        }
        return list
      })
      const contentDigest =
        type.contentDigest === undefined
          ? createHash("sha256")
              .update(JSON.stringify([type.name, files]))
              .digest("hex")
          : yield* type.contentDigest(directory)
      const manifest: Manifest = { format: 1, type: type.name, contentDigest, files }
      const bytes = JSON.stringify(manifest, undefined, 1)
      return { digest: createHash("sha256").update(bytes).digest("hex"), contentDigest, manifest, bytes }
    })
  }

  /** Takes a written folder in: checks its type, hashes it, fsyncs everything and renames it to its place. */
  commit(directory: string, type: ArtifactType<any>): Effect.Effect<StoredObject, StoreError | ArtifactError> {
    const self = this
    return Effect.gen(function* () {
      const { digest, contentDigest, manifest, bytes } = yield* self.describe(directory, type)
      const { files } = manifest
      yield* self.#try("Committing a stage's output", async () => {
        const target = self.path(digest)
        self.#lease(digest)
        await writeFile(join(directory, manifestName), bytes)
        for (const { path } of [...files, { path: manifestName }]) {
          await sync(join(directory, path))
          await chmod(join(directory, path), 0o444)
        }
        for (const folder of foldersOf(files.map((file) => file.path))) await sync(join(directory, folder))
        await mkdir(join(target, ".."), { recursive: true })
        if (!(await moved(directory, target))) {
          // The same object is there already: made by another run, or by another node. It stays unless it is damaged.
          if ((await self.damage(digest)) === undefined) await rm(directory, { recursive: true, force: true })
          else {
            await self.#setAside(digest)
            await moved(directory, target)
          }
        }
        for (const folder of [join(target, ".."), join(self.home, "objects"), self.home]) await sync(folder)
      })
      return { digest, contentDigest }
    })
  }

  /**
   * Whether the object is there with every file at its size; the bytes are not read. While this store holds, gc leaves it from now on. Rejects
   * with StoreError when it can't be told.
   */
  async present(digest: string): Promise<boolean> {
    this.#lease(digest)
    const manifest = await this.#manifest(digest)
    if (manifest === undefined) return false
    for (const file of manifest.files) {
      const found = await this.#read(() => stat(join(this.path(digest), file.path)))
      if (found?.size !== file.size) return false
    }
    return true
  }

  /**
   * What is wrong with the object's bytes; undefined when they are what the manifest says. Read whenever a stage is about to use them. Rejects
   * with StoreError when it can't be told.
   */
  async damage(digest: string): Promise<string | undefined> {
    const manifest = await this.#manifest(digest)
    if (manifest === undefined) return "its manifest is missing or not what its name says"
    for (const file of manifest.files) {
      const path = join(this.path(digest), file.path)
      const sha256 = await this.#read(() => sha256File(path))
      if (sha256 === undefined) return `${file.path} is missing, or the disk can't read it`
      if (sha256 !== file.sha256) return `${file.path} has changed`
    }
    return undefined
  }

  async #manifest(digest: string): Promise<Manifest | undefined> {
    const bytes = await this.#read(() => readFile(join(this.path(digest), manifestName)))
    if (bytes === undefined || createHash("sha256").update(bytes).digest("hex") !== digest) return undefined
    return JSON.parse(bytes.toString("utf8")) as Manifest
  }

  /** Moves a damaged object out of the way, so that it is made again; it is kept for whoever wants to look. */
  quarantine(digest: string): Effect.Effect<void, StoreError> {
    return this.#try("Setting a damaged object aside", () => this.#setAside(digest))
  }

  async #setAside(digest: string): Promise<void> {
    await mkdir(join(this.home, "quarantine"), { recursive: true })
    await rename(this.path(digest), join(this.home, "quarantine", `${digest}-${Date.now()}-${process.pid}`)).catch(
      (cause: NodeJS.ErrnoException) => {
        if (cause.code !== "ENOENT") throw cause
      }
    )
  }

  /** Every object, in no order. Reads the manifests, not the bytes. */
  async objects(): Promise<Array<FoundObject>> {
    const root = join(this.home, "objects")
    const found: Array<FoundObject> = []
    for (const prefix of await readdir(root).catch(() => [])) {
      for (const digest of await readdir(join(root, prefix)).catch(() => [])) {
        const folder = join(root, prefix, digest)
        const bytes = await readFile(join(folder, manifestName)).catch(() => undefined)
        const sound = bytes !== undefined && createHash("sha256").update(bytes).digest("hex") === digest
        const manifest = sound ? (JSON.parse(bytes.toString("utf8")) as Manifest) : undefined
        const made = await stat(folder).catch(() => undefined)
        // It went while this looked.
        if (made === undefined) continue
        const size = manifest === undefined ? await sizeOf(folder) : manifest.files.reduce((sum, file) => sum + file.size, bytes!.length)
        found.push({ digest, type: manifest?.type, size, made: made.mtimeMs })
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
      mkdirSync(trash, { recursive: true })
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
        mkdirSync(folder, { recursive: true })
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
    return Effect.promise(() => rm(directory, { recursive: true, force: true }).catch(() => undefined))
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

/** Where process numbers mean what they mean here: this machine, and this container of it. */
export const processSpace = (): string => {
  let namespace = ""
  try {
    namespace = readlinkSync("/proc/self/ns/pid")
  } catch {
    // Not Linux: the machine's name has to do.
  }
  return createHash("sha256").update(`${hostname()} ${namespace}`).digest("hex").slice(0, 8)
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"
  }
}
