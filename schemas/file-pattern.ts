/** Patterns that stand for several files ("data/*.parquet"): where a path may be given, so may one. */
import { existsSync, globSync } from "node:fs"
import { glob } from "node:fs/promises"

/** Whether a path is a pattern; one that a file or folder really has as its name is none. */
export const isPattern = (path: string): boolean => /[*?[\]{}]/.test(path) && !existsSync(path)

/** The longest folder of a pattern that has no wildcard: its files are named from there. */
export const patternBase = (pattern: string): string => {
  const parts = pattern.split("/")
  return (
    parts
      .slice(
        0,
        parts.findIndex((part) => /[*?[\]{}]/.test(part))
      )
      .join("/") || (pattern.startsWith("/") ? "/" : ".")
  )
}

/** The files that a pattern stands for, sorted by name. Folders among what it matches are no files. */
export const filesMatching = async (pattern: string): Promise<Array<string>> => {
  const found: Array<string> = []
  for await (const entry of glob(pattern, { withFileTypes: true }))
    if (!entry.isDirectory())
      found.push(entry.parentPath.endsWith("/") ? `${entry.parentPath}${entry.name}` : `${entry.parentPath}/${entry.name}`)
  return found.sort()
}

/** Whether there is such a file or folder, or one that matches. */
export const isThere = (path: string): boolean => existsSync(path) || (isPattern(path) && globSync(path).length > 0)
