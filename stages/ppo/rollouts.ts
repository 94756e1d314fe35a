/**
 * Rollouts (Llama 2 §3.2.3): samples the policy's responses to prompts, and scores them:
 *
 *     score = whiten(logit(R_c)), adjusted by how the response ended,      R_c = R_s  if is_safety(p) or R_s < 0.15,  else R_h
 */
import * as Effect from "effect/Effect"
import { Random } from "../../engine/random.ts"
import { agree, rowsOfRank, gatherAll, rank, mergeRows } from "../../engine/ranks.ts"
import { formatOf } from "../../models/chat.ts"
import type { LoadedReward } from "../../models/checkpoint.ts"
import { type Generated, generate, NotFiniteLogitsError, promptsPerCall } from "../../models/sampler.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { fitDialogue } from "../common/dialogues.ts"
import { textOf } from "../common/sampling.ts"
import type { ScorerError } from "../common/scorer.ts"
import { type NotFiniteScoreError, scoreAll } from "../common/scoring.ts"
import { chunks } from "../common/sequences.ts"
import { combineRewards, logit, scoreOf, whiten } from "../reward/combined-reward.ts"
import type { PpoConfig } from "./config.ts"
import { isModel, type PolicyModels, type RewardSource } from "./loading.ts"
import type { Rollout } from "./trainer.ts"

export interface EncodedPrompt {
  readonly prompt: Prompt
  readonly tokens: ReadonlyArray<number>
}

export interface Response extends Generated {
  readonly prompt: Prompt
  readonly promptTokens: ReadonlyArray<number>
  readonly text: string
}

export interface ResponseReward {
  /** logit(R_c). */
  readonly reward: number
  /** R_h and R_s in (0, 1); null if there is no such model, or if the response can't be scored. */
  readonly helpfulness: number | null
  readonly safety: number | null
}

/** The config fields for sampling and scoring. */
export type RolloutConfig = Pick<
  PpoConfig,
  "maxNewTokens" | "temperature" | "inferenceBatchSize" | "threshold" | "unreadableScore" | "noEos" | "noEosPenalty"
