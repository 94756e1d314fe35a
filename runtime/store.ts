/**
 * The content-addressed store: `objects/ab/<digest>/` holds an artifact's files and its manifest `artifact.json`, whose sha256 is the digest.
 * Nothing in it ever changes. Writes go to `tmp/`, are fsynced, then renamed.
 */
import { createHash } from "node:crypto"
import { createReadStream, readlinkSync } from "node:fs"
import { chmod, mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises"
import { hostname } from "node:os"
import { dirname, join, relative } from "node:path"
import * as Effect from "effect/Effect"
import type { ArtifactError, ArtifactType } from "../schemas/artifact.ts"
import { messageOf, StoreError } from "./errors.ts"

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
  constructor(home: string) {
    this.home = home
  }

  path(digest: string): string {
    return join(this.home, "objects", digest.slice(0, 2), digest)
  }

  #try<A>(doing: string, body: () => Promise<A>): Effect.Effect<A, StoreError> {
    return Effect.tryPromise({
      try: body,
      catch: (cause) =>
        new StoreError({
          message: `${doing}: ${messageOf(cause)}. Free some space or mend the folder ${this.home}, then run again: what is finished is kept.`
        })
    })
  }

  /** A new empty folder for a stage to write into. */
  temporary(): Effect.Effect<string, StoreError> {
    return this.#try("Making a temporary folder in the store", async () => {
      await mkdir(join(this.home, "tmp"), { recursive: true })
      return mkdtemp(join(this.home, "tmp", `${process.pid}-${processSpace()}-`))
    })
  }

  /** Takes a written folder in: checks its type, hashes it, fsyncs everything and renames it to its place. */
  commit(directory: string, type: ArtifactType<any>): Effect.Effect<StoredObject, StoreError | ArtifactError> {
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
      const digest = createHash("sha256").update(bytes).digest("hex")
      yield* self.#try("Committing a stage's output", async () => {
        const target = self.path(digest)
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

  /** Whether the object is there with every file at its size; the bytes are not read. */
  async present(digest: string): Promise<boolean> {
    const manifest = await this.#manifest(digest)
    if (manifest === undefined) return false
    for (const file of manifest.files) {
      const found = await stat(join(this.path(digest), file.path)).catch(() => undefined)
      if (found?.size !== file.size) return false
    }
    return true
  }

  /** What is wrong with the object's bytes; undefined when they are what the manifest says. Read whenever a stage is about to use them. */
  async damage(digest: string): Promise<string | undefined> {
    const manifest = await this.#manifest(digest)
    if (manifest === undefined) return "its manifest is missing or not what its name says"
    for (const file of manifest.files) {
      const path = join(this.path(digest), file.path)
      const sha256 = await sha256File(path).catch(() => undefined)
      if (sha256 === undefined) return `${file.path} is missing`
      if (sha256 !== file.sha256) return `${file.path} has changed`
    }
    return undefined
  }

  async #manifest(digest: string): Promise<Manifest | undefined> {
    const bytes = await readFile(join(this.path(digest), manifestName)).catch(() => undefined)
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

  remove(directory: string): Effect.Effect<void> {
    return Effect.promise(() => rm(directory, { recursive: true, force: true }).catch(() => undefined))
  }

  /** Removes what killed runs left in tmp/: folders of processes that are gone. Those of other machines and containers are not ours to judge. */
  async sweep(): Promise<void> {
    for (const name of await readdir(join(this.home, "tmp")).catch(() => [] as Array<string>)) {
      const [id, space] = name.split("-")
      const pid = Number(id)
      if (space === processSpace() && Number.isInteger(pid) && pid > 0 && !isAlive(pid))
        await rm(join(this.home, "tmp", name), { recursive: true, force: true })
    }
  }
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
