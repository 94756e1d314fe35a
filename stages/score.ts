/** Rejection sampling, second of three stages (Llama 2 §3.2.3): each completion scored by a reward model. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../data/dataset.ts"
import { noGrad, scoped } from "../engine/tensor.ts"
import { loadReward } from "../models/checkpoint.ts"
import * as Stage from "../runtime/stage.ts"
import { Reward } from "../schemas/checkpoint.ts"
import { hyperInt } from "../schemas/hyper.ts"
import { Completions, type ScoredCompletion, ScoredCompletions } from "../schemas/rows.ts"
import { fitDialogue } from "./shared/dialogues.ts"
import { scoreSequences } from "./shared/scoring.ts"
import { chunks } from "./shared/sequences.ts"

export const ScoreConfig = Schema.Struct({
  batchSize: hyperInt(32, "completions at once", { min: 1 })
})

export const score = Stage.make("score", {
  description: "§3.2.3 completions scored by a reward model (the scalar before the sigmoid)",
  config: ScoreConfig,
  inputs: { completions: Completions, reward: Reward },
  output: ScoredCompletions,
  seeded: false,
  resources: { tensors: true },
  run: Effect.fn("score")(function* ({ config, inputs, output, device, progress }) {
    const { model, tokenizer } = yield* loadReward(inputs.reward, { device })
    const completions = yield* readRows(inputs.completions, Completions)
    // An empty completion is no answer: it can't be scored, nor chosen.
    const work = completions.flatMap((completion, index) => {
      if (completion.text === "") return []
      const example = fitDialogue(
        tokenizer,
        [...completion.prompt, { role: "assistant", content: completion.text }],
        model.config.maxPositions
      )
      if (example === undefined) return []
      // The chat format ends an answer with a space and EOS; one that was cut off has neither, and is scored at its last word.
      return [{ index, tokens: completion.finished ? example.tokens : example.tokens.slice(0, -2) }]
    })
    const rewards = new Map<number, number>()
    const order = work.toSorted((a, b) => a.tokens.length - b.tokens.length || a.index - b.index)
    for (const batch of chunks(order, config.batchSize)) {
      const scores = scoped(() =>
        noGrad(() =>
          scoreSequences(
            model,
            batch.map((item) => item.tokens),
            { padId: tokenizer.padId, device }
          ).toNumbers()
        )
      )
      batch.forEach((item, i) => rewards.set(item.index, scores[i]!))
      yield* progress({ step: rewards.size, total: work.length, tokens: batch.reduce((sum, item) => sum + item.tokens.length, 0) })
    }
    const scored: Array<ScoredCompletion> = []
    completions.forEach((completion, index) => {
      const reward = rewards.get(index)
      if (reward !== undefined) scored.push({ ...completion, reward, helpfulnessScore: null, safetyScore: null })
    })
    return yield* writeDataset(output, scored, { metrics: { scored: scored.length, empty: completions.length - work.length } })
  })
})
