/**
 * Rejection sampling over all prior versions (Llama 2 §3.2.3): of each version's samples, the best few per prompt are kept, according to the reward model
 * of that version's round. Later rounds score only these again: scoring every sample of every version again would cost as much as all previous rounds
 * together.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Completion, Completions, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { checkPromptIds, promptOf } from "../common/pairing.ts"

const KeepBestConfig = Schema.Struct({
  count: hyperInt(1, "number of completions kept per prompt; §3.2.3: the top one", { min: 1 }),
  unfinished: hyper(
    "drop",
    "what to do with completions truncated before their end-of-sequence token: drop them, or keep them as candidates",
    ["drop", "keep"]
  )
})

const withoutScores = (scored: ScoredCompletion): Completion => {
  const { promptId, prompt, safety, sample, text, tokens, logProbabilities, finished, temperature, policy } = scored
  return { promptId, prompt, safety, sample, text, tokens, logProbabilities, finished, temperature, policy }
}

/** The best `count` completions of each prompt, without their scores, in their original order; on ties the first. */
export const keepBestOf = (scored: ReadonlyArray<ScoredCompletion>, options: typeof KeepBestConfig.Type): Array<Completion> => {
  const candidates = scored.filter(({ finished }) => finished || options.unfinished === "keep")
  const kept = new Set(
    [...Map.groupBy(candidates, ({ promptId }) => promptId).values()].flatMap((samples) =>
      samples.toSorted((a, b) => b.reward - a.reward).slice(0, options.count)
    )
  )
  return candidates.filter((completion) => kept.has(completion)).map(withoutScores)
}

export const keepBest = Stage.make("keep-best", {
  description: "§3.2.3 keeps the best few samples of each prompt, to be scored again with later versions' samples",
  config: KeepBestConfig,
  inputs: { scored: ScoredCompletions },
  output: Completions,
  seeded: false,
  run: Effect.fn("keep-best")(function* ({ config, inputs, output }) {
    const scored = yield* readRows(inputs.scored, ScoredCompletions)
    yield* checkPromptIds(scored.map(promptOf), "Keeping the best completions of each prompt")
    return yield* writeDataset(output, keepBestOf(scored, config), { metrics: { of: scored.length } })
  })
})

export const keepBestCost = costOf(keepBest, {
  size: ({ config, inputs }) =>
    sized(inputs.scored, { rows: Math.min(inputs.scored.rows, inputs.scored.prompts * config.count), prompts: inputs.scored.prompts })
})
