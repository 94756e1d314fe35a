/**
 * Runs stages as Slurm jobs: submits a stage's job, follows it, and collects its output (docs/decisions/0024-clusters-and-shared-results.md). The
 * job's description is in its folder (job-files.ts); Slurm is only asked whether to keep waiting.
 */
import { existsSync, readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { messageOf, PipelineError, StageError } from "../errors.ts"
import type { Executor } from "../run/executor.ts"
import type { Execute, Work } from "../run/execute.ts"
import { attemptsIn, tail, takeOutput } from "./attempts.ts"
import { cancel, SlurmError, startNow } from "./commands.ts"
import { requestOf, type SlurmConfig, unknownProfile, defaultPollSeconds } from "./config.ts"
import { dealOut } from "./deal-out.ts"
import { type End, endOf, failed } from "./ends.ts"
import { claimFolder, forgetNodeNumerics } from "./home.ts"
import { jobFolder, type Submission } from "./job-files.ts"
import { type Known, isAlive, States } from "./states.ts"
import { type Engine, findSubmission, submitNew, type Submitting } from "./submission.ts"

/** Interval between two checks of a job's folder, in milliseconds; longer for long jobs. */
const looks = { least: 200, most: 2000 }
/** A job's last files may become visible this much later, in milliseconds. */
const visible = 10_000
/** Maximum number of resubmissions of a job that ends without a result and without a new checkpoint. */
const maxLost = 3
/** A clock that is off by more than this is reported, in milliseconds. */
const clockTolerance = 60_000

export interface SlurmOptions {
  readonly home: string
  readonly config: SlurmConfig
  readonly engine: Engine
}

const asStageError = (cause: unknown): StageError => {
  if (cause instanceof StageError) return cause
  const advice =
    cause instanceof SlurmError && cause.kind === "none"
      ? " Run where Slurm's commands are installed (a login node), or without --on slurm."
      : ""
  return new StageError({ reason: "Slurm", message: `${messageOf(cause)}.${advice}`, isRetryable: false })
}
const attempt = <A>(body: (signal: AbortSignal) => A | Promise<A>): Effect.Effect<A, StageError> =>
  Effect.tryPromise({ try: async (signal) => body(signal), catch: asStageError })

/** The newest checkpoint's name: to detect a new one. */
const checkpointOf = (work: Work): string => {
  try {
    return (
      readdirSync(work.job.checkpoints?.folder ?? "")
        .filter((name) => /^\d+$/.test(name))
        .sort()
        .at(-1) ?? ""
    )
  } catch {
    return ""
  }
}

/** Runs stages as Slurm jobs. */
export const slurm = (options: SlurmOptions): Executor["Service"] => ({
  open: slurmExecute(options),
  claim: Effect.acquireRelease(
    Effect.try({
      try: () => claimFolder(options.home, options.config.folder),
      catch: (cause) => new PipelineError({ message: messageOf(cause) })
    }),
    (end) => Effect.sync(end)
  )
})

const slurmExecute = ({ config, engine, home }: SlurmOptions): Effect.Effect<Execute> =>
  Effect.sync(() => {
    const states = new States()
    const poll = config.pollSeconds ?? defaultPollSeconds
    /** Messages reported once per run. */
    const told = new Set<string>()

    const prepare = (work: Work) =>
      attempt((): Submitting => {
        const on = work.on!
        const request = requestOf(config, on.placement, {
          tensors: work.stage.resources.tensors === true,
          device: work.job.device,
          ranks: work.job.ranks?.size,
          ...work.limits
        })
        const unknown = unknownProfile(config, request.name)
        if (unknown !== undefined)
          throw new StageError({ reason: "Slurm", message: `The job of node "${on.node}": ${unknown}.`, isRetryable: false })
        const { ranks } = work.job
        if (request.nodes > 1 && (ranks?.size ?? 1) % request.nodes !== 0)
          throw new StageError({
            reason: "Slurm",
            message: `The job of node "${on.node}" asks for ${request.nodes} nodes and runs as ${ranks === undefined ? "one process" : `${ranks.size} ranks`}: each node must have the same number of ranks. Ask for GPUs on each node, on({ gpus: 8, nodes: ${request.nodes} }), or for --ranks ${request.nodes * Math.max(1, Math.round((ranks?.size ?? 1) / request.nodes))}. Only stages that train can run as several ranks.`,
            isRetryable: false
          })
        const note = (message: string) => work.onProgress({ note: message })
        const job = ranks === undefined ? work.job : { ...work.job, ranks: { ...ranks, nodes: request.nodes } }
        return { work: { ...work, job }, on, folder: jobFolder(home, on.key), request, states, engine, home, note }
      })

    /** Waits for the end of a job. */
    const follow = Effect.fnUntraced(function* (
      given: Submitting,
      { id, token }: Submission & { readonly id: string }
    ): Effect.fn.Return<End, StageError> {
      const { folder, note, work } = given
      const began = performance.now()
      let [asked, missing] = [-Infinity, 0]
      let [current, message] = [undefined as string | undefined, ""]
      let known: Known = "unknown"
      let read = tail("")
      const hear = () => {
        for (const event of read()) {
          if ("output" in event) work.onOutput?.(event.output)
          else work.onProgress(event.progress)
        }
      }
      for (;;) {
        const seen = yield* attempt(() => attemptsIn(folder))
        if (seen.current !== undefined && seen.started !== undefined && seen.current !== current) {
          hear()
          current = seen.current
          read = tail(join(folder, current, "events.ndjson"))
          const { ahead, host } = seen.started
          note(`job ${current.replace(/-0$/, "").replace("-", ", restart ")} runs on ${host}`)
          if (Math.abs(ahead) > clockTolerance && !told.has(host)) {
            told.add(host)
            note(
              `the clock of ${host} is ${Math.round(Math.abs(ahead) / 1000)} s ${ahead > 0 ? "ahead of" : "behind"} that of the shared file system: times in logs are off by that, but results are correct. Synchronise its clock (chrony, ntp)`
            )
          }
        }
        hear()
        const { outcome, of } = seen
        if (outcome?.type === "done") {
          if (yield* attempt(() => takeOutput(folder, of!, outcome, work.job))) {
            // An older attempt, on a node that seemed dead, may have finished first.
            if (of !== seen.current) yield* Effect.ignore(attempt(() => cancel([id])))
            yield* attempt(() => rmSync(folder, { recursive: true, force: true }))
            return { type: "done", outcome: outcome.outcome } as const
          }
          missing ||= performance.now()
          if (performance.now() - missing > 6 * visible)
            return failed(
              "Cluster",
              `Its job ${id} on ${outcome.host} is done, but not all of its files are visible in ${join(folder, of!, "output")}. Put the store on a file system that ${outcome.host} shares with this machine (docs/how-to/cluster.md).`
            )
        }
        if (outcome?.type === "failed" && of?.startsWith(`${id}-`) === true) {
          const { isRetryable, reason, message: what } = outcome.error
          // The nodes may have changed since one was asked for its numerics. A rank's error has the reason "Ranks".
          const isOld = (reason === "Node" || reason === "Ranks") && forgetNodeNumerics(home)
          const again = isOld ? " If the nodes have been updated, run again: a node's numerics are then checked again." : ""
          return failed(
            reason,
            `${reason === "Node" || reason === "Version" ? `Its job ${id} can't run on ${outcome.host}: ${what}.` : what}${again}`,
            isRetryable
          )
        }
        // The job seems to have ended: query Slurm immediately, and often until it confirms.
        const every: number = outcome?.type === "stopped" || !isAlive(known) ? Math.min(1, poll) : poll
        if (performance.now() - asked >= every * 1000) {
          asked = performance.now()
          // A state from before the submission does not contain the job.
          known = yield* attempt(() => states.of(token, Math.min(every / 2, (performance.now() - began) / 1000)))
          if (known === "unknown" && !told.has("down")) {
            told.add("down")
            note(
              "Slurm's controller does not respond: running jobs continue and their results are collected; new jobs wait until it responds"
            )
          }
          if (known !== "unknown" && known !== "gone" && known.state === "PENDING") {
            const waits = `job ${id} waits in the queue (${known.reason})`
            if (waits !== message) work.onProgress({ message: (message = waits) })
            if (/requeued held/i.test(known.reason)) {
              // Slurm holds a job whose node could not start it until somebody intervenes. A new job may start elsewhere.
              yield* Effect.ignore(attempt(() => cancel([id])))
              return { type: "again", why: `job ${id} could not be started (${known.reason})`, isTime: false }
            }
            if (known.reason === "BeginTime") yield* Effect.ignore(attempt(() => startNow(id)))
            if (/NodeNotAvail|BadConstraints|NodeConfig|PartitionTimeLimit|PartitionDown|Invalid/i.test(known.reason) && !told.has(waits)) {
              told.add(waits)
              note(`${waits}: it may never start. See \`scontrol show job ${id}\``)
            }
          }
        }
        if (!isAlive(known)) {
          // Its outcome may not be visible yet.
          missing ||= performance.now()
          if (outcome?.type === "stopped" || performance.now() - missing > visible * Math.min(1, poll / 2))
            return endOf(given, id, known as Exclude<Known, "unknown">, attemptsIn(folder))
        } else if (outcome?.type !== "done") missing = 0
        yield* Effect.sleep(Math.min(looks.most, Math.max(looks.least, (performance.now() - began) / 50)))
      }
    })

    const release = ({ note, on }: Submitting, submission: Submission | undefined) =>
      Effect.promise(async () => {
        const id = submission?.id ?? undefined
        if (id === undefined) return
        if (on.onInterruption() === "leave") return note(`its job ${id} continues: the next run finds it (caravan jobs)`)
        await cancel([id]).catch((cause: unknown) => note(`its job ${id} could not be cancelled (${messageOf(cause)}): scancel ${id}`))
        note(`its job ${id} was cancelled`)
      })

    const run: Execute = (work) =>
      Effect.gen(function* () {
        const given = yield* prepare(work)
        let submission = yield* attempt((signal) => findSubmission(given, signal))
        // Finished while there was no driver.
        const before = submission === undefined ? attemptsIn(given.folder) : undefined
        if (before?.outcome?.type === "done" && takeOutput(given.folder, before.of!, before.outcome, work.job)) {
          given.note(`its job finished in the meantime, on ${before.outcome.host}`)
          rmSync(given.folder, { recursive: true, force: true })
          return before.outcome.outcome
        }
        let [lost, checkpoint] = [0, checkpointOf(work)]
        for (;;) {
          submission ??= yield* attempt((signal) => submitNew(given, signal))
          const following = submission
          const end: End = yield* follow(given, following as Submission & { readonly id: string }).pipe(
            Effect.onInterrupt(() => release(given, following))
          )
          if (end.type === "done") return end.outcome
          if (end.type === "failed") return yield* end.error
          const now = checkpointOf(work)
          lost = now === checkpoint ? lost + 1 : 0
          checkpoint = now
          if (lost > 0 && end.isTime)
            return yield* new StageError({
              reason: "Timeout",
              message: `Its ${end.why} (${given.request.minutes ?? "?"} minutes), and there is no new checkpoint to continue from. Increase its time limit: "minutes" in the profile "${given.request.name}" in caravan.json.`,
              isRetryable: false
            })
          if (lost >= maxLost)
            return yield* new StageError({
              reason: "Lost",
              message: `Its ${end.why}: the ${maxLost} last jobs ended like this without a new checkpoint. See ${join(given.folder, "slurm.log")} and the log of slurmd on that node.`,
              isRetryable: true
            })
          given.note(`${end.why}: submitted again${now === "" ? "" : `, to continue from its checkpoint after step ${Number(now)}`}`)
          submission = undefined
        }
      })
    return (work) => {
      const { on, stage } = work
      const workers = on?.placement.workers ?? 1
      // The joining job was submitted before: all shards are done.
      if (stage.sharding === undefined || workers === 1 || existsSync(join(jobFolder(home, on!.key), "submission.json"))) return run(work)
      return Effect.andThen(dealOut(run, work, workers), run(work))
    }
  })
