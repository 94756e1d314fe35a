/**
 * The models of PPO: loaded, copied, and read over the tokens of responses.
 *
 * Sequences are padded on the right: attention is causal, so padding needs no mask. Logits and values are computed at response tokens only and come
 * without padding, one response after another:
 *
 *     B sequences   T tokens of the longest   D width   V vocabulary   N response tokens of all sequences (with "past-end" one more for each)
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { deriveSeed } from "../../engine/random.ts"
import type { TokenDistribution } from "../../engine/fused.ts"
import { type Device, type DType, keep, linear, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { type LoadedReward, loadPolicy, loadReward } from "../../models/checkpoint.ts"
import { Llama } from "../../models/llama.ts"
import { initRewardModel, type RewardModel } from "../../models/reward-model.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { ArtifactRef, Checkpoint } from "../../schemas/artifact.ts"
import { chunks } from "../common/sequences.ts"
import type { PpoConfig } from "./config.ts"

// ---- loading ----

export interface PpoModels {
  /** Trained. */
  readonly policy: Llama
  /** Frozen: what the policy is held near. */
  readonly reference: Llama
  /** Trained. */
  readonly value: RewardModel
  /** Of all of them. */
  readonly tokenizer: Tokenizer
  readonly helpfulness: LoadedReward
  readonly safety: LoadedReward | undefined
}

/** Loads each model once. The reference is the loaded policy itself; what is trained are copies. */
export const loadModels = Effect.fn("ppo.loadModels")(function* (
  inputs: {
    readonly policy: ArtifactRef<Checkpoint<"policy">>
    readonly helpfulness: ArtifactRef<Checkpoint<"helpfulness-reward">>
    readonly safety?: ArtifactRef<Checkpoint<"safety-reward">> | undefined
  },
  options: { readonly config: PpoConfig; readonly device: Device; readonly seed: number }
) {
  const { config, device, seed } = options
  const placed: { readonly device: Device; readonly dtype: DType } = { device, dtype: config.precision }
  const { model: reference, tokenizer } = yield* loadPolicy(inputs.policy, placed)
  const helpfulness = yield* loadReward(inputs.helpfulness, placed)
  yield* checkSameTokenizer(tokenizer, helpfulness.tokenizer, "helpfulness reward model")
  const safety = inputs.safety === undefined ? undefined : yield* loadReward(inputs.safety, placed)
  if (safety !== undefined) yield* checkSameTokenizer(tokenizer, safety.tokenizer, "safety reward model")
  const value = initValueModel(config.valueInit === "policy" ? reference : helpfulness.model.backbone, {
    seed: deriveSeed(seed, "ppo", "value head")
  })
  const models: PpoModels = { policy: cloneLlama(reference), reference, value, tokenizer, helpfulness, safety }
  return models
})

/** How many tokens the smallest context of all models holds. */
export const smallestContext = ({ reference, value, helpfulness, safety }: PpoModels): number =>
  Math.min(
    reference.config.maxPositions,
    value.config.maxPositions,
    // The chat format ends an answer with a space and EOS, which sampled tokens may not hold.
    ...[helpfulness, safety].map((reward) => (reward === undefined ? Infinity : reward.model.config.maxPositions - 2))
  )

