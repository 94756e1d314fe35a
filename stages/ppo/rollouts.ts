/**
 * Responses as a policy gave them, and what models say of their tokens. Sequences are padded on the right: attention is causal, so padding needs
 * no mask; logits and values are computed at response tokens only and come without padding, one response after another.
 */
import { crossEntropy, type Device, linear, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { entropy } from "./losses.ts"
import { chunks } from "../common/sequences.ts"

export interface Rollout {
  readonly prompt: ReadonlyArray<number>
  /** At least one token; the end-of-sequence token included, when it was reached. */
  readonly response: ReadonlyArray<number>
  /** Of the response's tokens, under the policy and at the temperature that drew them. */
  readonly logProbabilities: ReadonlyArray<number>
  /** What the response is worth as a whole. */
  readonly score: number
}

export interface BatchOptions {
  readonly padId: number
  readonly device: Device
}

/**
 * The last layer's states from which each response token is predicted: those of the token before it. `pastEnd` adds the state after each
 * response's last token. Returns (N, D), N all tokens of all responses (and one more for each).
 */
const responseStates = (model: Llama, rollouts: ReadonlyArray<Rollout>, { padId, device }: BatchOptions, pastEnd: boolean): Tensor => {
  const length = Math.max(...rollouts.map(({ prompt, response }) => prompt.length + response.length))
  const ids = new Int32Array(rollouts.length * length).fill(padId)
  const positions: Array<number> = []
  rollouts.forEach(({ prompt, response }, i) => {
    ids.set(prompt, i * length)
    ids.set(response, i * length + prompt.length)
    const first = i * length + prompt.length - 1
    for (let t = 0; t < response.length + (pastEnd ? 1 : 0); t++) positions.push(first + t)
  })
  const hidden = model.hidden(tensor(ids, { shape: [rollouts.length, length], dtype: "int64", device })) // (B, T, D)
  return hidden.reshape(-1, hidden.size(-1)).indexSelect(0, tensor(Int32Array.from(positions), { dtype: "int64", device }))
}

const atLeastFloat32 = (x: Tensor): Tensor => (x.dtype === "float64" ? x : x.to({ dtype: "float32" }))

/** Log-probabilities (N,) of the response tokens, of logits / temperature: the distribution they were drawn from. With them, its summed entropy. */
export const responseLogProbabilities = (
  model: Llama,
  rollouts: ReadonlyArray<Rollout>,
  options: BatchOptions & { readonly temperature: number }
): { readonly logProbabilities: Tensor; readonly entropy: Tensor } => {
  const logits = atLeastFloat32(model.logits(responseStates(model, rollouts, options, false))) // (N, V)
  const all = (options.temperature === 1 ? logits : logits.div(options.temperature)).logSoftmax(-1)
  const targets = tensor(Int32Array.from(rollouts.flatMap(({ response }) => response)), { dtype: "int64", device: options.device })
  return { logProbabilities: all.gather(1, targets.unsqueeze(1)).squeeze(1), entropy: noGrad(() => entropy(all.detach())) }
}

/** The same without gradients and entropy. */
const frozenLogProbabilities = (
  model: Llama,
  rollouts: ReadonlyArray<Rollout>,
  options: BatchOptions & { readonly temperature: number }
): Tensor => {
  const logits = atLeastFloat32(model.logits(responseStates(model, rollouts, options, false)))
  const targets = tensor(Int32Array.from(rollouts.flatMap(({ response }) => response)), { dtype: "int64", device: options.device })
  return crossEntropy(options.temperature === 1 ? logits : logits.div(options.temperature), targets, { reduction: "none" }).neg()
}

/** Values of the states in which each response token is chosen, and with `pastEnd` of the state after the last: (N,), the head in float32. */
export const responseValues = (
  model: RewardModel,
  rollouts: ReadonlyArray<Rollout>,
  options: BatchOptions & { readonly pastEnd: boolean }
): Tensor =>
  linear(atLeastFloat32(responseStates(model.backbone, rollouts, options, options.pastEnd)), atLeastFloat32(model.head)).squeeze(-1)

/** Indices by the length of their sequence, the shortest first: neighbours share a batch with little padding. */
export const byLength = (rollouts: ReadonlyArray<Rollout>, indices: ReadonlyArray<number> = rollouts.map((_, i) => i)): Array<number> =>
  indices.toSorted((a, b) => sequenceLength(rollouts[a]!) - sequenceLength(rollouts[b]!) || a - b)

const sequenceLength = ({ prompt, response }: Rollout): number => prompt.length + response.length

/** Runs `compute` over the rollouts in batches of like length, without gradients, and gives each rollout its own entries back. */
const forEachRollout = (
  rollouts: ReadonlyArray<Rollout>,
  batchSize: number,
  entries: (rollout: Rollout) => number,
  compute: (batch: ReadonlyArray<Rollout>) => Tensor
): Array<Float64Array> => {
  const out = new Array<Float64Array>(rollouts.length)
  for (const batch of chunks(byLength(rollouts), batchSize)) {
    const numbers = Float64Array.from(
      scoped(() => noGrad(() => compute(batch.map((i) => rollouts[i]!)).toTypedArray())) as Float32Array | Float64Array
    )
    let at = 0
    for (const i of batch) out[i] = numbers.slice(at, (at += entries(rollouts[i]!)))
  }
  return out
}

/** Log-probabilities of each rollout's response tokens under a model that is not trained. */
export const logProbabilitiesOf = (
  model: Llama,
  rollouts: ReadonlyArray<Rollout>,
  options: BatchOptions & { readonly temperature: number; readonly batchSize: number }
): Array<Float64Array> =>
  forEachRollout(
    rollouts,
    options.batchSize,
    ({ response }) => response.length,
    (batch) => frozenLogProbabilities(model, batch, options)
  )

/** Values of each rollout's states as they are now. */
export const valuesOf = (
  model: RewardModel,
  rollouts: ReadonlyArray<Rollout>,
  options: BatchOptions & { readonly pastEnd: boolean; readonly batchSize: number }
): Array<Float64Array> =>
  forEachRollout(
    rollouts,
    options.batchSize,
    ({ response }) => response.length + (options.pastEnd ? 1 : 0),
    (batch) => responseValues(model, batch, options)
  )
