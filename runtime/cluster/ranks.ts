/**
 * A stage's ranks on several nodes of a job: started by one srun, one task per rank (rank-worker.ts). The ranks report through files, as a job does
 * to its driver.
 *
 *     <attempt>/ranks.json       the job, and the port on the first node where the ranks connect
 *     <attempt>/rank-<n>/        each rank's events.ndjson and outcome.json
 */
import { execFile, spawn } from "node:child_process"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { StageError } from "../errors.ts"
import type { Execute } from "../run/execute.ts"
import { freePort, type Member, together } from "../run/gang.ts"
import type { Job, Outcome } from "../run/run-stage.ts"
import { tail } from "./attempts.ts"
import { type JobOutcome, readJsonFile, writeJson } from "./job-files.ts"

/** The content of ranks.json. */
export interface RanksFile {
  readonly job: Job
  readonly port: number
}
export const ranksFile = (own: string): string => join(own, "ranks.json")
export const rankFolder = (own: string, rank: number): string => join(own, `rank-${rank}`)

/**
 * In milliseconds: how often a rank's files are read; how long a stage may take to save, and srun to end its tasks; how late files may become
 * visible; how long Slurm may take to notice a dead node, and a node to answer.
 */
const times = { look: 200, saving: 120_000, ending: 20_000, visible: 10_000, noticing: 600_000, answering: 20_000 }
const pause = (milliseconds: number) => new Promise<"late">((resolve) => setTimeout(resolve, milliseconds, "late").unref())

/** Tasks that srun reports as lost: "srun: error: n2: tasks 1,3-4: Killed". */
export const lostTasks = (line: string): ReadonlyArray<{ readonly rank: number; readonly node: string; readonly how: string }> => {
  const found = /^srun: error: ([^\s:]+): tasks? ([\d,-]+): (.+)$/.exec(line)
  if (found === null) return []
  const [, node, list, how] = found as unknown as [string, string, string, string]
  return list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?]
    return Array.from({ length: last - first + 1 }, (_, i) => ({ rank: first + i, node, how }))
  })
}

/** A running srun. */
interface Step {
  /** Why this rank will have no outcome, if known. */
  readonly lost: (rank: number) => string | undefined
  readonly node: (rank: number) => string | undefined
  readonly signal: (name: NodeJS.Signals) => void
  readonly ended: Promise<void>
}

const startStep = (folder: string, own: string, size: number, nodes: number): Step => {
  const program = fileURLToPath(import.meta.resolve(`./rank-worker.${import.meta.url.endsWith(".ts") ? "ts" : "js"}`))
  const { SLURM_CPUS_PER_TASK: cpus = "" } = process.env
  const args = [
    ...[`--nodes=${nodes}`, `--ntasks=${size}`, `--ntasks-per-node=${size / nodes}`, "--mpi=none", "--input=none"],
    // Since Slurm 22.05 srun does not inherit it from the job.
    ...(cpus === "" ? [] : [`--cpus-per-task=${cpus}`]),
    // The end of one rank must not end the others: which one failed first is decided here.
    ...["--kill-on-bad-exit=0", "--wait=0"],
    ...[process.execPath, program, folder, own]
  ]
  const srun = spawn("srun", args, { stdio: ["ignore", "inherit", "pipe"] })
  const lost = new Map<number, { readonly node: string; readonly how: string }>()
  let said = ""
  let end: { readonly at: number; readonly how: string } | undefined
  srun.stderr.setEncoding("utf8").on("data", (text: string) => {
    process.stderr.write(text)
    const lines = (said + text).split("\n")
    for (const line of lines) for (const { rank, ...task } of lostTasks(line)) if (!lost.has(rank)) lost.set(rank, task)
    said = (said + text).slice(-4000)
  })
  const ended = new Promise<void>((resolve) => {
    const finish = (how: string) => {
      end ??= { at: performance.now(), how }
      resolve()
    }
    srun.once("error", (error) => finish(`could not be started (${error.message})`))
    srun.once("close", (code, signal) => finish(code === null ? `was ended by ${signal}` : `ended with code ${code}`))
  })
  return {
    lost: (rank) => {
      const task = lost.get(rank)
      if (task !== undefined) return `its process has ended (${task.how.toLowerCase()}).`
      // Its outcome may not be visible here yet.
      const wait = end?.how === "ended with code 0" ? times.visible : times.look
      if (end === undefined || performance.now() - end.at < wait) return undefined
      return `srun, which started it, ${end.how}.${said.trim() === "" ? "" : ` Its last output:\n${said.trim().slice(-1500)}`}`
    },
    node: (rank) => lost.get(rank)?.node,
    signal: (name) => void srun.kill(name),
    ended
  }
}

