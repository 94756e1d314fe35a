/** A folder of the user's that is there whole or not at all: filled beside its place, then renamed. */
import { randomBytes } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, realpathSync, renameSync, rmSync, statSync } from "node:fs"
import { basename, dirname, join, resolve, sep } from "node:path"
import { messageOf, StoreError } from "../../runtime/errors.ts"
import { allOf, syncPath } from "../../runtime/store/durable.ts"
import { exitCodes, UsageError } from "../command.ts"

const isWithin = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`)

export interface Target {
  /** Where the folder will be. */
  readonly path: string
  /** Whether one with something in it is there, which goes. */
  readonly replaces: boolean
}

/**
 * The folder that is to be written. Throws a UsageError when it may not be: one with something in it, without `force`; a file; one that holds any of
 * `kept`, or is within one of them.
 */
export const targetOf = (text: string, { force, kept }: { readonly force: boolean; readonly kept: ReadonlyArray<string> }): Target => {
  const refuse = (what: string) => new UsageError(`Exporting to ${text}: ${what}`)
  if (text === "") throw refuse("the folder has no name. Name a new folder.")
  let path = resolve(text)
  const found = statSync(path, { throwIfNoEntry: false })
  if (found !== undefined) path = realpathSync(path)
  if (found !== undefined && !found.isDirectory()) throw refuse("it is a file. Name a new folder.")
  const real = kept.filter((one) => existsSync(one)).map((one) => realpathSync(one))
  const within = real.find((one) => isWithin(path, one))
  if (within !== undefined) throw refuse(`it is within ${within}, which is not to change. Name another folder.`)
  const replaces = found !== undefined && readdirSync(path).length > 0
  if (replaces && !force) throw refuse("the folder is not empty. Name a new folder, or replace all that is in it with --force.")
  const holds = [...real, realpathSync(process.cwd())].find((one) => isWithin(one, path))
  if (found !== undefined && holds !== undefined) throw refuse(`it holds ${holds}, which would go. Name a new folder.`)
  return { path, replaces }
}

const advice: Readonly<Record<string, string>> = {
  ENOSPC: "Free some space, or name a folder on another disk",
  EDQUOT: "Free some space, or name a folder on another disk",
  EACCES: "Make the folder that it is in writable, or name another",
  EPERM: "Make the folder that it is in writable, or name another",
  EROFS: "The disk is read-only: name a folder on another"
}

/** Says what of writing an export failed, and that nothing is left of it. Other errors than the file system's stay as they are. */
const explained = (cause: unknown, path: string): unknown => {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  if (code === undefined || !/^E[A-Z]+$/.test(code)) return cause
  return new StoreError({
    message: `Exporting to ${path}: ${messageOf(cause)}. ${advice[code] ?? "Name another folder"}; what was written is removed again.`
  })
}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const

/** Makes the folder: `fill` gets an empty one beside it, which takes its name when all in it is on the disk, and is removed when anything fails. */
export const writeFolder = async <A>({ path, replaces }: Target, fill: (folder: string) => Promise<A>): Promise<A> => {
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
    throw explained(cause, path)
  } finally {
    for (const signal of signals) process.off(signal, stop)
  }
}
