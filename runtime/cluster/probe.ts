/**
 * Determines a node's numerics with a job: for drivers on machines without the GPU that their stages use. The answer is cached; a node with other
 * numerics reports an error before it computes anything (worker.ts).
 */
import { hash, randomUUID } from "node:crypto"
import { mkdirSync, realpathSync, rmSync } from "node:fs"
import { join } from "node:path"
import { lastWords } from "./attempts.ts"
import { submit } from "./commands.ts"
import { requestOf, sbatchArguments, defaultPollSeconds } from "./config.ts"
import { claimFolder, nodeNumerics } from "./home.ts"
import { readJsonFile, writeJson, writeWhole } from "./job-files.ts"
import type { SlurmOptions } from "./slurm.ts"
import { isAlive, States } from "./states.ts"
import { scriptOf } from "./submission.ts"

export interface Describing {
  readonly numericsOf: (device: string, threads: number, folder: string) => Promise<Record<string, string>>
}
export interface ProbeAnswer {
  readonly host: string
  readonly numerics?: Readonly<Record<string, string>>
  readonly error?: string
}

const pause = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))

/** Rejects with a message for the user. */
export const numericsOfNode = async (
  { config, engine, home }: SlurmOptions,
  device: "cpu" | "cuda",
  threads: number,
  say: (message: string) => void
): Promise<Record<string, string>> => {
  const request = requestOf(config, {}, { tensors: true, device })
  const args = sbatchArguments(request)
  const identity = JSON.stringify([args, request.setup, device, threads, engine.describe, engine.version?.(), process.env.LIBTORCH ?? ""])
  const kept = nodeNumerics(home, hash("sha256", identity).slice(0, 24))
  const before = readJsonFile(kept) as Record<string, string> | undefined
  if (before !== undefined) return before
  const end = claimFolder(home, config.folder)
  const folder = join(realpathSync(join(home, "jobs")), `probe-${randomUUID()}`)
  try {
    mkdirSync(folder)
    const answer = join(folder, "answer.json")
    writeWhole(join(folder, "job.sh"), scriptOf("probe-worker", [answer, engine.describe ?? "", device, String(threads)], request))
    const token = `caravan-${randomUUID()}`
    const id = await submit([
      "--job-name=caravan-numerics",
      `--comment=${token}`,
      `--output=${join(folder, "slurm.log")}`,
      "--export=ALL",
      ...args,
      join(folder, "job.sh")
    ])
    say(`This machine has no such device: job ${id} determines a node's numerics (profile "${request.name}"); the answer is cached.`)
    const states = new States()
    for (let gone = 0; ; await pause(300)) {
      const found = readJsonFile(answer) as ProbeAnswer | undefined
      if (found?.numerics !== undefined) {
        mkdirSync(join(home, "numerics"), { recursive: true })
        writeJson(kept, found.numerics)
        return found.numerics
      }
      if (found !== undefined) throw new Error(`on node ${found.host} (job ${id}, profile "${request.name}"): ${found.error}`)
      const poll = config.pollSeconds ?? defaultPollSeconds
      if (isAlive(await states.of(token, Math.min(poll, 5)))) continue
      if (gone++ * 300 > 5000)
        throw new Error(
          `job ${id}, which determines a node's numerics (profile "${request.name}"), ended without an answer in ${folder}. Nodes must see the store and the project under the same paths (docs/how-to/cluster.md).${lastWords(folder)}`
        )
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
    end()
  }
}
