/** Finds the data files of a path: a file, all data files in a folder, or those that match a pattern. */
import { readdir, stat } from "node:fs/promises"
import { basename, join, relative } from "node:path"
import { ArtifactError } from "../../schemas/artifact.ts"
import { isDataFile, looksLikeData, mixedSplits } from "../../schemas/data-files.ts"
import { filesMatching, isPattern, patternBase } from "../../schemas/file-pattern.ts"

export interface DataFile {
  readonly path: string
  /** Its path relative to the folder or to the pattern's fixed part. */
  readonly name: string
}

const refused = (path: string, expected: string, found: string, hint: string) =>
  ArtifactError.of({ doing: `Reading ${path}`, expected, found, hint })

const listBelow = async (folder: string, below = "", depth = 0): Promise<Array<string>> => {
  if (depth > 20) throw refused(folder, "folders at most 20 deep", below, "Check for a link that leads back to its own folder.")
  const out: Array<string> = []
  for (const name of (await readdir(join(folder, below))).sort()) {
    if (name.startsWith(".")) continue
    const path = join(below, name)
    const found = await stat(join(folder, path)).catch((cause: NodeJS.ErrnoException) => {
      if (!looksLikeData(name)) return undefined
      const hint = "Restore its target or remove it: otherwise its rows would be silently missing."
      throw refused(join(folder, path), "a file that exists", `a broken link or an inaccessible file (${cause.code})`, hint)
    })
    if (found?.isDirectory()) out.push(...(await listBelow(folder, path, depth + 1)))
    else if (found?.isFile() && isDataFile(name)) out.push(path)
  }
  return out
}

/** Rejects a mixture of splits: a model would train on its test data. */
const checkSplits = (path: string, names: ReadonlyArray<string>): void => {
  const mixed = mixedSplits(names)
  if (mixed === undefined) return
  const { first, found, pattern } = mixed
  throw refused(path, "files of one split", found, `Select one split, such as ${first}: ${join(path, pattern)}.`)
}

/** The data files of a path, sorted by name. Rejects with an ArtifactError if there is none. */
export const dataFiles = async (path: string): Promise<ReadonlyArray<DataFile>> => {
  if (isPattern(path)) {
    const base = patternBase(path)
    const found = await filesMatching(path)
    if (found.length === 0) throw refused(path, "files that match", "none", "Check the pattern.")
    return found.map((file) => ({ path: file, name: relative(base, file) }))
  }
  const found = await stat(path).catch((cause: NodeJS.ErrnoException) => {
    throw refused(
      path,
      "a file of rows (JSONL, JSON, CSV, TSV, Parquet, Arrow or text)",
      cause.code === "ENOENT" ? "no such file" : cause.message,
      "Check the path."
    )
  })
  if (!found.isDirectory()) return [{ path, name: basename(path) }]
  const names = await listBelow(path)
  if (names.length === 0)
    throw refused(
      path,
      "a folder with data files (.jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt)",
      "a folder without data files",
      "Name the files, or a pattern (folder/*)."
    )
  checkSplits(path, names)
  return names.map((name) => ({ path: join(path, name), name }))
}
