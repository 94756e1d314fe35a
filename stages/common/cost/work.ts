/** What a stage computes, and the memory that it takes: parts that estimates of its cost are put together from. */
import {
  type CostedModel,
  decodingTraffic,
  forwardFlops,
  generationBytes,
  generationFlops,
  type Precision,
  trainingFlops,
  trainingState,
  weightBytes
} from "../../../models/cost.ts"
import { type Size, UnknownSizeError } from "./size.ts"

/** A part of a stage's computation. */
export interface Work {
  readonly what: string
  readonly tokens: number
  readonly flops: number
  /** Bytes read from memory, where decoding waits for them. */
  readonly traffic: number
  readonly precision: Precision
}

/** Memory at its peak, in bytes. */
export interface Memory {
  readonly weights: number
  readonly gradients: number
  readonly optimiser: number
  /** Activations, caches and the decoder's copies of weights: the largest that are there at once. */
  readonly activations: number
}

export interface StageCost {
  readonly work: ReadonlyArray<Work>
  readonly memory: Memory
}

export const languageModel = ({ model }: Size, what: string): CostedModel => {
  if (model === undefined) throw new UnknownSizeError(`how large ${what} is`)
  return { config: model, scalarHead: false }
}
export const scalarModel = (size: Size, what: string): CostedModel => ({ ...languageModel(size, what), scalarHead: true })

export const reading = (what: string, model: CostedModel, precision: Precision, rows: number, length: number): Work => {
  const tokens = rows * length
  return { what, tokens, flops: forwardFlops(model, tokens, length), traffic: 0, precision }
}

export const training = (what: string, model: CostedModel, precision: Precision, rows: number, length: number): Work => {
  const tokens = rows * length
  return { what, tokens, flops: trainingFlops(model, tokens, length), traffic: 0, precision }
}

/** Reading `rows` prompts, then decoding `batchSize` sequences at a time. */
export const generating = (
  model: CostedModel,
  precision: Precision,
  rows: number,
  batchSize: number,
  lengths: { readonly prompt: number; readonly response: number }
): ReadonlyArray<Work> => {
  const { prompt, response } = lengths
  const whole = Math.floor(rows / batchSize)
  const rest = rows - whole * batchSize
  const traffic = (sequences: number) => (sequences === 0 ? 0 : decodingTraffic(model, precision, sequences, lengths))
  const prefill = forwardFlops(model, rows * prompt, prompt)
  return [
    { what: "read prompts", tokens: rows * prompt, flops: prefill, traffic: 0, precision },
    {
      what: "decode",
      tokens: rows * response,
      flops: rows * generationFlops(model, prompt, response) - prefill,
      traffic: whole * traffic(batchSize) + traffic(rest),
      precision
    }
  ]
}

export const noMemory: Memory = { weights: 0, gradients: 0, optimiser: 0, activations: 0 }
export const frozen = (model: CostedModel, precision: Precision, activations: number): Memory => ({
  ...noMemory,
  weights: weightBytes(model, precision),
  activations
})
/** Of one model that is trained. */
export const trained = (model: CostedModel, precision: Precision, activations: number): Memory => ({
  ...trainingState(model, precision),
  activations
})
export const together = (parts: ReadonlyArray<Memory>, activations: number): Memory => ({
  weights: parts.reduce((sum, part) => sum + part.weights, 0),
  gradients: parts.reduce((sum, part) => sum + part.gradients, 0),
  optimiser: parts.reduce((sum, part) => sum + part.optimiser, 0),
  activations: Math.max(activations, ...parts.map((part) => part.activations))
})
/** One after the other: what is larger at its peak. */
export const larger = (a: Memory, b: Memory): Memory => (totalMemory(a) >= totalMemory(b) ? a : b)
export const totalMemory = ({ activations, gradients, optimiser, weights }: Memory): number => weights + gradients + optimiser + activations

export interface Sampling {
  readonly maxNewTokens: number
  readonly batchSize: number
  readonly precision: Precision
}
export const sampling = (
  policy: Size,
  config: Sampling,
  rows: number,
  lengths: { readonly prompt: number; readonly response: number }
): StageCost => {
  const model = languageModel(policy, "the policy")
  const { batchSize, maxNewTokens, precision } = config
  const room = { prompt: lengths.prompt, response: maxNewTokens }
  return {
    work: generating(model, precision, rows, batchSize, lengths),
    memory: frozen(model, precision, generationBytes(model, precision, Math.min(batchSize, rows), room))
  }
}
