/** Glob patterns for several files ("data/*.parquet"), allowed wherever a path is. */
import { existsSync, globSync, statSync } from "node:fs"
import { glob } from "node:fs/promises"

/** Whether a path is a pattern; the name of an existing file or folder is not. */
export const isPattern = (path: string): boolean => /[*?[\]{}]/.test(path) && !existsSync(path)

/** The longest leading folder of a pattern without a wildcard; file names are relative to it. */
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

/** The files that a pattern matches, sorted by name. Matching folders, and links to folders, are ignored. */
export const filesMatching = async (pattern: string): Promise<Array<string>> => {
  const found: Array<string> = []
  for await (const entry of glob(pattern, { withFileTypes: true }))
    if (!entry.isDirectory()) {
      const path = entry.parentPath.endsWith("/") ? `${entry.parentPath}${entry.name}` : `${entry.parentPath}/${entry.name}`
      if (!entry.isSymbolicLink() || statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) found.push(path)
    }
  return found.sort()
}

/** Whether the path, or a match of the pattern, exists. */
export const isThere = (path: string): boolean => existsSync(path) || (isPattern(path) && globSync(path).length > 0)
