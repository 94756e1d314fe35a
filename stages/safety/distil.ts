/**
 * Safety context distillation (Llama 2 §4.2.4): an answer generated with a preprompt becomes training data without the preprompt, but only if the safety
 * reward model prefers it to the answer generated without one. If there are several samples per prompt, the best of each side are compared.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper } from "../../schemas/hyper.ts"
import { Demonstrations, type Message, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { pool, sized } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { sameMessages } from "../common/pairing.ts"
import { mean } from "../common/statistics.ts"
import { attempt, DistillationError } from "./distillation-error.ts"

/** A prompt's best answer with a preprompt, and its best without. Scores are the safety reward model's, in (0, 1). */
export interface Distilled {
  readonly promptId: string
  readonly prompt: ReadonlyArray<Message>
  readonly text: string
  /** Index of the set of prefixed completions that it comes from. */
  readonly set: number
  readonly original: number
  readonly distilled: number
  /** Whether the distilled answer scores higher than the original; false if the scores are equal. */
  readonly kept: boolean
}

export const safetyScoreOf = (completion: ScoredCompletion): number => {
  if (completion.safetyScore !== null) return completion.safetyScore
  throw DistillationError.of({
    doing: "Comparing answers with the safety reward model",
    expected: "completions scored by that model",
    found: `no safety score for "${completion.promptId}"`,
    hint: "Score both sides with a safety reward model."
  })
}

export const byPrompt = (completions: ReadonlyArray<ScoredCompletion>): ReadonlyMap<string, ReadonlyArray<ScoredCompletion>> =>
  Map.groupBy(completions, (completion) => completion.promptId)

/**
 * The best distilled answer of each adversarial prompt (of equal scores, the first), and whether it is kept; in the order in which the prompts first
 * appear in `original`. With unfinished "drop", truncated answers are dropped from the distilled side, but not from the originals, which show how the
 * model answers. Throws DistillationError if a prefixed completion's prompt differs from the original's: a preprompt must not reach training.
 */
export const distilledAnswers = (
  original: ReadonlyArray<ScoredCompletion>,
  prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>,
  options: { readonly unfinished: "drop" | "keep" }
): { readonly answers: Array<Distilled>; readonly withoutOriginal: number; readonly withoutDistilled: number } => {
  const before = byPrompt(original.filter((completion) => completion.safety))
  const adversarial = prefixed.map((set) => set.filter((completion) => completion.safety))
  const sets = adversarial.map((set) => byPrompt(set.filter(({ finished }) => finished || options.unfinished === "keep")))
  const answers: Array<Distilled> = []
  let withoutDistilled = 0
  for (const [promptId, originals] of before) {
    const { prompt } = originals[0]!
    let best: { readonly score: number; readonly text: string; readonly set: number } | undefined
    sets.forEach((set, index) => {
      for (const completion of set.get(promptId) ?? []) {
        if (!sameMessages(completion.prompt, prompt))
          throw DistillationError.of({
            doing: "Distilling a preprompt",
            expected: `the prompt "${promptId}" without the preprompt`,
            found: "a different prompt",
            hint: "Remove preprompts with withoutPreprompt before the completions are scored."
          })
        const score = safetyScoreOf(completion)
        if (best === undefined || score > best.score) best = { score, text: completion.text, set: index }
      }
    })
    if (best === undefined) {
      withoutDistilled++
      continue
    }
    const score = Math.max(...originals.map(safetyScoreOf))
    answers.push({ promptId, prompt, text: best.text, set: best.set, original: score, distilled: best.score, kept: best.score > score })
  }
  const prefixedIds = new Set(adversarial.flatMap((set) => set.map((completion) => completion.promptId)))
  return { answers, withoutOriginal: [...prefixedIds].filter((id) => !before.has(id)).length, withoutDistilled }
}

export const unfinished = hyper(
  "drop",
  "what to do with distilled answers truncated before their end-of-sequence token: drop them (fine-tuning on them would teach the model to stop in the middle), or keep them as candidates; the paper does not say",
  ["drop", "keep"]
)

export const nothingToCompare = (original: ReadonlyArray<ScoredCompletion>, prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>) =>
  EmptyDatasetError.of(
    "distil",
    `${original.length} original completions and ${prefixed.flat().length} with a preprompt, without a common adversarial prompt`
  )

const DistilConfig = Schema.Struct({ unfinished })

export const distil = Stage.make("distil", {
  description:
    "§4.2.4 turns answers generated with a preprompt into demonstrations without it, where the safety reward model prefers them to the original answers",
  config: DistilConfig,
  inputs: { original: ScoredCompletions, prefixed: Stage.many(ScoredCompletions) },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("distil")(function* ({ config, inputs, output }) {
    const original = yield* readRows(inputs.original, ScoredCompletions)
    const prefixed = yield* Effect.forEach(inputs.prefixed, (set) => readRows(set, ScoredCompletions))
    const { answers, withoutOriginal, withoutDistilled } = yield* attempt(() => distilledAnswers(original, prefixed, config))
    if (answers.length === 0) return yield* nothingToCompare(original, prefixed)
    const kept = answers.filter((answer) => answer.kept)
    const demonstrations = kept.map(({ promptId, prompt, text }) => ({
      id: promptId,
      messages: [...prompt, { role: "assistant" as const, content: text }],
      loss: "answers" as const
    }))
    const means = (): Record<string, number> => {
      const [before, after] = [mean(kept.map((answer) => answer.original)), mean(kept.map((answer) => answer.distilled))]
      return { before, after, gain: after - before }
    }
    return yield* writeDataset(output, demonstrations, {
      metrics: { prompts: answers.length, kept: kept.length, withoutOriginal, withoutDistilled, ...(kept.length > 0 ? means() : {}) }
    })
  })
})

export const distilCost = costOf(distil, {
  size: ({ inputs }) => sized(pool(inputs.prefixed), { rows: inputs.original.prompts })
})
