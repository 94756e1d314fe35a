/**
 * Rejection sampling, last of three stages (Llama 2 §3.2.3): for each prompt, the completion with the highest reward becomes a demonstration for
 * fine-tuning. Candidates come from one or several scored sets (the samples of several versions).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper } from "../../schemas/hyper.ts"
import {
  type Completion,
  Completions,
  type Demonstration,
  Demonstrations,
  type ScoredCompletion,
  ScoredCompletions
} from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { pool, sized } from "../common/cost/size.ts"
import { checkPromptIds, PairingError, promptOf } from "../common/pairing.ts"

export const SelectBestConfig = Schema.Struct({
  unfinished: hyper(
    "drop",
    "what to do with completions truncated before their end-of-sequence token: drop them (fine-tuning on them would teach the model to stop in the middle), or keep them as candidates; the paper does not say",
    ["drop", "keep"]
  )
})

/** The best completion of each prompt; of equal rewards, the first. In the order in which prompts first appear among the candidates. */
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

const demonstrationOf = ({ promptId, prompt, text }: Completion): Demonstration => ({
  id: promptId,
  messages: [...prompt, { role: "assistant", content: text }],
  loss: "answers"
})

/** The kind of reward models that scored a completion, as far as its row shows. */
const scoredBy = ({ helpfulnessScore, safetyScore }: ScoredCompletion): string =>
  helpfulnessScore !== null && safetyScore !== null
    ? "both reward models together"
    : helpfulnessScore !== null
      ? "a helpfulness reward model"
      : safetyScore !== null
        ? "a safety reward model"
        : "a general reward model"

/** Rejects sets scored by different kinds of reward models, whose rewards are not comparable. Rows do not record the particular model. */
const checkScales = Effect.fnUntraced(function* (sets: ReadonlyArray<ReadonlyArray<ScoredCompletion>>, doing: string) {
  const kinds = new Map(sets.flatMap((set, i) => set.map((completion) => [scoredBy(completion), i + 1] as const)))
  if (kinds.size > 1)
    return yield* PairingError.of({
      doing,
      expected: "rewards from the same reward models",
      found: [...kinds].map(([kind, i]) => `set ${i} scored by ${kind}`).join(", "),
      hint: "Score every set's completions with the reward models of this round."
    })
})

export const selectBest = Stage.make("select-best", {
  description: "§3.2.3 selects the completion with the highest reward for each prompt",
  config: SelectBestConfig,
  inputs: { scored: Stage.many(ScoredCompletions) },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("select-best")(function* ({ config, inputs, output }) {
    const sets = yield* Effect.forEach(inputs.scored, (set) => readRows(set, ScoredCompletions))
    yield* checkPromptIds(sets.flat().map(promptOf), "Choosing the best completion of each prompt")
    yield* checkScales(sets, "Choosing the best completion of each prompt")
    const prompts = new Set(sets.flat().map((completion) => completion.promptId)).size
    const best = bestOf(sets, config)
    return yield* writeDataset(output, best.map(demonstrationOf), { metrics: { prompts, selected: best.length } })
  })
})

/** A random completion of each prompt, in the order in which prompts first appear. */
export const randomOf = (
  completions: ReadonlyArray<Completion>,
  options: { readonly unfinished: "drop" | "keep"; readonly seed: number }
): Array<Completion> => {
  const candidates = completions.filter(({ finished, text }) => text !== "" && (finished || options.unfinished === "keep"))
  return [...Map.groupBy(candidates, ({ promptId }) => promptId)].map(([id, samples]) =>
    new Random(options.seed, "select-random", id).pick(samples)
  )
}

export const selectRandom = Stage.make("select-random", {
  description: "selects a random completion of each prompt: the baseline for selecting the best",
  config: SelectBestConfig,
  inputs: { completions: Stage.many(Completions) },
  output: Demonstrations,
  run: Effect.fn("select-random")(function* ({ config, inputs, output, seed }) {
    const sets = yield* Effect.forEach(inputs.completions, (set) => readRows(set, Completions))
    yield* checkPromptIds(sets.flat().map(promptOf), "Choosing a random completion of each prompt")
    const chosen = randomOf(sets.flat(), { unfinished: config.unfinished, seed })
    const prompts = new Set(sets.flat().map((completion) => completion.promptId)).size
    return yield* writeDataset(output, chosen.map(demonstrationOf), { metrics: { prompts, selected: chosen.length } })
  })
})

export const selectBestCost = costOf(selectBest, {
  // The sets answer the same prompts, so each prompt counts once.
  size: ({ inputs }) => sized(pool(inputs.scored), { rows: Math.max(...inputs.scored.map(({ prompts }) => prompts)) })
})
export const selectRandomCost = costOf(selectRandom, {
  size: ({ inputs }) => sized(pool(inputs.completions), { rows: Math.max(...inputs.completions.map(({ prompts }) => prompts)) })
})