/** Runs a stage as ranks on all nodes of this job. `stop`: Slurm has asked the ranks to save and end. */
export const onNodes =
  (folder: string, own: string, stop: (signal: string) => void): Execute =>
  (work) =>
    Effect.gen(function* () {
      const { nodes, size } = work.job.ranks!
      // Other nodes connect to it: it must be free on every address.
      const port = yield* freePort("")
      writeJson(ranksFile(own), { job: work.job, port } satisfies RanksFile)
      const step = startStep(folder, own, size, nodes)
      const outcomeOf = (rank: number) => readJsonFile(join(rankFolder(own, rank), "outcome.json")) as JobOutcome | undefined
      let killing: Promise<void> | undefined
      const kill = (): Promise<void> =>
        (killing ??= (async () => {
          // Finished ranks exit by themselves.
          const areDone = Array.from({ length: size }, (_, rank) => outcomeOf(rank)).every((outcome) => outcome?.type === "done")
          if (areDone) await Promise.race([step.ended, pause(times.visible)])
          // On this signal srun kills its tasks.
          step.signal("SIGTERM")
          if ((await Promise.race([step.ended, pause(times.ending)])) === "late") step.signal("SIGKILL")
          await step.ended
        })())
      /** Asks rank 0 to save; all ranks take part. */
      const save = async () => {
        step.signal("SIGUSR1")
        for (const until = performance.now() + times.saving; performance.now() < until; await pause(times.look))
          if (outcomeOf(0) !== undefined || step.lost(0) !== undefined) return
      }
      const member = (rank: number): Member => ({
        kill,
        execute: ({ onOutput, onProgress }) =>
          Effect.callback<Outcome, StageError>((resume) => {
            const read = tail(join(rankFolder(own, rank), "events.ndjson"))
            const hear = () => {
              for (let events = read(); events.length > 0; events = read())
                for (const event of events) {
                  if ("output" in event) onOutput?.(event.output)
                  else onProgress(event.progress)
                }
            }
            const finish = (result: Effect.Effect<Outcome, StageError>) => {
              clearInterval(timer)
              hear()
              resume(result)
            }
            const look = () => {
              hear()
              const outcome = outcomeOf(rank)
              if (outcome?.type === "done") return finish(Effect.succeed(outcome.outcome))
              if (outcome?.type === "failed") return finish(Effect.fail(new StageError(outcome.error)))
              if (outcome?.type === "stopped") return rank === 0 ? stop(outcome.signal) : undefined
              const lost = step.lost(rank)
              if (lost !== undefined) finish(Effect.fail(new StageError({ reason: "Lost", message: lost, isRetryable: true })))
            }
            const timer = setInterval(look, times.look)
            return Effect.promise(async () => {
              clearInterval(timer)
              if (rank === 0) await save()
            })
          })
      })
      const nodeOf = (rank: number) =>
        outcomeOf(rank)?.host ??
        (readJsonFile(join(rankFolder(own, rank), "started.json")) as { readonly host: string } | undefined)?.host ??
        step.node(rank)
      const members = Array.from({ length: size }, (_, rank) => member(rank))
      return yield* together(members, work, nodeOf).pipe(
        Effect.tapError(({ reason }) => (reason === "Lost" || reason === "RankError" ? waitWhileDead(nodes) : Effect.void))
      )
    })

/**
 * Lost ranks may belong to a node that died. Slurm then requeues the job once it notices, and ends this attempt: waits for that while a node does not
 * answer.
 */
const waitWhileDead = (nodes: number): Effect.Effect<void> =>
  Effect.promise(async (signal) => {
    const answer = () =>
      new Promise<boolean>((resolve) => {
        const args = ["--overlap", `--nodes=${nodes}`, `--ntasks=${nodes}`, "--ntasks-per-node=1", "--mem=0", "--mpi=none", "true"]
        execFile("srun", args, { timeout: times.answering, killSignal: "SIGKILL" }, (error) => resolve(error === null))
      })
    for (const until = performance.now() + times.noticing; performance.now() < until && !signal.aborted; await pause(2000))
      if (await answer()) return
  })
