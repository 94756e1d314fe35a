/** Models that must use the same tokens: a pipeline with different tokenizers is rejected before anything runs, wherever they come from. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, describe, expect, it } from "vitest"
import { toHuggingFace } from "../../../models/config-file.ts"
import { writeTokenizer } from "../../../models/tokenizer/files.ts"
import { trainTokenizer } from "../../../models/tokenizer/train.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import { plan } from "../../../runtime/run/plan.ts"
import { run } from "../../../runtime/run/run.ts"
import { smallConfig } from "../../models/small.ts"
import { services } from "../../runtime/fixture.ts"
import { importDemonstrations } from "../../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { importHelpfulnessReward, importPolicy, importSafetyReward } from "../../../stages/data/import.ts"
import { importPrompts } from "../../../stages/data/import-prompts.ts"
import { ppo } from "../../../stages/ppo/ppo.ts"
import { helpfulnessRewardModel } from "../../../stages/reward/reward-model.ts"
import { sft } from "../../../stages/training/sft.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-agreements-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const config = toHuggingFace(smallConfig({ vocabSize: 264 }), { scalarHead: false, dtype: "float32", bosId: 1, eosId: 2, padId: 0 })
const model = async (name: string, text: string) => {
  const folder = join(root, name)
  mkdirSync(folder)
  writeFileSync(join(folder, "config.json"), JSON.stringify(config))
  await writeTokenizer(folder, trainTokenizer([text], { vocabSize: 264 }))
}
await model("base", "ab ab abab ba")
await model("copy", "ab ab abab ba")
await model("other", "cd cd cdcd dc")
for (const name of ["prompts.jsonl", "dialogues.jsonl", "pairs.jsonl"]) writeFileSync(join(root, name), "{}\n")

const at = (name: string) => fileAt(join(root, name))
const policy = importPolicy({ folder: at("base") }).named("base")
const chat = sft({ init: policy, demonstrations: importDemonstrations({ file: at("dialogues.jsonl") }) }).named("chat")
const prompts = importPrompts({ file: at("prompts.jsonl") })
const tuned = (reward: Parameters<typeof ppo>[0]["helpfulness"], safety?: Parameters<typeof ppo>[0]["safety"]) =>
  Pipeline.make("tuned", { params: Schema.Struct({}) }, () => ({
    policy: ppo({ policy: chat, helpfulness: reward, prompts, ...(safety === undefined ? {} : { safety }) }).named("tuned")
  }))
const imported = (name: string) => importHelpfulnessReward({ folder: at(name) }).named(`reward-${name}`)

const home = join(root, "home")
const planned = (pipeline: ReturnType<typeof tuned>) =>
  Effect.runPromise(
    plan(pipeline, {}, { missing: "await" }).pipe(
      Effect.provide(services(home)),
      Effect.match({ onFailure: ({ message }) => message, onSuccess: ({ nodes }) => nodes.size })
    )
  )

describe("PPO", () => {
  it("is planned with reward models that have the policy's tokenizer: its own descendants, and others with the same pieces", async () => {
    const pairs = importPreferences({ file: at("pairs.jsonl") })
    expect(await planned(tuned(helpfulnessRewardModel({ init: policy, pairs })))).toBeGreaterThan(5)
    expect(await planned(tuned(imported("copy")))).toBeGreaterThan(5)
  })

  it("is rejected at plan time with a reward model with another tokenizer, and the message says where the two come from and how they differ", async () => {
    const message = await planned(tuned(imported("other")))
    expect(message).toMatch(
      /^Node "tuned" \(stage ppo\): its inputs policy \(chat\) and helpfulness \(reward-other\) must have the same tokenizer, but differ: .*264 pieces, number \d+ .*found 264 pieces/
    )
    expect(message).toContain(join(root, "base"))
    expect(message).toContain(join(root, "other"))
  })

  it("is rejected with such a safety reward model too", async () => {
    const safety = importSafetyReward({ folder: at("other") }).named("safety-other")
    expect(await planned(tuned(imported("copy"), safety))).toContain("policy (chat) and safety (safety-other)")
  })

  it("is rejected through a reward model tuned from another model's descendant", async () => {
    const stranger = sft({
      init: importPolicy({ folder: at("other") }),
      demonstrations: importDemonstrations({ file: at("dialogues.jsonl") })
    })
    const reward = helpfulnessRewardModel({ init: stranger, pairs: importPreferences({ file: at("pairs.jsonl") }) }).named("strange")
    expect(await planned(tuned(reward))).toContain("policy (chat) and helpfulness (strange)")
  })

  it("is not run either: nothing is made", async () => {
    const events: Array<RunEvent> = []
    const exit = await Effect.runPromiseExit(
      run(tuned(imported("other")), {}, { onEvent: (event) => events.push(event) }).pipe(Effect.provide(services(home)))
    )
    expect(JSON.stringify(exit)).toContain("must have the same tokenizer")
    expect(events).toEqual([])
    expect(existsSync(join(home, "objects"))).toBe(false)
  })

  it("is left to its own check while a model does not exist yet", async () => {
    expect(await planned(tuned(imported("absent")))).toBeGreaterThan(5)
  })
})
