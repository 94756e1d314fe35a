/** Runs a stage as several ranks on this machine: a child process each, which live and die together. */
import { mkdirSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import * as Effect from "effect/Effect"
import * as Deferred from "effect/Deferred"
import { StageError } from "../errors.ts"
import type { Execute } from "./execute.ts"
import { rankVariables } from "./ranks.ts"
import type { Job, Outcome } from "./run-stage.ts"

/** The job of one rank: the first makes the result, the others write into a folder of their own that nobody reads. */
export const rankJob = (job: Job, rank: number): Job =>
  rank === 0 ? job : { ...job, output: `${job.output}-rank-${rank}`, sidecar: null, shards: null }

/** One rank's process, as a gang needs it. */
export interface Member<Process> {
  readonly process: Process
  readonly execute: Execute
  /** Kills it, and is done when it is gone. */
  readonly kill: () => Promise<void>
}

/** How long it is waited, in milliseconds, for the rank that failed first to be told from those that lost it. */
const patience = 2000

/** A port of this machine that nobody has. */
const freePort = Effect.callback<number, StageError>((resume) => {
  const server = createServer()
  server.on("error", (error) =>
    resume(
      Effect.fail(
        new StageError({ reason: "Ranks", message: `Looking for a port for ranks to meet at: ${error.message}.`, isRetryable: true })
      )
    )
  )
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as { readonly port: number }
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** The GPU of each rank, by CUDA's variable: so that it is the only one that its process sees. */
const gpuVariables = (rank: number): Readonly<Record<string, string>> => {
  const visible = process.env.CUDA_VISIBLE_DEVICES?.split(",").filter((name) => name !== "")
  return { CUDA_VISIBLE_DEVICES: visible?.[rank] ?? String(rank) }
}

/** `start` starts a process with these variables. `leader`: the process whose end, when the run is stopped, ends the others. */
export const gang =
  <Process>(start: (variables: Readonly<Record<string, string>>, leader: Process | undefined) => Member<Process>): Execute =>
  (work) =>
    Effect.gen(function* () {
      const { job, stage } = work
      const { nodes, size } = job.ranks!
      if (nodes > 1)
        return yield* new StageError({
          reason: "Ranks",
          message: `Stage ${stage.name} is placed on ${nodes} machines (on({ nodes: ${nodes} })): ranks on several machines are not started as yet. Place it on one, with as many GPUs as that has.`,
          isRetryable: false
        })
      const port = yield* freePort
      const members: Array<Member<Process>> = []
      // Whoever comes next finds neither their memory nor their port taken.
      const killAll = () => Promise.all(members.map(({ kill }) => kill()))
      for (let rank = 0; rank < size; rank++) {
        const variables = rankVariables({ rank, localRank: rank, size, host: "127.0.0.1", port })
        members.push(start({ ...variables, ...(job.device === "cuda" ? gpuVariables(rank) : {}) }, members[0]?.process))
      }
      /** Errors in the order in which they came. */
      const failures: Array<{ readonly rank: number; readonly error: StageError }> = []
      const failed = yield* Deferred.make<never, StageError>()
      /** The first that did not come of losing another. */
      const decide = () => {
        const { error, rank } = failures.find(({ error }) => error.reason !== "RankError") ?? failures[0]!
        void killAll()
        const { isRetryable, message, reason } = error
        // What a rank says whose wait is over, before it ends itself.
        const waited = /^Rank \d+ of \d+ waited .*$/m.exec(message)?.[0]
        const said = waited ?? (message.startsWith(`Rank ${rank} `) ? message : `Rank ${rank} of ${size}: ${message}`)
        Effect.runSync(Deferred.fail(failed, new StageError({ reason, message: said, isRetryable })))
      }
      const run = (member: Member<Process>, rank: number): Effect.Effect<Outcome> =>
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
          if (exit.failure.reason !== "RankError") decide()
          else if (failures.length === 1) setTimeout(decide, patience).unref()
          return yield* Effect.never
        })
      const all = Effect.all(members.map(run), { concurrency: "unbounded" })
      const [first] = yield* Effect.raceFirst(all, Deferred.await(failed)).pipe(Effect.ensuring(Effect.promise(killAll)))
      if (first === undefined) throw new Error(`stage ${stage.name} ran as no rank`)
      return first
    })
