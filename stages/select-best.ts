/**
 * Rejection sampling, last of three stages (Llama 2 §3.2.3): for each prompt the completion with the highest reward, over one or several scored
 * sets (several versions' samples), becomes a demonstration to fine-tune on.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../data/dataset.ts"
import * as Stage from "../runtime/stage.ts"
import { hyper } from "../schemas/hyper.ts"
import { Demonstrations, type ScoredCompletion, ScoredCompletions } from "../schemas/rows.ts"

export const SelectBestConfig = Schema.Struct({
  unfinished: hyper(
    "drop",
    "completions cut off before their end-of-sequence token: left out (fine-tuning would teach to stop in the middle), or kept; the paper is silent",
    ["drop", "keep"]
  )
})

/** The best completion of each prompt, in the order in which prompts first appear; among equals the first. */
export const bestOf = (
  sets: Iterable<ReadonlyArray<ScoredCompletion>>,
  options: { readonly unfinished: "drop" | "keep" }
): Array<ScoredCompletion> => {
  const best = new Map<string, ScoredCompletion>()
  for (const set of sets) {
    for (const completion of set) {
      if (!completion.finished && options.unfinished === "drop") continue
      const current = best.get(completion.promptId)
      if (current === undefined || completion.reward > current.reward) best.set(completion.promptId, completion)
    }
  }
  return [...best.values()]
}

export const selectBest = Stage.make("select-best", {
  description: "§3.2.3 the best-scored completion of each prompt",
  config: SelectBestConfig,
  inputs: { scored: Stage.many(ScoredCompletions) },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("select-best")(function* ({ config, inputs, output }) {
    const sets = yield* Effect.forEach(inputs.scored, (set) => readRows(set, ScoredCompletions))
    const prompts = new Set(sets.flat().map((completion) => completion.promptId)).size
    const best = bestOf(sets, config)
    const demonstrations = best.map(({ promptId, prompt, text }) => ({
      id: promptId,
      messages: [...prompt, { role: "assistant" as const, content: text }],
      loss: "answers" as const
    }))
    return yield* writeDataset(output, demonstrations, { metrics: { prompts, selected: best.length } })
  })
})
