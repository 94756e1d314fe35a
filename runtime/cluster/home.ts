/**
 * A store whose data lies on a file system that all nodes share, while its databases stay with the driver: `objects/` and the like of the home are links into the folder. One home a folder, one
 * driver at a time: what a second one sweeps or collects would be the first one's.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, rmdirSync, statfsSync, statSync, symlinkSync } from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import { messageOf } from "../errors.ts"
import { processSpace } from "../store/process-identity.ts"
import { readJsonFile, writeJson } from "./job-files.ts"

/** What jobs read and write, and what is renamed to and from there. */
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
      `The store's ${here} leads to ${target}, and \`slurm.folder\` of caravan.json says ${folder}. Make them the same: change caravan.json back, or move what is there and delete the link.`
    )
  }
  if (found !== undefined) {
    if (readdirSync(here).length > 0)
      throw refuse(
        `The store ${home} has results of its own in ${name}/, and \`slurm.folder\` of caravan.json wants them in ${folder}. Move them while nothing runs (rmdir ${there} && mv ${here} ${there}), or use another store (CARAVAN_HOME).`
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
/** How often a driver says that it is there, and after how long without that it counts as gone, in milliseconds. */
const beat = { every: 20_000, gone: 90_000 }

/** Who else uses the folder, if anybody; by the file system's own clock. */
const otherDriver = (folder: string, mine: Driver): string | undefined => {
  const path = join(folder, "driver.json")
  const found = readJsonFile(path) as Driver | undefined
  if (found === undefined) return undefined
  if (found.home !== mine.home)
    return `the folder ${folder} belongs to the store ${found.home} (of ${found.host}), not to ${mine.home}. Give each store a folder of its own (\`slurm.folder\` of caravan.json), or delete ${path} if that store is gone. To share results between stores, use --shared`
  if (found.space === mine.space) return undefined
  const clock = join(folder, `clock-${mine.pid}`)
  writeJson(clock, {})
  const age = statSync(clock).mtimeMs - statSync(path).mtimeMs
  if (age > beat.gone) return undefined
  return `another driver works in ${folder}: process ${found.pid} on ${found.host}, which was there ${Math.round(age / 1000)} s ago. Stop it, or wait ${Math.ceil((beat.gone - age) / 1000)} s if it is gone: one store has one driver's machine at a time`
}

/** Prepares the home for jobs; gives what ends the driver's claim to it. Throws an Error that says what is in the way. */
export const claimFolder = (home: string, named: string | undefined): (() => void) => {
  try {
    mkdirSync(home, { recursive: true })
    const folder = named ?? home
    if (named !== undefined) {
      if (statSync(named, { throwIfNoEntry: false })?.isDirectory() !== true)
        throw refuse(
          `There is no folder ${named}, which \`slurm.folder\` of caravan.json names. Make it on a file system that all nodes share.`
        )
      for (const name of shared) linkFolder(home, named, name)
    } else for (const name of shared) mkdirSync(join(home, name), { recursive: true })
    const mine: Driver = { home: realpathSync(home), host: hostname(), space: processSpace(), pid: process.pid }
    const other = otherDriver(folder, mine)
    if (other !== undefined) throw refuse(`No job can be submitted: ${other}.`)
    const say = () => writeJson(join(folder, "driver.json"), mine)
    say()
    const timer = setInterval(() => {
      try {
        say()
      } catch {
        // A full disk: who looks meanwhile takes this driver for gone.
      }
    }, beat.every).unref()
    return () => clearInterval(timer)
  } catch (cause) {
    if (cause instanceof Refused) throw cause
    throw refuse(`Preparing ${named ?? home} for jobs: ${messageOf(cause)}. Free some space, or fix the folder.`)
  }
}

/** "; the folder is full" where it is: what could not be written there could not be told of either. */
export const fullness = (folder: string): string => {
  try {
    const { bavail, bsize } = statfsSync(folder)
    return bavail * bsize < 1 << 20 ? ` The folder ${folder} is full: free some space, then run again.` : ""
  } catch (cause) {
    return ` The folder ${folder} can't be looked at: ${messageOf(cause)}.`
  }
}
