/** What a response is worth to PPO (Llama 2 §3.2.3): the logit of R_c, by one reward model or two that are loaded once. */
import * as Effect from "effect/Effect"
import type { LoadedReward } from "../../models/checkpoint.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { combineRewards, type GateScope, logit, scoreOf } from "../reward/combined-reward.ts"
import { fitDialogue } from "../common/dialogues.ts"
import { type NotFiniteScoreError, scoreAll, type ScoringOptions } from "../common/scoring.ts"

export interface Response {
  readonly prompt: Prompt
  readonly text: string
  /** Whether it ended with the end-of-sequence token. */
  readonly finished: boolean
}

export interface ResponseReward {
  /** logit(R_c). */
  readonly reward: number
  /** R_h and R_s in (0, 1); null where no model gave one. */
  readonly helpfulness: number | null
  readonly safety: number | null
}

export interface RewardOptions extends Omit<ScoringOptions, "precision"> {
  readonly threshold: number
  readonly scope: GateScope
  /** R_c of a response that can't be read. */
  readonly unreadableScore: number
}

/** Scores in (0, 1); undefined where the chat format can't hold the response (it is empty, or has the format's own tags). */
const scoresOf = Effect.fnUntraced(function* (
  loaded: LoadedReward,
  responses: ReadonlyArray<Response>,
  options: RewardOptions
): Effect.fn.Return<Array<number | undefined>, NotFiniteScoreError | ArtifactError> {
  const work = responses.flatMap(({ prompt, text, finished }, index) => {
    const messages = [...prompt.messages, { role: "assistant" as const, content: text }]
    const example = fitDialogue(loaded.tokenizer, messages, loaded.model.config.maxPositions)
    if (example === undefined) return []
    // As stages/reward/score.ts has it: the format ends an answer with a space and EOS; one that was cut off has neither.
    return [{ index, tokens: finished ? example.tokens : example.tokens.slice(0, -2) }]
  })
  const scalars = yield* scoreAll(
    loaded,
    work.map(({ tokens }) => tokens),
    { ...options, precision: "float32" }
  )
  const out = new Array<number | undefined>(responses.length).fill(undefined)
  work.forEach(({ index }, i) => (out[index] = scoreOf(scalars[i]!)))
  return out
})

/**
 * Rewards of responses; without a safety model R_c is R_h. A response that no reward model can read has the score `unreadableScore`: bad, and
 * defined.
 */
export const rewardResponses = Effect.fn("rewardResponses")(function* (
  models: { readonly helpfulness: LoadedReward; readonly safety: LoadedReward | undefined },
  responses: ReadonlyArray<Response>,
  options: RewardOptions
): Effect.fn.Return<Array<ResponseReward>, NotFiniteScoreError | ArtifactError> {
  const helpfulness = yield* scoresOf(models.helpfulness, responses, options)
  const safety = models.safety === undefined ? undefined : yield* scoresOf(models.safety, responses, options)
  const { threshold, scope } = options
  return responses.map(({ prompt }, i): ResponseReward => {
    const [h, s] = [helpfulness[i], safety?.[i]]
    if (h === undefined || (safety !== undefined && s === undefined))
      return { reward: logit(options.unreadableScore), helpfulness: null, safety: null }
    const combined = s === undefined ? h : combineRewards({ helpfulness: h, safety: s, isSafetyPrompt: prompt.safety, threshold, scope })
    return { reward: logit(combined), helpfulness: h, safety: s ?? null }
  })
})
