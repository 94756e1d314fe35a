/**
 * The process that accesses a folder of shared results, for folder.ts: if the folder's file system hangs, this process hangs and the run does not.
 * Imports only Node modules, so that it starts quickly. Files are written under another name and renamed, so that none is ever seen half written.
 */
import { createHash, randomUUID } from "node:crypto"
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises"
import { hostname } from "node:os"
import { dirname, join } from "node:path"
import type { Trouble } from "./files.ts"

export type Call = { readonly id: number } & (
  | { readonly does: "begin" }
  | { readonly does: "entry"; readonly name: string }
  | { readonly does: "putEntry"; readonly name: string; readonly bytes: Uint8Array }
  | { readonly does: "has"; readonly name: string }
  | { readonly does: "fetch"; readonly name: string; readonly path: string; readonly size: number | undefined }
  | { readonly does: "send"; readonly name: string; readonly path: string }
)
export type Answer =
  /** The call is making progress. */
  | { readonly id: number; readonly moving: true }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly trouble: Trouble; readonly message: string }

const root = process.argv[2]!
const isReadOnly = process.argv[3] === "read-only"
/** An entry has a few hundred bytes; with a thousand metrics it would have 50 KB. */
const largestEntry = 1 << 20
/** Age of partial files left by killed runs after which they are deleted, in milliseconds. */
const abandonedAfter = 24 * 3600 * 1000

class FolderFault extends Error {
  readonly trouble: Trouble
  constructor(trouble: Trouble, message: string) {
    super(message)
    this.trouble = trouble
  }
}

const pathOf = (kind: "ac" | "cas", name: string) => {
  if (!/^[0-9a-f]{64}$/.test(name)) throw new Error(`${name} is not a sha256`)
  return join(root, kind, name.slice(0, 2), name)
}

/** undefined if the file does not exist; an error if the folder itself does not exist. */
const ifExists = async <A>(body: () => Promise<A>): Promise<A | undefined> => {
  try {
    return await body()
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code !== "ENOENT" && code !== "ENOTDIR") throw cause
    await begin()
    return undefined
  }
}

const begin = async (): Promise<void> => {
  const found = await stat(root).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return undefined
    throw cause
  })
  if (found === undefined) throw new FolderFault("gone", "the folder does not exist: mount it, or create it (mkdir)")
  if (!found.isDirectory()) throw new FolderFault("gone", "it is not a folder")
}

const sweep = async (): Promise<void> => {
  const folder = join(root, "tmp")
  for (const name of await readdir(folder).catch(() => [] as Array<string>)) {
    const path = join(folder, name)
    const age = Date.now() - ((await stat(path).catch(() => undefined))?.mtimeMs ?? Infinity)
    if (age > abandonedAfter) await rm(path, { force: true }).catch(() => undefined)
  }
}

/** Copies a file and hashes it; returns its sha256. `lasts`: sync it to disk. */
const copy = async (from: string, to: string, lasts: boolean, moved: () => void): Promise<string> => {
  const source = await open(from, "r")
  try {
    const target = await open(to, "wx")
    try {
      const hash = createHash("sha256")
      const piece = Buffer.allocUnsafe(1 << 20)
      for (;;) {
        const { bytesRead } = await source.read(piece, 0, piece.length)
        if (bytesRead === 0) break
        hash.update(piece.subarray(0, bytesRead))
        await target.writeFile(piece.subarray(0, bytesRead))
        moved()
      }
      if (lasts) await target.sync()
      return hash.digest("hex")
    } finally {
      await target.close()
    }
  } finally {
    await source.close()
  }
}

/** Writes a new file below the root with `body`, and renames it to its place. */
const place = async (to: string, body: (path: string) => Promise<void>): Promise<void> => {
  // Not recursive: an unmounted folder must not be recreated on the disk below.
  for (const folder of [join(root, "tmp"), dirname(dirname(to)), dirname(to)])
    await mkdir(folder).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code !== "EEXIST") throw cause
    })
  const fresh = join(root, "tmp", `${hostname()}-${process.pid}-${randomUUID()}`)
  try {
    await body(fresh)
    await rename(fresh, to)
  } catch (cause) {
    await rm(fresh, { force: true }).catch(() => undefined)
    throw cause
  }
}

const work = async (call: Call, moved: () => void): Promise<unknown> => {
  switch (call.does) {
    case "begin":
      await begin()
      if (!isReadOnly) await sweep()
      return undefined
    case "entry":
      return ifExists(async () => {
        const path = pathOf("ac", call.name)
        if ((await stat(path)).size > largestEntry) throw new FolderFault("lying", `${path} is too large for an entry`)
        return readFile(path)
      })
    case "putEntry":
      return place(pathOf("ac", call.name), async (path) => {
        const file = await open(path, "wx")
        try {
          await file.writeFile(call.bytes)
          await file.sync()
        } finally {
          await file.close()
        }
      })
    case "has":
      return ifExists(async () => (await stat(pathOf("cas", call.name))).size)
    case "fetch":
      return (
        (await ifExists(async () => {
          const from = pathOf("cas", call.name)
          const { size } = await stat(from)
          if (call.size !== undefined && size !== call.size)
            throw new FolderFault("lying", `${from} has ${size} bytes, expected ${call.size}`)
          // Downloaded files are synced when they are committed.
          if ((await copy(from, call.path, false, moved)) === call.name) return true
          await rm(call.path, { force: true })
          // Content that does not match its name is useless: delete it, so that the next run that has the content stores it again.
          if (!isReadOnly) await rm(from, { force: true }).catch(() => undefined)
          throw new FolderFault("lying", `${from} does not match its name`)
        })) ?? false
      )
    case "send":
      return place(pathOf("cas", call.name), async (path) => {
        if ((await copy(call.path, path, true, moved)) !== call.name)
          throw new FolderFault("refused", `${call.path} has changed: \`caravan verify --store\` moves it to quarantine`)
      })
  }
}

const troubleOf = (cause: unknown): Trouble => {
  if (cause instanceof FolderFault) return cause.trouble
  const { code = "" } = cause as NodeJS.ErrnoException
  if (code === "ENOSPC" || code === "EDQUOT") return "full"
  return ["ENOENT", "ENOTDIR", "ESTALE", "EHOSTDOWN", "ENOTCONN", "EIO", "ENODEV"].includes(code) ? "gone" : "refused"
}

const send = (answer: Answer) => process.send?.(answer)
process.on("message", (call: Call) => {
  let last = performance.now()
  const moved = () => {
    if (performance.now() - last < 500) return
    last = performance.now()
    send({ id: call.id, moving: true })
  }
  work(call, moved).then(
    (value) => send({ id: call.id, value }),
    (cause: unknown) => send({ id: call.id, trouble: troubleOf(cause), message: (cause as Error).message })
  )
})
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => {})
process.on("disconnect", () => process.exit(0))
