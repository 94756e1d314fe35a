/** Submits a job once: finds the job already submitted under a key, by this driver or by one that ended. */
import { randomUUID } from "node:crypto"
import { chmodSync, mkdirSync, realpathSync, rmSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { messageOf, StageError } from "../errors.ts"
import type { Work } from "../run/execute.ts"
import type { Job } from "../run/run-stage.ts"
import { attemptsIn } from "./attempts.ts"
import { cancel, partitions, SlurmError, submit } from "./commands.ts"
import { type Request, sbatchArguments } from "./config.ts"
import { fullness } from "./home.ts"
import { type JobFile, jobFormat, readJsonFile, type Submission, writeJson, writeWhole } from "./job-files.ts"
import { isAlive, type States } from "./states.ts"

/** Modules that a job needs and that the runtime does not know. */
export interface Engine {
  /** Sets up the tensor engine in a child (child.ts). */
  readonly prepare?: string | undefined
  /** Its `numericsOf(device, threads, folder)` reports a machine's numerics. */
  readonly describe?: string | undefined
  /** Identifies its source: numerics that another version reported are not used. */
  readonly version?: (() => string) | undefined
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
const beside = (name: string): string => fileURLToPath(import.meta.resolve(`./${name}.${import.meta.url.endsWith(".ts") ? "ts" : "js"}`))

/** The real path: links of the home may not resolve on another machine. */
const real = (path: string): string => {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}
const realJob = (job: Job): Job => ({
  ...job,
  ...(job.shards === undefined || job.shards === null ? {} : { shards: join(real(dirname(job.shards)), basename(job.shards)) }),
  inputs: Object.fromEntries(
    Object.entries(job.inputs).map(([port, given]) => {
      const one = <A extends { readonly path: string }>(ref: A): A => ({ ...ref, path: real(ref.path) })
      return [port, given === null ? null : Array.isArray(given) ? given.map(one) : one(given as { readonly path: string } & typeof given)]
    })
  ) as Job["inputs"]
})

/** The script of a job that runs a module of this folder. */
export const scriptOf = (module: "worker" | "probe-worker", args: ReadonlyArray<string>, request: Request): string =>
  [
    "#!/bin/bash",
    "# Written by caravan. Slurm runs it on the job's first node.",
    ...(request.setup === undefined ? [] : [request.setup]),
    // Compiled code is kept on the node: it halves the CPU time of a worker's start.
    `export NODE_COMPILE_CACHE="\${NODE_COMPILE_CACHE:-\${TMPDIR:-/tmp}/node-compile-cache}"`,
    // exec, so that Slurm's signals reach the worker itself.
    `exec ${[process.execPath, beside(module), ...args].map(quoted).join(" ")}`,
    ""
  ].join("\n")

const trouble = (message: string, isRetryable = false) => new StageError({ reason: "Slurm", message, isRetryable })

/** Explains a request that Slurm refused, with advice. */
const refused = async (node: string, request: Request, said: string): Promise<StageError> => {
  const there = await partitions().catch(() => new Map<string, string>())
  const list = [...there].map(([name, has]) => `${name} (${has})`).join(", ")
  const asked = sbatchArguments(request).join(" ")
  if (/configuration source/i.test(said))
    return trouble(
      `Submitting the job of node "${node}": Slurm is not configured on this machine: ${said}. Run on a login node, or set SLURM_CONF to the path of slurm.conf.`
    )
  return trouble(
    `Slurm refused the job of node "${node}": ${said}. The request was ${asked} (profile "${request.name}" in caravan.json).${list === "" ? "" : ` Partitions: ${list}.`} Change the profile, or the node's on({ ... }).`
  )
}

/** How long to wait for an unresponsive controller when submitting a job, in milliseconds. */
const patience = 600_000
const pause = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))

export interface Submitting {
  readonly work: Work
  readonly on: NonNullable<Work["on"]>
  readonly folder: string
  readonly request: Request
  readonly states: States
  readonly engine: Engine
  readonly home: string
  readonly note: (message: string) => void
}

const path = (folder: string) => join(folder, "submission.json")

