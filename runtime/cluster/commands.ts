/** Slurm's commands: sbatch, squeue, scancel, scontrol, sinfo. */
import { execFile } from "node:child_process"

/** "none": the command does not exist; "down": the controller does not respond; "refused": it responds with a reason. */
export class SlurmError extends Error {
  readonly kind: "none" | "down" | "refused"
  constructor(kind: SlurmError["kind"], message: string) {
    super(message)
    this.kind = kind
  }
}

/** A command without output for this many milliseconds is aborted. */
const patience = 60_000
const isDown = (text: string) =>
  /unable to contact slurm controller|connection refused|socket timed out|connect failure|zero bytes were transmitted|unable to establish|communication|i\/o error|backup controller/i.test(
    text
  )

const call = (program: string, args: ReadonlyArray<string>): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile(program, args, { encoding: "utf8", timeout: patience, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout)
      if ((error as NodeJS.ErrnoException).code === "ENOENT")
        return reject(new SlurmError("none", `Slurm is not installed here: the command ${program} was not found`))
      const said = stderr
        .trim()
        .replaceAll(/^(sbatch|squeue|scancel|scontrol|sinfo): (error: )?/gm, "")
        .replaceAll("\n", "; ")
      if (error.killed === true || isDown(stderr)) return reject(new SlurmError("down", said === "" ? `${program} does not respond` : said))
      reject(new SlurmError("refused", said === "" ? error.message : said))
    })
  })

export interface JobState {
  readonly id: string
  readonly state: string
  readonly reason: string
  readonly nodes: string
  readonly partition: string
  readonly comment: string
  readonly name: string
}

const fields = ["%i", "%T", "%r", "%N", "%P", "%k", "%j"]

/** The user's jobs, including finished jobs that Slurm still remembers. */
export const jobStates = async (): Promise<ReadonlyArray<JobState>> => {
  const text = await call("squeue", ["--me", "--states=all", "--noheader", `--format=${fields.join("\u001f")}`])
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [id = "", state = "", reason = "", nodes = "", partition = "", comment = "", name = ""] = line.trim().split("\u001f")
      return { id, state, reason, nodes, partition, comment, name }
    })
}

/** Submits a job; returns its id. */
export const submit = async (args: ReadonlyArray<string>): Promise<string> => {
  const text = await call("sbatch", ["--parsable", ...args])
  const id = text.trim().split(";")[0]!
  if (!/^\d+$/.test(id)) throw new SlurmError("refused", `sbatch printed ${JSON.stringify(text)}, expected a job id`)
  return id
}

export const cancel = async (ids: ReadonlyArray<string>): Promise<void> => {
  if (ids.length > 0) await call("scancel", ids)
}

/** Lets a requeued job start without the two minutes that Slurm gives nodes to recover. */
export const startNow = (id: string): Promise<string> => call("scontrol", ["update", `JobId=${id}`, "StartTime=now"])

/** The partitions, with the resources of their nodes. */
export const partitions = async (): Promise<ReadonlyMap<string, string>> => {
  const text = await call("sinfo", ["--noheader", "--format=%R|%D nodes, %c cores, %m MiB, %G"])
  return new Map(text.split("\n").flatMap((line) => (line.includes("|") ? [line.split("|") as [string, string]] : [])))
}
