/**
 * One rank of a job on several nodes, a task of the srun started by ranks.ts: `node rank-worker.ts <jobs/key> <attempt>`. Its place comes from
 * Slurm's variables and is passed on as torchrun's. Rank 0 saves when asked to stop; the other ranks take part and are then ended.
 */
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { StageError, stageErrorOf } from "../errors.ts"
import { rankJob } from "../run/gang.ts"
import { rankProcess } from "../run/process-pool.ts"
import { rankVariables } from "../run/ranks.ts"
import { type JobFile, readJsonFile, writeJson } from "./job-files.ts"
import { host, jobIn, logIn, runHere } from "./on-node.ts"
import { rankFolder, type RanksFile, ranksFile } from "./ranks.ts"

const [, , folder, attempt] = process.argv as [string, string, string, string]
const { MASTER_ADDR, MASTER_PORT, SLURM_LAUNCH_NODE_IPADDR, SLURM_LOCALID, SLURM_NTASKS, SLURM_PROCID } = process.env
const [rank, localRank, size] = [SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS].map(Number) as [number, number, number]
const own = rankFolder(attempt, rank)
const log = logIn(own)
writeJson(join(own, "started.json"), { host })

/** The rank's own GPU, among those of the job on this node. */
const gpuVariables = (): Readonly<Record<string, string>> => {
  const visible = process.env.CUDA_VISIBLE_DEVICES?.split(",").filter((name) => name !== "")
  if (visible === undefined) return { CUDA_VISIBLE_DEVICES: String(localRank) }
  const gpu = visible[localRank]
  if (gpu === undefined)
    throw new StageError({
      reason: "Ranks",
      message: `Slurm gave the job ${visible.length} GPUs on this node (CUDA_VISIBLE_DEVICES=${visible.join(",")}), and this is rank ${localRank + 1} on it. Request one GPU per rank: "gpus" in the profile, or on({ gpus }).`,
      isRetryable: false
    })
  return { CUDA_VISIBLE_DEVICES: gpu }
}

let stopped: string | undefined
const work = (file: JobFile) =>
  Effect.gen(function* () {
    const { job, port } = readJsonFile(ranksFile(attempt)) as RanksFile
    // Slurm's address of the node where srun runs, which is rank 0's node.
    const meeting = { host: MASTER_ADDR ?? SLURM_LAUNCH_NODE_IPADDR ?? "", port: MASTER_PORT === undefined ? port : Number(MASTER_PORT) }
    const gpu = yield* Effect.try({ try: () => (job.device === "cuda" ? gpuVariables() : {}), catch: (cause) => cause as StageError })
    Object.assign(process.env, rankVariables({ rank, localRank, size, ...meeting }), gpu)
    return yield* runHere(file, rankJob(job, rank), yield* rankProcess(file.prepare ?? undefined), log)
  }).pipe(Effect.scoped)

const file = jobIn(folder)
if ("type" in file) {
  log.end(file)
  process.exit(0)
}
const fiber = Effect.runFork(work(file))
for (const signal of ["SIGTERM", "SIGUSR1", "SIGINT"] as const)
  process.on(signal, () => {
    if (stopped !== undefined) return
    stopped = signal
    if (rank === 0) Effect.runFork(Fiber.interrupt(fiber))
  })
process.on("SIGHUP", () => {})

const exit = await Effect.runPromise(Fiber.await(fiber))
if (Exit.isSuccess(exit)) log.end({ type: "done", outcome: exit.value, files: [] })
else if (stopped !== undefined && (rank > 0 || Cause.hasInterruptsOnly(exit.cause))) log.end({ type: "stopped", signal: stopped })
else {
  const { isRetryable, message, reason } = stageErrorOf(exit.cause)
  // "Node" means the job's first node, which the driver names.
  log.end({ type: "failed", error: { reason: reason === "Node" ? "Ranks" : reason, message, isRetryable } })
}
process.exit(0)