/** Two models that are to work on the same tokens have different tokenizers. */
export class TokenizerMismatchError extends Schema.TaggedError<TokenizerMismatchError>()("TokenizerMismatchError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** Fails unless both tokenizers have the same pieces in the same order, so that a token means the same to both models. */
const checkSameTokenizer = (policy: Tokenizer, other: Tokenizer, role: string): Effect.Effect<void, TokenizerMismatchError> => {
  const at = Array.from({ length: Math.max(policy.vocabSize, other.vocabSize) }, (_, i) => i).find((i) => {
    const [a, b] = [policy.pieces[i], other.pieces[i]]
    return a?.text !== b?.text || a?.type !== b?.type || a?.score !== b?.score
  })
  if (at === undefined) return Effect.void
  const describe = (tokenizer: Tokenizer) => {
    const piece = tokenizer.pieces[at]
    return `${tokenizer.vocabSize} pieces, number ${at} ${piece === undefined ? "missing" : `${JSON.stringify(piece.text)} (${piece.type})`}`
  }
  const fields = { doing: `PPO with this ${role}`, expected: `the policy's tokenizer (${describe(policy)})`, found: describe(other) }
  return Effect.fail(
    new TokenizerMismatchError({
      ...fields,
      message: `${fields.doing}: expected ${fields.expected}, found ${fields.found}. Train the ${role} from a checkpoint of the policy's family.`
    })
  )
}

/** As checkSameTokenizer, of two folders with a tokenizer each. */
export const checkTokenizerFolders = Effect.fn("checkTokenizerFolders")(function* (policy: string, other: string) {
  const [one, two] = [yield* loadTokenizer(policy), yield* loadTokenizer(other)]
  yield* checkSameTokenizer(one, two, "model")
})

// ---- copies ----

/** A copy to train, on weights of its own; the original stays as it is. */
export const cloneLlama = (model: Llama): Llama =>
  new Llama(model.config, Object.fromEntries(Object.entries(model.parameters).map(([name, weight]) => [name, cloneWeight(weight)])))

const cloneWeight = (weight: Tensor): Tensor => keep(scoped(() => noGrad(() => weight.clone()))).requiresGrad()

/** Makes one model's weights another's. */
export const copyWeights = (from: Llama, to: Llama): void =>
  scoped(() => noGrad(() => Object.entries(to.parameters).forEach(([name, weight]) => void weight.copy_(from.parameter(name)))))

/** A value model to train on a copy of a model's weights, without its output layer if it has one; its head is new. */
export const initValueModel = (start: Llama, options: { readonly seed: number }): RewardModel => {
  const { "lm_head.weight": _, ...backbone } = start.parameters
  return initRewardModel(cloneLlama(new Llama(start.config, backbone)), options)
}

// ---- reading responses ----

export interface TokenizedResponse {
  readonly prompt: ReadonlyArray<number>
  /** At least one token; the end-of-sequence token included, when it was reached. */
  readonly response: ReadonlyArray<number>
}

export interface ReadOptions {
  readonly padId: number
  readonly config: Pick<PpoConfig, "temperature" | "terminal" | "inferenceBatchSize">
}

/** The last layer's states (N, D) from which each response token is predicted: those of the token before it. `pastEnd` adds the state after each response's last token. */
const responseStates = (model: Llama, responses: ReadonlyArray<TokenizedResponse>, padId: number, pastEnd: boolean): Tensor => {
  const length = Math.max(...responses.map(sequenceLength))
  const ids = new Int32Array(responses.length * length).fill(padId)
  const positions: Array<number> = []
  responses.forEach(({ prompt, response }, i) => {
    ids.set(prompt, i * length)
    ids.set(response, i * length + prompt.length)
    const first = i * length + prompt.length - 1
    for (let t = 0; t < response.length + (pastEnd ? 1 : 0); t++) positions.push(first + t)
  })
  const { device } = model
  const hidden = model.hidden(tensor(ids, { shape: [responses.length, length], dtype: "int64", device })) // (B, T, D)
  return hidden.reshape(-1, hidden.size(-1)).indexSelect(0, tensor(Int32Array.from(positions), { dtype: "int64", device })) // (N, D)
}

/** What the model says of the response tokens at the temperature that they were drawn at. */
const responseDistribution = (
  model: Llama,
  responses: ReadonlyArray<TokenizedResponse>,
  { padId, config }: ReadOptions,
  entropies: boolean
): TokenDistribution => {
  const tokens = tensor(Int32Array.from(responses.flatMap(({ response }) => response)), { dtype: "int64", device: model.device }) // (N,)
  return model.distribution(responseStates(model, responses, padId, false), tokens, { temperature: config.temperature, entropies })
}

/** Log-probabilities (N,) of the response tokens and, with them, the summed entropy of their distributions. */
export const responseLogProbabilities = (
  model: Llama,
  responses: ReadonlyArray<TokenizedResponse>,
  options: ReadOptions
): { readonly logProbabilities: Tensor; readonly entropy: Tensor } => {
  const { entropies, logProbabilities } = responseDistribution(model, responses, options, true)
  return { logProbabilities, entropy: noGrad(() => entropies.sum()) }
}

/** Values (N,) of the states in which each response token is chosen, and with a score past the end of the state after the last; the head in float32. */
export const responseValues = (model: RewardModel, responses: ReadonlyArray<TokenizedResponse>, { padId, config }: ReadOptions): Tensor => {
  const states = responseStates(model.backbone, responses, padId, config.terminal === "past-end") // (N, D)
  return linear(atLeastFloat32(states), atLeastFloat32(model.head)).squeeze(-1)
}

const atLeastFloat32 = (x: Tensor): Tensor => (x.dtype === "float64" ? x : x.to({ dtype: "float32" }))

/** Log-probabilities of each response's tokens under a model as it is now, without gradients. */
export const logProbabilitiesOf = (model: Llama, responses: ReadonlyArray<TokenizedResponse>, options: ReadOptions) =>
  inBatches(responses, options, 0, (batch) => responseDistribution(model, batch, options, false).logProbabilities)

/** Values of each response's states under a model as it is now, without gradients: with a score past the end one more than tokens. */
export const valuesOf = (model: RewardModel, responses: ReadonlyArray<TokenizedResponse>, options: ReadOptions) =>
  inBatches(responses, options, options.config.terminal === "past-end" ? 1 : 0, (batch) => responseValues(model, batch, options))

/** Computes numbers (N,) over batches of responses of like length, without gradients, and gives each response its own back: its tokens and `more`. */
const inBatches = <R extends TokenizedResponse>(
  responses: ReadonlyArray<R>,
  { config }: ReadOptions,
  more: number,
  compute: (batch: ReadonlyArray<R>) => Tensor
): Array<ReadonlyArray<number>> => {
  const numbers = new Map<R, ReadonlyArray<number>>()
  for (const batch of chunks(byLength(responses), config.inferenceBatchSize)) {
    const all = scoped(() => noGrad(() => compute(batch).toNumbers()))
    let at = 0
    for (const response of batch) numbers.set(response, all.slice(at, (at += response.response.length + more)))
  }
  return responses.map((response) => numbers.get(response)!)
}

/** The shortest sequence first: neighbours share a batch with little padding. */
export const byLength = <R extends TokenizedResponse>(responses: ReadonlyArray<R>): Array<R> =>
  responses.toSorted((a, b) => sequenceLength(a) - sequenceLength(b))

const sequenceLength = ({ prompt, response }: TokenizedResponse): number => prompt.length + response.length
