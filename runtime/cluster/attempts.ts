/** A job's folder from the driver's point of view: attempts, their events as they arrive, their outcomes. */
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  statSync
} from "node:fs"
import { dirname, join } from "node:path"
import { StringDecoder } from "node:string_decoder"
import { isAbsent, StageError } from "../errors.ts"
import type { Job } from "../run/run-stage.ts"
import { type JobEvent, type JobOutcome, readJsonFile, readWhole, type Started } from "./job-files.ts"

export interface Attempts {
  readonly current: string | undefined
  readonly started: Started | undefined
  /** The newest attempt's outcome, or that of an older attempt that is done and computed the same. */
  readonly outcome: JobOutcome | undefined
  /** The attempt with this outcome. */
  readonly of: string | undefined
}

const list = (folder: string): ReadonlyArray<string> => {
  try {
    return readdirSync(folder).filter((name) => /^\d+-\d+$/.test(name))
  } catch (cause) {
    if (isAbsent(cause)) return []
    throw cause
  }
}

export const attemptsIn = (folder: string): Attempts => {
  // First: opening the folder makes a shared file system refresh it, which reading a single file may not do.
  const names = list(folder)
  const current = readWhole(join(folder, "current"))
  for (const name of names) {
    if (name === current) continue
    const outcome = readJsonFile(join(folder, name, "outcome.json")) as JobOutcome | undefined
    if (outcome?.type === "done" || (outcome !== undefined && current === undefined))
      return { current, started: undefined, outcome, of: name }
  }
  if (current === undefined) return { current, started: undefined, outcome: undefined, of: undefined }
  const started = readJsonFile(join(folder, current, "started.json")) as Started | undefined
  return { current, started, outcome: readJsonFile(join(folder, current, "outcome.json")) as JobOutcome | undefined, of: current }
}

/** Reads the lines appended to a file since the last call. */
export const tail = (path: string): (() => ReadonlyArray<JobEvent>) => {
  let at = 0
  let rest = ""
  const decoder = new StringDecoder("utf8")
  return () => {
    if (!existsSync(path)) return []
    const file = openSync(path, "r")
    try {
      const { size } = fstatSync(file)
      const piece = Buffer.alloc(Math.min(size - at, 1 << 20))
      if (piece.length === 0) return []
      at += readSync(file, piece, 0, piece.length, at)
      const lines = (rest + decoder.write(piece)).split("\n")
      rest = lines.pop() ?? ""
      return lines.flatMap((line) => {
        try {
          return [JSON.parse(line) as JobEvent]
        } catch {
          // A line truncated by a full disk.
          return []
        }
      })
    } finally {
      closeSync(file)
    }
  }
}

/** Moves an attempt's output to its place in the run. Returns false while parts of it are not visible yet, as can happen on a shared file system. */
export const takeOutput = (folder: string, attempt: string, outcome: JobOutcome & { readonly type: "done" }, job: Job): boolean => {
  const output = join(folder, attempt, "output")
  const isWhole = outcome.files.every(({ path, size }) => statSync(join(output, path), { throwIfNoEntry: false })?.size === size)
  if (!isWhole) return false
  const move = (from: string, to: string) => {
    try {
      if (existsSync(to)) rmdirSync(to)
      mkdirSync(dirname(to), { recursive: true })
      renameSync(from, to)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EXDEV") throw cause
      throw new StageError({
        reason: "Cluster",
        message: `Moving the job's result ${from} to ${to}: they are on different file systems. The home's objects, tmp, checkpoints and jobs must be on the same one: set it with \`slurm.folder\` in caravan.json.`,
        isRetryable: false
      })
    }
  }
  const sidecar = join(folder, attempt, "sidecar")
  if (job.sidecar !== undefined && job.sidecar !== null && existsSync(sidecar)) move(sidecar, job.sidecar)
  move(output, job.output)
  return true
}

/** The end of the output of the job's script and of Slurm. */
export const lastWords = (folder: string): string => {
  try {
    const text = readFileSync(join(folder, "slurm.log"), "utf8").trim()
    return text === "" ? "" : ` Its last output:\n${text.slice(-2000)}`
  } catch {
    return ""
  }
}
