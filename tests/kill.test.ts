/**
 * The demo pipeline, small, killed (-9) at ten random moments and run again each time: it ends with the digests of the uninterrupted run. Real
 * training, real processes.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, describe, expect, it } from "vitest"
import { Random } from "../engine/random.ts"
import { removeFolder, runJson, start, statuses, workFolder } from "./cli/caravan.ts"

const small = [
  "pairs=120",
  "dim=16",
  "layers=1",
  "heads=2",
  "pretrainSteps=4",
  "prompts=4",
  "k=2",
  "maxNewTokens=6",
  "vocabSize=400",
  "contextLength=128"
].flatMap((setting) => ["--set", setting])
const args = [new URL("../pipelines/preference-demo.ts", import.meta.url).pathname, ...small]

const folders: Array<string> = []
const newFolder = () => {
  const folder = workFolder()
  folders.push(folder)
  return folder
}
afterAll(() => folders.forEach(removeFolder))

describe("a pipeline killed at ten random moments", () => {
  it("ends with the digests of the uninterrupted run, and a changed reward model samples nothing again", { timeout: 600_000 }, async () => {
    const whole = newFolder()
    const started = performance.now()
    const uninterrupted = runJson(whole, ...args)
    const length = performance.now() - started
    expect(uninterrupted.status).toBe("succeeded")

    const killed = newFolder()
    // Seeded, so that a failure can be looked at again; what a moment meets depends on the machine all the same.
    const random = new Random(9, "moments of death")
    for (let i = 0; i < 10; i++) {
      const child = start(killed, "run", ...args)
      const closed = new Promise((resolve) => child.on("close", resolve))
      await Promise.race([sleep(random.next() * length * 0.6 + 100), closed])
      child.kill("SIGKILL")
      await closed
    }
    const finished = runJson(killed, ...args)
    const digests = (document: typeof finished) =>
      Object.fromEntries(Object.entries(document.outputs).map(([name, output]) => [name, output.digest]))
    expect(finished.status).toBe("succeeded")
    expect(digests(finished)).toEqual(digests(uninterrupted))

    // Only the reward models changed: every sampling node before them is a hit.
    const changed = statuses(runJson(whole, ...args, "--set", "rewardEpochs=2"))
    expect(changed).toMatchObject({ sft: "hit", "samples-sft": "hit", "reward-model-1": "ran", "scores-sft": "ran" })
  })
})
