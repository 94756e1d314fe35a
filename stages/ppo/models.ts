/**
 * The models of PPO: copies, and forward passes over the tokens of responses.
 *
 * Sequences are padded on the right: attention is causal, so padding needs no mask. Logits and values are computed only at response tokens and returned
 * without padding, one response after another:
 *
 *     B sequences   T tokens of the longest   D width   V vocabulary   N response tokens of all sequences (with "past-end", one more for each)
 */
import type { TokenDistribution } from "../../engine/fused.ts"
import type { Parameters } from "../../engine/gradients.ts"
import { keep, linear, noGrad, scoped, stack, tensor, type Tensor } from "../../engine/tensor.ts"
import { Llama } from "../../models/llama.ts"
import { Lora } from "../../models/lora.ts"
import { initRewardModel, type RewardModel } from "../../models/reward-model.ts"
import { chunks } from "../common/sequences.ts"
import { type LoraFields, trainedParameters, withLora } from "../training/lora.ts"
import type { PpoConfig } from "./config.ts"

// ---- copies ----

/** A trainable copy with its own weights, with any adapter merged into them. The original is unchanged. */
export const cloneLlama = (model: Llama): Llama => new Llama(model.config, cloneAll(model.parameters), model.adapter).merge()

/** A copy of a policy: with an adapter, a copy of the adapter on the same weights; otherwise a copy of all weights. */
export const clonePolicy = (policy: Llama): Llama =>
  policy.adapter === undefined ? cloneLlama(policy) : policy.withAdapter(cloneAdapter(policy.adapter))

const cloneAdapter = ({ config, parameters }: Lora): Lora => new Lora(config, cloneAll(parameters))

const cloneAll = (weights: Parameters): Parameters =>
  Object.fromEntries(
    Object.entries(weights).map(([name, weight]) => [name, keep(scoped(() => noGrad(() => weight.clone()))).requiresGrad()])
  )

/** Copies the trained part of one policy into another. */
export const copyPolicy = (from: Llama, to: Llama): void => {
  const weights = trainedParameters(from)
  scoped(() => noGrad(() => Object.entries(trainedParameters(to)).forEach(([name, weight]) => void weight.copy_(weights[name]!))))
}

/**
 * A trainable value model with a new head, initialised from a model without its output layer. It has its own copy of the weights, or with `lora` an
 * adapter on the original weights: a new one, or a copy of that model's adapter.
 */
export const initValueModel = (start: Llama, options: { readonly seed: number; readonly lora?: LoraFields }): RewardModel => {
  const { lora, seed } = options
  const backbone = withoutOutput(start)
  if (lora === undefined || lora.loraRank === 0) return initRewardModel(cloneLlama(backbone), { seed })
  return initRewardModel(backbone.adapter === undefined ? withLora(backbone, lora, seed) : clonePolicy(backbone), { seed })
}

/** The same weights and adapter without an output layer. */
export const withoutOutput = ({ adapter, config, parameters }: Llama): Llama => {
  const { "lm_head.weight": _, ...backbone } = parameters
  return new Llama(config, backbone, adapter)
}

// ---- forward passes over responses ----

export interface TokenizedResponse {
  readonly prompt: ReadonlyArray<number>
  /** At least one token; includes the end-of-sequence token if it was reached. */
  readonly response: ReadonlyArray<number>
}

export interface ReadOptions {
  readonly padId: number
  readonly config: Pick<PpoConfig, "temperature" | "inferenceBatchSize">
}
/** Values also depend on `terminal`: with "past-end", there is one more state per response. */
interface ValueOptions extends ReadOptions {
  readonly config: Pick<PpoConfig, "temperature" | "terminal" | "inferenceBatchSize">
}

/** The last layer's states (N, D) from which each response token is predicted: those of the previous token. `pastEnd` adds the state after each response's last token. */
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

/** Statistics of the model's distributions at the response tokens, at the sampling temperature. */
export const responseDistribution = (
  model: Llama,
  responses: ReadonlyArray<TokenizedResponse>,
  { padId, config }: ReadOptions,
  entropies: boolean
): TokenDistribution => {
  const tokens = tensor(Int32Array.from(responses.flatMap(({ response }) => response)), { dtype: "int64", device: model.device }) // (N,)
  return model.distribution(responseStates(model, responses, padId, false), tokens, { temperature: config.temperature, entropies })
}

/** Log-probabilities (N,) of the response tokens, and the summed entropy of their distributions. */
export const responseLogProbabilities = (
  model: Llama,
  responses: ReadonlyArray<TokenizedResponse>,
  options: ReadOptions
): { readonly logProbabilities: Tensor; readonly entropy: Tensor } => {
  const { entropies, logProbabilities } = responseDistribution(model, responses, options, true)
  return { logProbabilities, entropy: noGrad(() => entropies.sum()) }
}

/** Values (N,) of the states in which each response token is chosen, and with "past-end" of the state after the last token; the head is computed in float32. */
export const responseValues = (
  model: RewardModel,
  responses: ReadonlyArray<TokenizedResponse>,
  { padId, config }: ValueOptions
): Tensor => {
  const states = responseStates(model.backbone, responses, padId, config.terminal === "past-end") // (N, D)
  return linear(atLeastFloat32(states), atLeastFloat32(model.head)).squeeze(-1)
}

const atLeastFloat32 = (x: Tensor): Tensor => (x.dtype === "float64" ? x : x.to({ dtype: "float32" }))

/** Log-probabilities of each response's tokens under the current model, without gradients. */
export const logProbabilitiesOf = (model: Llama, responses: ReadonlyArray<TokenizedResponse>, options: ReadOptions) =>
  inBatches(responses, options, 0, (batch) => responseDistribution(model, batch, options, false).logProbabilities)

/** Values of each response's states under the current model, without gradients: with "past-end", one more than there are tokens. */
export const valuesOf = (model: RewardModel, responses: ReadonlyArray<TokenizedResponse>, options: ValueOptions) =>
  inBatches(responses, options, options.config.terminal === "past-end" ? 1 : 0, (batch) => responseValues(model, batch, options))

/** Computes numbers (N,) over batches of responses of similar length, without gradients, and returns them per response: one for each of its tokens, plus `extra`. */
const inBatches = <R extends TokenizedResponse>(
  responses: ReadonlyArray<R>,
  { config }: ReadOptions,
  extra: number,
  compute: (batch: ReadonlyArray<R>) => Tensor
): Array<ReadonlyArray<number>> => {
  const numbers = new Map<R, ReadonlyArray<number>>()
  for (const batch of chunks(byLength(responses), config.inferenceBatchSize)) {
    const all = scoped(() => noGrad(() => compute(batch).toNumbers()))
    let at = 0
    for (const response of batch) numbers.set(response, all.slice(at, (at += response.response.length + extra)))
  }
  return responses.map((response) => numbers.get(response)!)
}

/** Sums over each response's tokens: (N,) -> (B,). */
export const perResponse = (tokens: Tensor, responses: ReadonlyArray<TokenizedResponse>): Tensor =>
  stack(
    tokens
      .split(
        responses.map(({ response }) => response.length),
        0
      )
      .map((part) => part.sum()),
    0
  )

/** Shortest sequence first, so that a batch has little padding. */
export const byLength = <R extends TokenizedResponse>(responses: ReadonlyArray<R>): Array<R> =>
  responses.toSorted((a, b) => sequenceLength(a) - sequenceLength(b))

/** Number of tokens including the prompt. */
export const sequenceLength = ({ prompt, response }: TokenizedResponse): number => prompt.length + response.length