>
interface Context {
  readonly config: RolloutConfig
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

/** The `size` prompts of an iteration, counted from 1. Iterations go through all prompts, pass after pass, each pass in a new permutation. */
export const nextPrompts = <A>(
  prompts: ReadonlyArray<A>,
  batch: { readonly size: number; readonly iteration: number; readonly seed: number }
): Array<A> => {
  const { size, iteration, seed } = batch
  const first = (iteration - 1) * size
  const [pass, last] = [first, first + size - 1].map((at) => Math.floor(at / prompts.length)) as [number, number]
  const passes = Array.from({ length: last - pass + 1 }, (_, i) => new Random(seed, "ppo", "prompts", pass + i).shuffle(prompts)).flat()
  return passes.slice(first - pass * prompts.length).slice(0, size)
}

/** Samples one response to each prompt, with that prompt's seed. Fails with NotFiniteLogitsError if the model's logits are NaN or infinite. */
export const rollout = Effect.fn("ppo.rollout")(function* (
  { policy, tokenizer, config, progress }: Pick<PolicyModels, "policy" | "tokenizer"> & Context,
  prompts: ReadonlyArray<EncodedPrompt>,
  seeds: ReadonlyArray<number>
): Effect.fn.Return<Array<Response>, NotFiniteLogitsError> {
  const { maxNewTokens, temperature, inferenceBatchSize } = config
  const { padId } = tokenizer
  const eosId = formatOf(tokenizer).stopIds
  const responses = new Array<Response>(prompts.length)
  const order = prompts.map((_, i) => i).sort((a, b) => prompts[a]!.tokens.length - prompts[b]!.tokens.length || a - b)
  const draw = Effect.fnUntraced(function* (batch: ReadonlyArray<number>) {
    const generated = yield* Effect.try({
      try: () =>
        generate(
          policy,
          batch.map((i) => prompts[i]!.tokens),
          {
            maxNewTokens,
            temperature,
            seeds: batch.map((i) => seeds[i]!),
            eosId,
            padId,
            batchSize: inferenceBatchSize
          }
        ),
      catch: (cause) => {
        if (cause instanceof NotFiniteLogitsError) return cause
        throw cause
      }
    })
    yield* progress({ message: "sampling", tokens: generated.reduce((sum, { tokens }) => sum + tokens.length, 0) })
    return generated
  })
  const drawn = yield* Effect.result(Effect.forEach(chunks(rowsOfRank(order), promptsPerCall(policy, inferenceBatchSize)), draw))
  const all = gatherAll(drawn._tag === "Success" ? drawn.success.flat() : drawn.failure.message, "gathering the responses")
  const failed = all.find((some) => typeof some === "string")
  if (failed !== undefined) return yield* Effect.fail(new NotFiniteLogitsError(failed))
  mergeRows(all as ReadonlyArray<ReadonlyArray<Generated>>).forEach((generated, at) => {
    const { prompt, tokens: promptTokens } = prompts[order[at]!]!
    responses[order[at]!] = { ...generated, prompt, promptTokens, text: textOf(tokenizer, generated) }
  })
  return responses
})

/**
 * The reward logit(R_c) of each response; without a safety model R_c is R_h. If a reward model can't score a response, R_c is `unreadableScore`.
 */
export const reward = Effect.fn("ppo.reward")(function* (
  context: Pick<PolicyModels, "helpfulness" | "safety"> & Context,
  responses: ReadonlyArray<Scorable>
): Effect.fn.Return<Array<ResponseReward>, NotFiniteScoreError | ScorerError | ArtifactError> {
  const { config } = context
  const helpfulness = yield* scores(context.helpfulness, responses, context)
  const safety = context.safety === undefined ? undefined : yield* scores(context.safety, responses, context)
  return responses.map(({ prompt }, i): ResponseReward => {
    const [h, s] = [helpfulness[i], safety?.[i]]
    if (h === undefined || (safety !== undefined && s === undefined))
      return { reward: logit(config.unreadableScore), helpfulness: null, safety: null }
    if (s === undefined) return { reward: logit(h), helpfulness: h, safety: null }
    const combined = combineRewards({ helpfulness: h, safety: s, isSafetyPrompt: prompt.safety, threshold: config.threshold })
    return { reward: logit(combined), helpfulness: h, safety: s }
  })
})
type Scorable = Pick<Response, "prompt" | "text" | "finished">

/** Scores in (0, 1) from a reward model or a scorer; undefined for a response that it can't score. */
const scores = Effect.fnUntraced(function* (source: RewardSource, responses: ReadonlyArray<Scorable>, context: Context) {
  if (isModel(source)) return yield* modelScores(source, responses, context)
  const answers = responses.map(({ finished, prompt: { id, messages, safety }, text }) => ({
    id,
    prompt: messages,
    text,
    finished,
    safety
  }))
  // Only one rank calls the scorer.
  const numbers = rank() === 0 ? yield* source.score(answers, context.progress) : []
  return agree(numbers, "scoring the responses").map((number) => (number === undefined ? undefined : scoreOf(number)))
})

/** Scores in (0, 1) from a reward model; undefined if the chat format can't represent the response (it is empty, or contains tags of the format). */
const modelScores = Effect.fnUntraced(function* (
  loaded: LoadedReward,
  responses: ReadonlyArray<Scorable>,
  { config, progress }: Context
): Effect.fn.Return<Array<number | undefined>, NotFiniteScoreError | ScorerError | ArtifactError> {
  const { closing } = formatOf(loaded.tokenizer)
  const readable = responses.flatMap(({ prompt, text, finished }, index) => {
    const messages = [...prompt.messages, { role: "assistant" as const, content: text }]
    const example = fitDialogue(loaded.tokenizer, messages, loaded.model.config.maxPositions)
    if (example === undefined) return []
    // As in stages/common/scoring.ts: a truncated answer lacks the closing tokens.
    return [{ index, tokens: finished ? example.tokens : example.tokens.slice(0, -closing) }]
  })
  const own = yield* scoreAll(
    loaded,
    rowsOfRank(readable).map(({ tokens }) => tokens),
    {
      batchSize: config.inferenceBatchSize,
      precision: "float32",
      device: loaded.model.backbone.device,
      progress: ({ tokens }) => progress({ message: "scoring", ...(tokens === undefined ? {} : { tokens }) })
    }
  )
  const scalars = mergeRows(gatherAll(own, "scoring the responses"))
  const out = new Array<number | undefined>(responses.length).fill(undefined)
  readable.forEach(({ index }, i) => (out[index] = scoreOf(scalars[i]!)))
  return out
})

/** The responses with their final scores: rewards, whitened over the batch if `isWhitened`, then adjusted for truncated responses. */
export const scoredRollouts = (
  responses: ReadonlyArray<Response>,
  rewards: ReadonlyArray<ResponseReward>,
  config: Pick<PpoConfig, "noEos" | "noEosPenalty">,
  isWhitened = true
): Array<Rollout> => {
  const given = rewards.map(({ reward }) => reward)
  const whitened = isWhitened ? whiten(given) : given
  return responses.map(({ promptTokens, tokens, logProbabilities, finished }, i) => ({
    prompt: promptTokens,
    response: tokens,
    logProbabilities,
    score: terminalScore(whitened[i]!, finished, config)
  }))
}

/**
 * The score of a response. One truncated before the end-of-sequence token keeps its score (noEos "none"), gets its score minus the penalty ("penalty"),
 * or minus the penalty alone ("replace").
 */
export const terminalScore = (score: number, finished: boolean, config: Pick<PpoConfig, "noEos" | "noEosPenalty">): number => {
  if (finished || config.noEos === "none") return score
  return config.noEos === "penalty" ? score - config.noEosPenalty : -config.noEosPenalty
}