/** A living job of an earlier driver; undefined if there is none. */
export const findSubmission = async (
  { folder, note, request, states }: Submitting,
  signal: AbortSignal
): Promise<Submission | undefined> => {
  const found = readJsonFile(path(folder)) as (Submission & { readonly args: string }) | undefined
  if (found === undefined) return undefined
  let all = await states.all(0)
  if (all === "unknown") note("Slurm's controller does not respond: waiting for it, to find the job that was submitted before")
  for (const until = performance.now() + patience; all === "unknown" && performance.now() < until && !signal.aborted;) {
    await pause(2000)
    all = await states.all(0)
  }
  if (all === "unknown")
    throw trouble(
      "Slurm's controller does not respond (scontrol ping), so it is unknown whether a job of this node is running. Run again once it responds.",
      true
    )
  const job = all.find(({ comment }) => comment === found.token)
  if (job === undefined || !isAlive(job)) return undefined
  // It has failed, and Slurm is still cleaning up after it: a retry needs a new job.
  const { of, outcome } = attemptsIn(folder)
  if (outcome?.type === "failed" && of?.startsWith(`${job.id}-`) === true) return undefined
  if (job.state === "PENDING" && found.args !== sbatchArguments(request).join(" ")) {
    note(`job ${job.id} of an earlier run is pending with another profile: it is cancelled and submitted again`)
    await cancel([job.id])
    return undefined
  }
  note(`job ${job.id} of an earlier run continues (${job.state.toLowerCase()}): waiting for it`)
  return { ...found, id: job.id }
}

/** Submits a new job. Its folder is emptied first; checkpoints are elsewhere. */
export const submitNew = async (given: Submitting, signal: AbortSignal): Promise<Submission> => {
  const { engine, folder, home, note, on, request, states, work } = given
  const submission: Submission = { token: `caravan-${randomUUID()}`, id: null, node: on.node, profile: request.name, at: Date.now() }
  const job: JobFile = {
    format: jobFormat,
    key: on.key,
    node: on.node,
    stage: work.stage.name,
    job: {
      ...realJob(work.job),
      checkpoints: work.job.checkpoints && { ...work.job.checkpoints, folder: join(real(home), "checkpoints", on.key) }
    },
    code: work.code,
    limits: work.limits ?? {},
    numerics: on.numerics,
    prepare: (work.stage.resources.tensors === true ? engine.prepare : undefined) ?? null,
    describe: engine.describe ?? null,
    numericsFolder: join(real(home), "numerics")
  }
  try {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    writeJson(join(folder, "job.json"), job)
    writeWhole(join(folder, "job.sh"), scriptOf("worker", [real(folder)], request))
    chmodSync(join(folder, "job.sh"), 0o755)
    writeJson(path(folder), { ...submission, args: sbatchArguments(request).join(" ") })
  } catch (cause) {
    throw trouble(`Writing the job of node "${on.node}" to ${folder}: ${messageOf(cause)}.${fullness(home)}`)
  }
  const name = `caravan-${on.node.replaceAll(/[^\w.-]/g, "_").slice(0, 40)}`
  const args = [
    `--job-name=${name}`,
    `--comment=${submission.token}`,
    `--output=${join(real(folder), "slurm.log")}`,
    "--open-mode=append",
    "--requeue",
    "--export=ALL",
    ...sbatchArguments(request),
    join(folder, "job.sh")
  ]
  for (const until = performance.now() + patience; ; await pause(2000)) {
    try {
      const id = await submit(args)
      // The run was interrupted in the meantime: nobody follows the job.
      if (signal.aborted && on.onInterruption() === "cancel") await cancel([id])
      const made = { ...submission, id }
      writeJson(path(folder), { ...made, args: sbatchArguments(request).join(" ") })
      return made
    } catch (cause) {
      if (!(cause instanceof SlurmError))
        throw trouble(`Recording the job of node "${on.node}" in ${folder}: ${messageOf(cause)}.${fullness(home)}`)
      if (signal.aborted) throw cause
      if (cause.kind === "none")
        throw trouble(`${cause.message}. Run where Slurm's commands are installed (a login node), or without --on slurm.`)
      if (cause.kind === "refused") throw await refused(on.node, request, cause.message)
      if (performance.now() > until)
        throw trouble(`Submitting the job of node "${on.node}": ${cause.message}. See \`scontrol ping\`, then run again.`, true)
      note(`Slurm's controller does not respond (${cause.message}): the job will be submitted once it does`)
      // It may have accepted the job without confirming it.
      const all = await states.all(0)
      const taken = all === "unknown" ? undefined : all.find(({ comment }) => comment === submission.token)
      if (taken !== undefined) return { ...submission, id: taken.id }
    }
  }
}
