/**
 * The models of PPO: copied, and read over the tokens of responses.
 *
 * Sequences are padded on the right: attention is causal, so padding needs no mask. Logits and values are computed at response tokens only and come
 * without padding, one response after another:
 *
 *     B sequences   T tokens of the longest   D width   V vocabulary   N response tokens of all sequences (with "past-end" one more for each)
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

/** A copy to train, on weights of its own, which an adapter is merged into; the original stays as it is. */
export const cloneLlama = (model: Llama): Llama => new Llama(model.config, cloneAll(model.parameters), model.adapter).merge()

/** A copy of what is trained of a policy: with an adapter, of that alone, on the same weights. */
export const clonePolicy = (policy: Llama): Llama =>
  policy.adapter === undefined ? cloneLlama(policy) : policy.withAdapter(cloneAdapter(policy.adapter))

const cloneAdapter = ({ config, parameters }: Lora): Lora => new Lora(config, cloneAll(parameters))

const cloneAll = (weights: Parameters): Parameters =>
  Object.fromEntries(
    Object.entries(weights).map(([name, weight]) => [name, keep(scoped(() => noGrad(() => weight.clone()))).requiresGrad()])
  )

/** Makes what is trained of one policy what it is of another. */
export const copyPolicy = (from: Llama, to: Llama): void => {
  const weights = trainedParameters(from)
  scoped(() => noGrad(() => Object.entries(trainedParameters(to)).forEach(([name, weight]) => void weight.copy_(weights[name]!))))
}

/**
 * A value model to train, from a model's weights without its output layer if it has one; its head is new. It has weights of its own, or with `lora` an
 * adapter on those of the model that it starts from: a new one, or a copy of that model's own.
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

// ---- reading responses ----

export interface TokenizedResponse {
  readonly prompt: ReadonlyArray<number>
  /** At least one token; the end-of-sequence token included, when it was reached. */
  readonly response: ReadonlyArray<number>
}

export interface ReadOptions {
  readonly padId: number
  readonly config: Pick<PpoConfig, "temperature" | "inferenceBatchSize">
}
/** Of values: where the score is paid says of how many states there is one. */
interface ValueOptions extends ReadOptions {
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
export const responseDistribution = (
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
export const responseValues = (
  model: RewardModel,
  responses: ReadonlyArray<TokenizedResponse>,
  { padId, config }: ValueOptions
): Tensor => {
  const states = responseStates(model.backbone, responses, padId, config.terminal === "past-end") // (N, D)
  return linear(atLeastFloat32(states), atLeastFloat32(model.head)).squeeze(-1)
}

const atLeastFloat32 = (x: Tensor): Tensor => (x.dtype === "float64" ? x : x.to({ dtype: "float32" }))

/** Log-probabilities of each response's tokens under a model as it is now, without gradients. */
export const logProbabilitiesOf = (model: Llama, responses: ReadonlyArray<TokenizedResponse>, options: ReadOptions) =>
  inBatches(responses, options, 0, (batch) => responseDistribution(model, batch, options, false).logProbabilities)

/** Values of each response's states under a model as it is now, without gradients: with a score past the end one more than tokens. */
export const valuesOf = (model: RewardModel, responses: ReadonlyArray<TokenizedResponse>, options: ValueOptions) =>
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

/** The shortest sequence first: neighbours share a batch with little padding. */
export const byLength = <R extends TokenizedResponse>(responses: ReadonlyArray<R>): Array<R> =>
  responses.toSorted((a, b) => sequenceLength(a) - sequenceLength(b))

/** Its tokens, those of the prompt among them. */
export const sequenceLength = ({ prompt, response }: TokenizedResponse): number => prompt.length + response.length
