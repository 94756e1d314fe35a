/**
 * Rejection sampling, first of three stages (Llama 2 §3.2.3): K completions for each prompt from one checkpoint. Its result depends on the
 * checkpoint and the prompts only, so a new reward model never samples an old version again.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../data/dataset.ts"
import { deriveSeed } from "../engine/random.ts"
import { loadPolicy } from "../models/checkpoint.ts"
import { generate } from "../models/sampler.ts"
import * as Stage from "../runtime/stage.ts"
import { Policy } from "../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import { type Completion, Completions, type Prompt, Prompts } from "../schemas/rows.ts"
import { fitPrompt } from "./shared/dialogues.ts"
import { chunks } from "./shared/sequences.ts"

export const SampleConfig = Schema.Struct({
  k: hyperInt(10, "completions a prompt; §3.2.3 shows 1 to 100 (figure 7) and names none", { min: 1 }),
  temperature: hyper(1.2, "§3.2.3: 1.2 to 1.3 is best for 10 to 100 samples of the RLHF model; 0 is greedy", { min: 0 }),
  topP: hyper(1, "nucleus; 1 keeps the whole distribution", { min: 0, max: 1 }),
  topK: hyperInt(0, "most likely tokens kept; 0 keeps all", { min: 0 }),
  maxNewTokens: hyperInt(256, "tokens a completion at most", { min: 1 }),
  batchSize: hyperInt(64, "sequences decoded at once", { min: 1 })
})

export const sample = Stage.make("sample", {
  description: "§3.2.3 K completions of each prompt from one checkpoint",
  config: SampleConfig,
  inputs: { policy: Policy, prompts: Prompts },
  output: Completions,
  resources: { tensors: true },
  run: Effect.fn("sample")(function* ({ config, inputs, output, seed, device, progress }) {
    const { model, tokenizer } = yield* loadPolicy(inputs.policy, { device })
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const room = model.config.maxPositions - config.maxNewTokens
    const work: Array<{ readonly prompt: Prompt; readonly tokens: ReadonlyArray<number>; readonly sample: number }> = []
    let tooLong = 0
    for (const prompt of prompts) {
      const tokens = fitPrompt(tokenizer, prompt.messages, room)
      if (tokens === undefined) tooLong++
      else for (let sample = 0; sample < config.k; sample++) work.push({ prompt, tokens, sample })
    }
    // Prompts of like length share a batch: less padding. The order written is the prompts'.
    const order = work.map((_, i) => i).sort((a, b) => work[a]!.tokens.length - work[b]!.tokens.length || a - b)
    const rows = new Array<Completion>(work.length)
    let done = 0
    for (const batch of chunks(order, config.batchSize)) {
      const generated = generate(
        model,
        batch.map((i) => work[i]!.tokens),
        {
          maxNewTokens: config.maxNewTokens,
          temperature: config.temperature,
          topK: config.topK,
          topP: config.topP,
          // Each completion draws its own numbers, whatever batch it is in.
          seeds: batch.map((i) => deriveSeed(seed, "sample", work[i]!.prompt.id, work[i]!.sample)),
          eosId: tokenizer.eosId,
          padId: tokenizer.padId
        }
      )
      generated.forEach((completion, j) => {
        const { prompt, sample } = work[batch[j]!]!
        const text = tokenizer.decode(completion.finished ? completion.tokens.slice(0, -1) : completion.tokens)
        rows[batch[j]!] = {
          promptId: prompt.id,
          prompt: prompt.messages,
          safety: prompt.safety,
          sample,
          text: text.trim(),
          tokens: completion.tokens,
          logProbabilities: completion.logProbabilities,
          finished: completion.finished,
          temperature: config.temperature,
          policy: inputs.policy.contentDigest
        }
      })
      done += batch.length
      yield* progress({ step: done, total: work.length, tokens: generated.reduce((sum, completion) => sum + completion.tokens.length, 0) })
    }
    const finished = rows.filter((row) => row.finished).length
    return yield* writeDataset(output, rows, { metrics: { completions: rows.length, finished, promptsTooLong: tooLong } })
  })
})
