/** The recipe's stages with models of other families, in their own chat templates: training and sampling use the same tokens, and stages end a sequence at the same token. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { chatFault, formatOf } from "../../models/chat.ts"
import { templates } from "../../models/chat-templates/index.ts"
import { loadPolicy, saveCheckpoint } from "../../models/checkpoint.ts"
import { type Family, type LlamaConfig, llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { Completions, type Demonstration, Demonstrations, type Preference, Preferences, Prompts } from "../../schemas/rows.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { tokenisePair } from "../../stages/reward/pairs.ts"
import { sft } from "../../stages/training/sft.ts"
import { artifact, rowsArtifact, rowsIn, runStage } from "./running.ts"
import { ask, assistant, user } from "./samples.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-other-"))
afterAll(() => rmSync(root, { recursive: true }))
const golden = fileURLToPath(new URL("../golden/chat/", import.meta.url))
const ownQwen3 = readFileSync(join(golden, "qwen3-own.jinja"), "utf8")

const tokenizerOf = async (kind: string, template: string) => {
  const folder = mkdtempSync(join(root, "tokenizer-"))
  cpSync(join(golden, kind), folder, { recursive: true })
  writeFileSync(join(folder, "chat_template.jinja"), template)
  return Effect.runPromise(loadTokenizer(folder))
}
const policyOf = async (kind: string, template: string, family: Family, more: Partial<LlamaConfig>) => {
  const tokenizer = await tokenizerOf(kind, template)
  const shape = { family, vocabSize: tokenizer.vocabSize, dim: 32, layers: 2, heads: 4, kvHeads: 2, ffn: 64, maxPositions: 256, ...more }
  return artifact(Policy, (slot) => saveCheckpoint(slot, { model: initLlama(llamaConfig(shape), { seed: 1 }), tokenizer }))
}

const questions = ["Who?", "Why?"]
const answers = ["A model.", "To learn: 1, 2."]
const demonstrations = questions.map((question, i): Demonstration => ({
  id: `d${i}`,
  messages: [user(question), assistant(answers[i]!)],
  loss: "answers"
}))
const pairs = questions.map((question, i): Preference => ({
  ...{ id: `q${i}`, prompt: [user(question)], chosen: answers[i]!, rejected: "No <|im_end|>", rating: 0 },
  ...{ chosenSafe: null, rejectedSafe: null, source: "test" }
}))

describe.each<[string, string, string, Family, Partial<LlamaConfig>]>([
  [
    "Llama 3.1",
    "llama3",
    templates["llama3.1"],
    "llama",
    { ropeScaling: { factor: 8, lowFactor: 1, highFactor: 4, originalPositions: 32 } }
  ],
  ["Mistral", "mistral", templates.mistral, "mistral", { slidingWindow: 24 }],
  ["Qwen 2.5", "qwen2", templates["qwen2.5"], "qwen2", { tiedEmbeddings: true }],
  ["Qwen 3", "qwen2", templates.qwen3, "qwen3", { headDim: 16 }]
])("%s", async (_, kind, template, family, more) => {
  it("gives the answers on which it was tuned, ended by its template's stop token; reward models and PPO accept it", async () => {
    const init = await policyOf(kind, template, family, more)
    const given = {
      demonstrations: await rowsArtifact(Demonstrations, demonstrations),
      pairs: await rowsArtifact(Preferences, pairs),
      prompts: await rowsArtifact(
        Prompts,
        questions.map((question, i) => ask(`p${i}`, question))
      )
    }
    const tuning = { learningRate: 1e-2, steps: 120, batchSize: 1, sequenceLength: 256, weightDecay: 0 }
    const tuned = await runStage(sft, { init, demonstrations: given.demonstrations }, tuning)
    expect(tuned.metrics["lastAlone"]).toBeUndefined()
    const { tokenizer } = await Effect.runPromise(loadPolicy(tuned))
    const sampled = await runStage(sample, { policy: tuned, prompts: given.prompts }, { k: 1, temperature: 0.01, maxNewTokens: 40 })
    const completions = await rowsIn(sampled, Completions)
    const said = (text: string) => (family === "qwen3" ? `<think>\n\n</think>\n\n${text}` : text)
    expect(completions.map(({ finished, text }) => [text, finished])).toEqual(answers.map((text) => [said(text), true]))
    for (const { tokens } of completions) expect(formatOf(tokenizer).stopIds).toContain(tokens.at(-1))

    // Sampled answers are encoded as they were written: a pair's response is the policy's tokens.
    const pair = tokenisePair(tokenizer, { ...pairs[0]!, chosen: completions[0]!.text }, "none", 256)!
    expect(pair.chosen.slice(-completions[0]!.tokens.length)).toEqual(completions[0]!.tokens)

    const helpfulness = await runStage(helpfulnessRewardModel, { init: tuned, pairs: given.pairs }, { learningRate: 1e-3, batchPairs: 2 })
    const updates = { iterations: 1, batchSize: 2, miniBatchSize: 2, microBatchSize: 1, maxNewTokens: 12, learningRate: 1e-4 }
    const better = await runStage(ppo, { policy: tuned, helpfulness, prompts: given.prompts }, updates)
    const loaded = await Effect.runPromise(loadPolicy(better))
    expect([loaded.model.config.family, loaded.tokenizer.chat]).toEqual([family, { template, date: "2024-07-26" }])
  })
})

describe("a template that writes earlier answers differently once more turns follow", () => {
  it("trains only last answers, and reports the number of dialogues", async () => {
    const init = await policyOf("qwen2", ownQwen3, "qwen3", { headDim: 16 })
    const two: Demonstration = { id: "two", messages: [...demonstrations[0]!.messages, ...demonstrations[1]!.messages], loss: "answers" }
    const rows = await rowsArtifact(Demonstrations, [...demonstrations, two])
    const tuned = await runStage(sft, { init, demonstrations: rows }, { steps: 1, batchSize: 1, sequenceLength: 256 })
    expect(tuned.metrics["lastAlone"]).toBe(1)
  })
  it("still represents dialogues", async () => {
    expect(chatFault(await tokenizerOf("qwen2", ownQwen3), [user("a"), assistant("b"), user("c")])).toBeUndefined()
  })
})
