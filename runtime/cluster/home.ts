/**
 * A store with its data on a file system shared by all nodes and its databases local to the driver: `objects/` and others in the home are links into
 * the folder. Each folder belongs to one home and one driver at a time: a second driver would sweep or collect the first one's files.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, rmdirSync, rmSync, statfsSync, statSync, symlinkSync } from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import { messageOf } from "../errors.ts"
import { processSpace } from "../store/process-identity.ts"
import { readJsonFile, writeJson } from "./job-files.ts"

/** Folders that jobs read and write, or that files are renamed into or out of. */
const shared = ["objects", "tmp", "checkpoints", "jobs", "trash", "quarantine"]

class Refused extends Error {}
const refuse = (message: string) => new Refused(message)

const linkFolder = (home: string, folder: string, name: string): void => {
  const [here, there] = [join(home, name), join(folder, name)]
  mkdirSync(there, { recursive: true })
  const found = lstatSync(here, { throwIfNoEntry: false })
  if (found?.isSymbolicLink() === true) {
    const target = existsSync(here) ? realpathSync(here) : "nowhere"
    if (target === realpathSync(there)) return
    throw refuse(
      `The store's ${here} points to ${target}, but \`slurm.folder\` in caravan.json is ${folder}. Make them the same: change caravan.json back, or move the files and delete the link.`
    )
  }
  if (found !== undefined) {
    if (readdirSync(here).length > 0)
      throw refuse(
        `The store ${home} has its own results in ${name}/, but \`slurm.folder\` in caravan.json puts them in ${folder}. Move them while nothing runs (rmdir ${there} && mv ${here} ${there}), or use another store (CARAVAN_HOME).`
      )
    rmdirSync(here)
  }
  symlinkSync(there, here)
}

interface Driver {
  readonly home: string
  readonly host: string
  readonly space: string
  readonly pid: number
}
/** Interval between a driver's heartbeats, and the time without one after which it counts as gone, in milliseconds. */
const beat = { every: 20_000, gone: 90_000 }

/** Another user of the folder, if any; times are from the file system's own clock. */
const otherDriver = (folder: string, mine: Driver): string | undefined => {
  const path = join(folder, "driver.json")
  const found = readJsonFile(path) as Driver | undefined
  if (found === undefined) return undefined
  if (found.home !== mine.home)
    return `the folder ${folder} belongs to the store ${found.home} (of ${found.host}), not to ${mine.home}. Give each store a separate folder (\`slurm.folder\` in caravan.json), or delete ${path} if that store no longer exists. To share results between stores, use --shared`
  if (found.space === mine.space) return undefined
  const clock = join(folder, `clock-${mine.pid}`)
  writeJson(clock, {})
  const age = statSync(clock).mtimeMs - statSync(path).mtimeMs
  rmSync(clock, { force: true })
  if (age > beat.gone) return undefined
  return `another driver uses ${folder}: process ${found.pid} on ${found.host}, last active ${Math.round(age / 1000)} s ago. Stop it, or wait ${Math.ceil((beat.gone - age) / 1000)} s if it has already ended: a store can have one driver machine at a time`
}

/** Runs `body` while no other driver can check or claim the folder: two that start at the same moment would both find it free. */
const exclusively = <A>(folder: string, body: () => A): A => {
  const lock = join(folder, "driver.lock")
  for (let tries = 0; ; tries++) {
    try {
      mkdirSync(lock)
      break
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause
      if (tries === 100)
        throw refuse(
          `Jobs can't be submitted: another driver is claiming ${folder}. Run again. If no other run is starting, delete ${lock}.`
        )
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30)
    }
  }
  try {
    return body()
  } finally {
    rmdirSync(lock)
  }
}

/** Prepares the home for jobs; returns a function that releases the driver's claim. Throws an Error that says what prevents it. */
export const claimFolder = (home: string, named: string | undefined): (() => void) => {
  try {
    mkdirSync(home, { recursive: true })
    const folder = named ?? home
    if (named !== undefined) {
      if (statSync(named, { throwIfNoEntry: false })?.isDirectory() !== true)
        throw refuse(
          `The folder ${named}, set by \`slurm.folder\` in caravan.json, does not exist. Create it on a file system shared by all nodes.`
        )
      for (const name of shared) linkFolder(home, named, name)
    } else for (const name of shared) mkdirSync(join(home, name), { recursive: true })
    const mine: Driver = { home: realpathSync(home), host: hostname(), space: processSpace(), pid: process.pid }
    const say = () => writeJson(join(folder, "driver.json"), mine)
    exclusively(folder, () => {
      const other = otherDriver(folder, mine)
      if (other !== undefined) throw refuse(`Jobs can't be submitted: ${other}.`)
      say()
    })
    const timer = setInterval(() => {
      try {
        say()
      } catch {
        // A full disk: others may meanwhile consider this driver gone.
      }
    }, beat.every).unref()
    return () => clearInterval(timer)
  } catch (cause) {
    if (cause instanceof Refused) throw cause
    throw refuse(`Preparing ${named ?? home} for jobs: ${messageOf(cause)}. Free some space, or fix the folder.`)
  }
}

/** The cached numerics of a node (probe.ts). */
export const nodeNumerics = (home: string, identity: string): string => join(home, "numerics", `slurm-${identity}.json`)
/** Deletes all cached numerics of nodes; returns whether there were any. */
export const forgetNodeNumerics = (home: string): boolean => {
  const folder = join(home, "numerics")
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith("slurm-")) : []
  for (const name of names) rmSync(join(folder, name), { force: true })
  return names.length > 0
}

/** A sentence if there is no space for the files of jobs, not even for an error report. Their folder may be on another file system than the home. */
export const fullness = (home: string): string => {
  const folder = join(home, "jobs")
  try {
    const { bavail, bsize } = statfsSync(folder)
    return bavail * bsize < 1 << 20 ? ` The folder ${folder} is full: free some space, then run again.` : ""
  } catch (cause) {
    return ` The folder ${folder} can't be read: ${messageOf(cause)}.`
  }
}
