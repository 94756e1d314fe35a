/** Runs a stage as several ranks, on this machine one child process per rank; if one fails, all are stopped. Ranks on several machines: cluster/ranks.ts. */
import { mkdirSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import * as Effect from "effect/Effect"
import * as Deferred from "effect/Deferred"
import { StageError } from "../errors.ts"
import type { Execute, Work } from "./execute.ts"
import { rankVariables } from "./ranks.ts"
import type { Job, Outcome } from "./run-stage.ts"

/** One rank's job: the first rank makes the result, the others write into separate folders that are discarded. */
export const rankJob = (job: Job, rank: number): Job =>
  rank === 0 ? job : { ...job, output: `${job.output}-rank-${rank}`, sidecar: null, shards: null }

/** One rank's process. */
export interface Member {
  readonly execute: Execute
  /** Kills it, and resolves when it has ended. */
  readonly kill: () => Promise<void>
}

/** How long to wait, in milliseconds, to distinguish the rank that failed first from those that lost it. */
const patience = 2000

/** The line that a rank prints before it exits because an operation failed or took too long (engine/ranks/ranks.cc). */
const lastLine = /^Rank \d+ of \d+ (waited|lost the others in) .*$/m
/** Whether a rank failed because it lost another. */
const isLoss = ({ message, reason }: StageError): boolean => reason === "RankError" || lastLine.exec(message)?.[1] === "lost the others in"

/** A free port of this machine at this address. */
export const freePort = (address: string): Effect.Effect<number, StageError> =>
  Effect.callback((resume) => {
    const server = createServer()
    server.on("error", (error) =>
      resume(
        Effect.fail(
          new StageError({
            reason: "Ranks",
            message: `Looking for a free port for the ranks on ${address}: ${error.message}. Check the machine's network settings, then run again.`,
            isRetryable: true
          })
        )
      )
    )
    server.listen(0, address, () => {
      const { port } = server.address() as { readonly port: number }
      server.close(() => resume(Effect.succeed(port)))
    })
  })

/** The GPU of each rank, by CUDA's variable, so that its process sees only that one. */
const gpuVariables = (rank: number): Readonly<Record<string, string>> => {
  const visible = process.env.CUDA_VISIBLE_DEVICES?.split(",").filter((name) => name !== "")
  return { CUDA_VISIBLE_DEVICES: visible?.[rank] ?? String(rank) }
}

/** `start` starts a process with these variables. `leader`: the process whose end, if the run is stopped, ends the others. */
export const gang =
  <Process>(
    start: (variables: Readonly<Record<string, string>>, leader: Process | undefined) => Member & { readonly process: Process }
  ): Execute =>
  (work) =>
    Effect.gen(function* () {
      const { job, stage } = work
      const { nodes, size } = job.ranks!
      if (nodes > 1)
        return yield* new StageError({
          reason: "Ranks",
          message: `Stage ${stage.name} is placed on ${nodes} machines (on({ nodes: ${nodes} })), and this run starts its ranks on one. Run it with --on slurm, or place it on one node with as many GPUs as that has.`,
          isRetryable: false
        })
      const port = yield* freePort("127.0.0.1")
      const members: Array<Member & { readonly process: Process }> = []
      for (let rank = 0; rank < size; rank++) {
        const variables = rankVariables({ rank, localRank: rank, size, host: "127.0.0.1", port })
        members.push(start({ ...variables, ...(job.device === "cuda" ? gpuVariables(rank) : {}) }, members[0]?.process))
      }
      return yield* together(members, work)
    })

/** Runs a stage on ranks that were started, until all have ended or one fails. `nodeOf`: the machine of each rank, if there are several. */
export const together = (
  members: ReadonlyArray<Member>,
  work: Work,
  nodeOf: (rank: number) => string | undefined = () => undefined
): Effect.Effect<Outcome, StageError> =>
  Effect.gen(function* () {
    const { job, stage } = work
    const { size } = job.ranks!
    // The next stage must find their memory and port free.
    const killAll = () => Promise.all(members.map(({ kill }) => kill()))
    /** Errors in order of arrival. */
    const failures: Array<{ readonly rank: number; readonly error: StageError }> = []
    const failed = yield* Deferred.make<never, StageError>()
    const withNodes = (text: string) =>
      text.replaceAll(/\bRank (\d+)( of \d+)?/g, (words, rank: string) => {
        const node = nodeOf(Number(rank))
        return node === undefined ? words : `${words} on ${node}`
      })
    /** The first error that is not about losing another rank. */
    const decide = () => {
      const { error, rank } = failures.find(({ error }) => !isLoss(error)) ?? failures[0]!
      void killAll()
      const { isRetryable, message } = error
      const reason = isLoss(error) ? "RankError" : error.reason
      const said = lastLine.exec(message)?.[0] ?? (message.startsWith(`Rank ${rank} `) ? message : `Rank ${rank} of ${size}: ${message}`)
      Effect.runSync(Deferred.fail(failed, new StageError({ reason, message: withNodes(said), isRetryable })))
    }
    const run = (member: Member, rank: number): Effect.Effect<Outcome> =>
      Effect.gen(function* () {
        const own = rankJob(job, rank)
        if (rank > 0) mkdirSync(own.output, { recursive: true })
        const exit = yield* Effect.result(
          member
            .execute({
              ...work,
              job: own,
              ...(rank === 0
                ? {}
                : { onProgress: () => undefined, onOutput: (text) => work.onOutput?.(text.replaceAll(/^(?=.)/gm, `[rank ${rank}] `)) })
            })
            .pipe(Effect.ensuring(Effect.sync(() => (rank > 0 ? rmSync(own.output, { recursive: true, force: true }) : undefined))))
        )
        if (exit._tag === "Success") return exit.success
        failures.push({ rank, error: exit.failure })
        if (!isLoss(exit.failure)) decide()
        else if (failures.length === 1) setTimeout(decide, patience).unref()
        return yield* Effect.never
      })
    const all = Effect.all(members.map(run), { concurrency: "unbounded" })
    const [first] = yield* Effect.raceFirst(all, Deferred.await(failed)).pipe(Effect.ensuring(Effect.promise(killAll)))
    if (first === undefined) throw new Error(`stage ${stage.name} has no ranks`)
    return first
  })
