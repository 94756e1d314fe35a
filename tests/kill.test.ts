/**
 * Runs rlhf.ts on a few pairs of the small world, killed (-9) at ten random moments and restarted each time: it ends with the digests of the uninterrupted
 * run. Real training, real processes.
 */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, describe, expect, it } from "vitest"
import { prompts } from "../data/world/dialogues.ts"
import { read } from "../data/world/tasks.ts"
import { Random } from "../engine/random.ts"
import { removeFolder, runJson, start, statuses, workFolder } from "./cli/caravan.ts"

/** Distinct questions of the small world, with right answers chosen over wrong ones, in HH-RLHF's format. */
const pairs = (count: number): string => {
  const draw = new Random(1, "pairs to kill a run on")
  return [...prompts(draw, { count, kind: "plain", split: "train", followUps: 0, name: "pair" })]
    .map(({ messages }) => {
      const { right, text, wrong } = read(messages[0]!.content)!
      const dialogue = (answer: string) => `\n\nHuman: ${text}\n\nAssistant: ${answer}`
      return `${JSON.stringify({ chosen: dialogue(right(draw)), rejected: dialogue(wrong(draw)) })}\n`
    })
    .join("")
}

const small = [
  "dim=16",
  "layers=1",
  "heads=2",
  "pretrainSteps=4",
  "promptCount=10",
  "k=2",
  "maxNewTokens=6",
  "vocabSize=400",
  "contextLength=128",
  "tuneSteps=1",
  "ppoIterations=1",
  "ppoBatch=4",
  "evaluationPrompts=4"
].flatMap((setting) => ["--set", setting])

const folders: Array<string> = []
const newFolder = () => {
  const folder = workFolder()
  folders.push(folder)
  return folder
}
afterAll(() => folders.forEach(removeFolder))

const data = join(newFolder(), "pairs.jsonl")
writeFileSync(data, pairs(120))
const args = [new URL("../pipelines/rlhf.ts", import.meta.url).pathname, "--set", `preferences=${data}`, ...small]

describe("a pipeline killed at ten random moments", () => {
  it("ends with the digests of the uninterrupted run, and a changed reward model samples nothing again", { timeout: 600_000 }, async () => {
    const whole = newFolder()
    const started = performance.now()
    const uninterrupted = runJson(whole, ...args)
    const length = performance.now() - started
    expect(uninterrupted.status).toBe("succeeded")

    const killed = newFolder()
    // Seeded, so that a failure can be investigated; which work a kill hits still depends on the machine.
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
    expect(changed).toMatchObject({ sft: "hit", samples: "hit", "answers-of-sft": "hit", "helpfulness-reward": "ran", scores: "ran" })
  })
})
