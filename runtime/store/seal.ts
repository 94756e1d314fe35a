/**
 * A folder's seal: a file, written last, with the size and sha256 of every other file. Imports only Node modules, because checkpoint-thread.ts seals
 * in a separate thread that must start quickly.
 */
import { createHash } from "node:crypto"
import { readdir, rename, rm, stat, writeFile } from "node:fs/promises"
import { dirname, join, relative } from "node:path"
import { sha256File } from "../key/file-digest.ts"
import { foldersOf, syncPath } from "./durable.ts"

export const sealName = "seal.json"
export const sealFormat = 1
export interface Seal {
  readonly format: number
  readonly files: ReadonlyArray<{ readonly path: string; readonly size: number; readonly sha256: string }>
}

/** Makes a folder's content durable, then renames the folder. */
export const seal = async (from: string, to: string): Promise<void> => {
  const files: Array<Seal["files"][number]> = []
  for (const entry of await readdir(from, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const full = join(entry.parentPath, entry.name)
    files.push({ path: relative(from, full), size: (await stat(full)).size, sha256: await sha256File(full) })
  }
  const bytes = JSON.stringify({ format: sealFormat, files } satisfies Seal)
  // The first line is the seal's own digest.
  await writeFile(join(from, sealName), `${createHash("sha256").update(bytes).digest("hex")}\n${bytes}`)
  const paths = [...files.map(({ path }) => path), sealName]
  for (const path of paths) await syncPath(join(from, path))
  for (const folder of foldersOf(paths)) await syncPath(join(from, folder))
  await rm(to, { recursive: true, force: true })
  await rename(from, to)
  await syncPath(dirname(to))
}
