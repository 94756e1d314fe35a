/** What a response is worth to PPO (Llama 2 §3.2.3): the logit of R_c, by one reward model or two. */
import { type Device, noGrad, scoped } from "../../engine/tensor.ts"
import type { LoadedReward } from "../../models/checkpoint.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { combineRewards, logit } from "./combined-reward.ts"
import { fitDialogue } from "./dialogues.ts"
import { scoreSequences } from "./scoring.ts"
import { chunks } from "./sequences.ts"

/** Which prompts a low safety score is looked at for: all of them (§3.2.3), or those that nobody sorted (category null). */
export type ThresholdScope = "all" | "untagged"

export interface RewardRule {
  readonly threshold: number
  readonly thresholdScope: ThresholdScope
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/**
 * logit(R_c) from what the models give before the sigmoid. R_c is one of the two scores, so its logit is one of the two numbers: compared with
 * logit(threshold) they need no sigmoid, which would round scores near 1 to 1 and make their logits infinite.
 */
export const combinedLogit = (
  logits: { readonly helpfulness: number; readonly safety: number | null },
  prompt: Pick<Prompt, "safety" | "category">,
  { threshold, thresholdScope }: RewardRule
): number => {
  if (logits.safety === null) return logits.helpfulness
  const looked = thresholdScope === "all" || prompt.category === null
  const edge = !looked || threshold <= 0 ? -Infinity : threshold >= 1 ? Infinity : logit(threshold)
  return combineRewards({ safety: logits.safety, helpfulness: logits.helpfulness, isSafetyPrompt: prompt.safety, threshold: edge })
}

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

/** A reward model gave something that is no number. */
export class RewardNotFiniteError extends Error {
  override readonly name = "RewardNotFiniteError"
}

/** Scores of responses before the sigmoid; undefined where the chat format can't hold the response (empty, or with the format's own tags). */
const scalars = (
  { model, tokenizer }: LoadedReward,
  responses: ReadonlyArray<Response>,
  options: { readonly batchSize: number; readonly device: Device }
): Array<number | undefined> => {
  const work = responses.flatMap(({ prompt, text, finished }, index) => {
    const messages = [...prompt.messages, { role: "assistant" as const, content: text }]
    const example = fitDialogue(tokenizer, messages, model.config.maxPositions)
    if (example === undefined) return []
    // As in stages/score.ts: the format ends an answer with a space and EOS; one that was cut off has neither.
    return [{ index, tokens: finished ? example.tokens : example.tokens.slice(0, -2) }]
  })
  const out = new Array<number | undefined>(responses.length).fill(undefined)
  for (const batch of chunks(
    work.toSorted((a, b) => a.tokens.length - b.tokens.length || a.index - b.index),
    options.batchSize
  )) {
    const sequences = batch.map(({ tokens }) => tokens)
    const scores = scoped(() =>
      noGrad(() => scoreSequences(model, sequences, { padId: tokenizer.padId, device: options.device }).toNumbers())
    )
    batch.forEach(({ index }, i) => (out[index] = scores[i]!))
  }
  return out
}

/**
 * Rewards of responses. One that no reward model can read (it is empty, or holds the chat format's tags) is worth the logit of
 * `unreadableScore`: bad, and defined.
 */
export const rewardResponses = (
  models: { readonly helpfulness: LoadedReward; readonly safety: LoadedReward | undefined },
  responses: ReadonlyArray<Response>,
  options: RewardRule & { readonly unreadableScore: number; readonly batchSize: number; readonly device: Device }
): Array<ResponseReward> => {
  const helpfulness = scalars(models.helpfulness, responses, options)
  const safety = models.safety === undefined ? undefined : scalars(models.safety, responses, options)
  return responses.map(({ prompt }, i) => {
    const [h, s] = [helpfulness[i], safety === undefined ? null : safety[i]]
    if (h === undefined || s === undefined) return { reward: logit(options.unreadableScore), helpfulness: null, safety: null }
    if (!Number.isFinite(h) || (s !== null && !Number.isFinite(s))) {
      const which = Number.isFinite(h) ? `safety reward ${s}` : `helpfulness reward ${h}`
      throw new RewardNotFiniteError(`${which} of a response to the prompt ${prompt.id}`)
    }
    return {
      reward: combinedLogit({ helpfulness: h, safety: s }, prompt, options),
      helpfulness: sigmoid(h),
      safety: s === null ? null : sigmoid(s)
    }
  })
}
