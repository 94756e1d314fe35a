/** A user's folder that is written completely or not at all: filled under a temporary name, then renamed. */
import { randomBytes } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, realpathSync, renameSync, rmSync, statSync } from "node:fs"
import { basename, dirname, join, resolve, sep } from "node:path"
import { messageOf, StoreError } from "../../runtime/errors.ts"
import { allOf, syncPath } from "../../runtime/store/durable.ts"
import { exitCodes, UsageError } from "../command.ts"

const isWithin = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`)

export interface Target {
  /** What errors say was being done: "Exporting to". */
  readonly doing: string
  /** The folder's final path. */
  readonly path: string
  /** Whether it replaces an existing non-empty folder. */
  readonly replaces: boolean
}

/**
 * The folder to write. Throws a UsageError for a non-empty folder without `force`, for a file, and for a folder that contains any of `kept` or lies
 * within one of them.
 */
export const targetOf = (
  text: string,
  { doing = "Exporting to", force, kept }: { readonly doing?: string; readonly force: boolean; readonly kept: ReadonlyArray<string> }
): Target => {
  const refuse = (what: string) => new UsageError(`${doing} ${text}: ${what}`)
  if (text === "") throw refuse("the folder's name is empty. Give a new folder.")
  let path = resolve(text)
  const found = statSync(path, { throwIfNoEntry: false })
  if (found !== undefined) path = realpathSync(path)
  if (found !== undefined && !found.isDirectory()) throw refuse("it is a file. Choose a new folder.")
  const real = kept.filter((one) => existsSync(one)).map((one) => realpathSync(one))
  const within = real.find((one) => isWithin(path, one))
  if (within !== undefined) throw refuse(`it is inside ${within}, which must not change. Choose another folder.`)
  const replaces = found !== undefined && readdirSync(path).length > 0
  if (replaces && !force) throw refuse("the folder is not empty. Choose a new folder, or replace its content with --force.")
  const holds = [...real, realpathSync(process.cwd())].find((one) => isWithin(one, path))
  if (found !== undefined && holds !== undefined) throw refuse(`it contains ${holds}, which would be deleted. Choose a new folder.`)
  return { doing, path, replaces }
}

const advice: Readonly<Record<string, string>> = {
  ENOSPC: "Free some space, or choose a folder on another disk",
  EDQUOT: "Free some space, or choose a folder on another disk",
  EACCES: "Make its parent folder writable, or choose another folder",
  EPERM: "Make its parent folder writable, or choose another folder",
  EROFS: "The disk is read-only: choose a folder on another disk"
}

/** Explains a failed write and says that nothing is left of it. Errors that are not from the file system pass through. */
const explained = (cause: unknown, { doing, path }: Target): unknown => {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  if (code === undefined || !/^E[A-Z]+$/.test(code)) return cause
  return new StoreError({
    message: `${doing} ${path}: ${messageOf(cause)}. ${advice[code] ?? "Choose another folder"}. What was written was removed.`
  })
}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const

/** Creates the folder: `fill` writes into an empty temporary folder next to it, which is renamed once everything is on disk, and removed on failure. */
export const writeFolder = async <A>(target: Target, fill: (folder: string) => Promise<A>): Promise<A> => {
  const { path, replaces } = target
  const beside = (what: string) => join(dirname(path), `.${basename(path)}.${what}-${randomBytes(4).toString("hex")}`)
  const [made, old] = [beside("new"), beside("old")]
  const remove = () => rmSync(made, { recursive: true, force: true })
  const stop = () => {
    remove()
    process.exit(exitCodes.interrupted)
  }
  for (const signal of signals) process.on(signal, stop)
  try {
    mkdirSync(dirname(path), { recursive: true })
    mkdirSync(made)
    const result = await fill(made)
    await allOf(readdirSync(made, { recursive: true, encoding: "utf8" }).map((name) => syncPath(join(made, name))))
    await syncPath(made)
    if (replaces) renameSync(path, old)
    try {
      renameSync(made, path)
    } catch (cause) {
      if (replaces) renameSync(old, path)
      throw cause
    }
    await syncPath(dirname(path))
    rmSync(old, { recursive: true, force: true })
    return result
  } catch (cause) {
    remove()
    throw explained(cause, target)
  } finally {
    for (const signal of signals) process.off(signal, stop)
  }
}
