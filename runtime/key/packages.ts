/**
 * Packages as part of a stage's code: resolved as Node does, and identified. Installed packages are identified by the lock file entries of the
 * package and all its dependencies, and the installed versions must match; linked packages (workspaces, npm link) by their content.
 */
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs"
import { basename, dirname, join, relative, sep } from "node:path"
import { PipelineError } from "../errors.ts"

/** Digests of files by path, and of folders by path and "/": each is read once per run, however many stages share it. */
export class FileDigests {
  readonly #known = new Map<string, string | undefined>()
  of(path: string): string | undefined {
    if (!this.#known.has(path)) this.#known.set(path, path.endsWith("/") ? digestOfFolder(path) : digestOfFile(path))
    return this.#known.get(path)
  }
}

export const digestOfFile = (path: string): string | undefined => {
  try {
    return createHash("sha256").update(readFileSync(path)).digest("hex")
  } catch {
    return undefined
  }
}

/** All files in a folder except installed packages and names that start with a dot. */
const digestOfFolder = (path: string): string | undefined => {
  const hash = createHash("sha256")
  const add = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name === "node_modules" || entry.name.startsWith(".")) continue
      const inner = join(folder, entry.name)
      if (entry.isDirectory()) add(inner)
      else hash.update(`${relative(path, inner)}:${digestOfFile(inner)};`)
    }
  }
  try {
    add(path)
    return hash.digest("hex")
  } catch {
    return undefined
  }
}

interface Manifest {
  readonly name?: string
  readonly version?: string
  readonly exports?: unknown
}
export const manifestOf = (folder: string): Manifest => {
  try {
    return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest
  } catch {
    return {}
  }
}

/** The folder of the package that contains a file. */
export const packageRoot = (file: string): string => {
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json")) || folder === dirname(folder)) return folder
  }
}

/** "effect/Schema" -> "effect", "@effect/platform-node/x" -> "@effect/platform-node" */
export const packageName = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/")

/** Where Node finds a package from a folder: the nearest node_modules upwards. */
export const packageFolder = (name: string, from: string): string | undefined => {
  for (let folder = from; ; folder = dirname(folder)) {
    const found = join(folder, "node_modules", name)
    if (existsSync(join(found, "package.json"))) return found
    if (folder === dirname(folder)) return undefined
  }
}

/** "/project/node_modules/effect" -> "effect" */
const nameIn = (path: string): string => path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length)
const inModules = `${sep}node_modules${sep}`
/** Whether a path is installed, rather than a source that a link in node_modules points to. */
export const isInstalled = (path: string): boolean => realpathSync(path).includes(inModules)

interface LockEntry {
  readonly version?: string
  readonly integrity?: string
  readonly resolved?: string
  readonly link?: boolean
  readonly optional?: boolean
  readonly devOptional?: boolean
  readonly inBundle?: boolean
  readonly dependencies?: Record<string, string>
  readonly optionalDependencies?: Record<string, string>
}

/** The lock file that applies to a file: the nearest package-lock.json upwards, outside any node_modules. */
const nearestLock = (from: string): string | undefined => {
  const at = from.indexOf(inModules)
  for (let folder = at === -1 ? dirname(from) : from.slice(0, at); ; folder = dirname(folder)) {
    const path = join(folder, "package-lock.json")
    if (existsSync(path)) return path
    if (folder === dirname(folder)) return undefined
  }
}

/** The identities of the packages in these folders and of all their dependencies. `from` is the file whose lock file's names need no prefix. */
export const packageEntries = (
  folders: Iterable<string>,
  from: string,
  digests: FileDigests
): { readonly entries: Record<string, string>; readonly inputs: Set<string> } => {
  const entries: Record<string, string> = {}
  /** The files that the entries were read from. */
  const inputs = new Set<string>()
  const main = nearestLock(from)
  const locks = new Map<string, Record<string, LockEntry>>()
  const readLock = (path: string): Record<string, LockEntry> => {
    let packages = locks.get(path)
    if (packages === undefined) {
      packages = (JSON.parse(readFileSync(path, "utf8")) as { packages?: Record<string, LockEntry> }).packages ?? {}
      locks.set(path, packages)
      inputs.add(path)
    }
    return packages
  }
  const contentOf = (folder: string): string => {
    inputs.add(`${folder}/`)
    return digests.of(`${folder}/`) ?? "none"
  }
  /** Without a lock file, or without an entry in it: the version. */
  const byVersion = (name: string, folder: string): void => {
    inputs.add(join(folder, "package.json"))
    entries[name] = String(manifestOf(folder).version)
  }
  /** Where a lock file's entry is installed: if the project has no such folder, Node continues upwards from the requiring package. */
  const installedAt = (lock: string, path: string): string => {
    const here = join(dirname(lock), path)
    if (existsSync(here)) return here
    const inner = path.lastIndexOf(inModules)
    return packageFolder(nameIn(path), inner === -1 ? dirname(lock) : installedAt(lock, path.slice(0, inner))) ?? here
  }
  const checkInstalled = (lock: string, path: string, { devOptional, optional, version }: LockEntry): void => {
    const folder = installedAt(lock, path)
    inputs.add(join(folder, "package.json"))
    const installed = manifestOf(folder).version
    // Probably for another platform.
    if (installed === version || (installed === undefined && (optional === true || devOptional === true))) return
    throw new PipelineError({
      message: `${path} is ${installed === undefined ? "not installed" : `installed in version ${installed}`}, but ${lock} expects ${version}: the code that runs would not match the key. Run npm ci, then try again.`
    })
  }
  const visit = (lock: string, path: string, packages: Record<string, LockEntry>): void => {
    const entry = packages[path]!
    const prefix = lock === main ? "" : `${manifestOf(dirname(lock)).name ?? basename(dirname(lock))}/`
    if (`${prefix}${path}` in entries) return
    if (entry.link === true) {
      // Reached through an installed package; a stage's direct imports from a linked package are in its bundle.
      entries[`${prefix}${path}`] = `linked ${contentOf(join(dirname(lock), entry.resolved ?? path))}`
      if (entry.resolved !== undefined && packages[entry.resolved] !== undefined) visitDependencies(lock, entry.resolved, packages)
      return
    }
    checkInstalled(lock, path, entry)
    // A copied folder has nothing else that identifies its content; a git commit is part of `resolved`.
    const told = entry.integrity !== undefined || entry.inBundle === true || entry.resolved?.startsWith("git") === true
    entries[`${prefix}${path}`] =
      `${entry.version ?? ""} ${entry.integrity ?? entry.resolved ?? ""}${told ? "" : ` ${contentOf(join(dirname(lock), path))}`}`
    visitDependencies(lock, path, packages)
  }
  const visitDependencies = (lock: string, path: string, packages: Record<string, LockEntry>): void => {
    const { dependencies, optionalDependencies } = packages[path]!
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      // As Node resolves: the nearest node_modules upwards.
      for (let base = path; ; base = base.includes("/") ? base.slice(0, base.lastIndexOf("/")) : "") {
        const found = base === "" ? `node_modules/${name}` : `${base}/node_modules/${name}`
        if (packages[found] !== undefined) visit(lock, found, packages)
        if (packages[found] !== undefined || base === "") break
      }
    }
  }
  for (const folder of folders) {
    const name = nameIn(folder)
    // Found above the project but listed in its lock file: correct. Other packages next to it (a linked package's own) are not.
    const holder = folder.slice(0, folder.lastIndexOf(inModules))
    const above = main !== undefined && dirname(main).startsWith(holder + sep) && readLock(main)[`node_modules/${name}`] !== undefined
    if (above) {
      visit(main, `node_modules/${name}`, readLock(main))
      continue
    }
    const lock = nearestLock(join(folder, "package.json"))
    const packages = lock === undefined ? {} : readLock(lock)
    const path = lock === undefined ? "" : relative(dirname(lock), folder)
    if (packages[path] === undefined) byVersion(name, folder)
    else visit(lock!, path, packages)
  }
  return { entries, inputs }
}
