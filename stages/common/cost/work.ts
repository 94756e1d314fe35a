/** What a stage computes, and the memory that it takes: parts that estimates of its cost are put together from. */
import { decodingTraffic, forwardFlops, generationFlops, trainingFlops } from "../../../models/cost.ts"
import { type CostedModel, generationMemory, type Memory, noMemory, type Precision, weightBytes } from "../../../models/memory.ts"
import { type Size, UnknownSizeError } from "./size.ts"

/** A part of a stage's computation. */
export interface Work {
  readonly what: string
  readonly tokens: number
  readonly flops: number
  /** FLOPs that are computed a second time, so that less need be kept in memory. */
  readonly recomputed: number
  /** Bytes read from memory, where decoding waits for them. */
  readonly traffic: number
  readonly precision: Precision
}

/** How a stage that trains cuts a batch, and how many of its blocks compute their activations anew in the backward pass. */
export interface PlannedStep {
  readonly microBatch: { readonly rows: number } | { readonly tokens: number }
  readonly recompute: number
  readonly blocks: number
}

export interface StageCost {
  readonly work: ReadonlyArray<Work>
  readonly memory: Memory
  readonly step?: PlannedStep
  /** What the stage keeps on the disk to resume from, in bytes; none: it keeps nothing of note. */
  readonly resume?: number
  /** Told where the memory is more than the GPU has: what would fit. A sentence. */
  readonly advice?: string
}

export const languageModel = ({ model }: Size, what: string): CostedModel => {
  if (model === undefined) throw new UnknownSizeError(`how large ${what} is`)
  return { config: model, scalarHead: false }
}
export const scalarModel = (size: Size, what: string): CostedModel => ({ ...languageModel(size, what), scalarHead: true })

export const reading = (what: string, model: CostedModel, precision: Precision, rows: number, length: number): Work => {
  const tokens = rows * length
  return { what, tokens, flops: forwardFlops(model, tokens, length), recomputed: 0, traffic: 0, precision }
}

/** `recompute` blocks are read a second time in the backward pass. */
export const training = (what: string, model: CostedModel, precision: Precision, rows: number, length: number, recompute = 0): Work => {
  const tokens = rows * length
  const recomputed = (forwardFlops(model, tokens, length) * recompute) / model.config.layers
  return { what, tokens, flops: trainingFlops(model, tokens, length), recomputed, traffic: 0, precision }
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
    { what: "read prompts", tokens: rows * prompt, flops: prefill, recomputed: 0, traffic: 0, precision },
    {
      what: "decode",
      tokens: rows * response,
      flops: rows * generationFlops(model, prompt, response) - prefill,
      recomputed: 0,
      traffic: whole * traffic(batchSize) + traffic(rest),
      precision
    }
  ]
}

/** A model that is read: what reading takes stands in `activations`. */
export const frozen = (model: CostedModel, precision: Precision, activations: number): Memory => ({
  ...noMemory,
  weights: weightBytes(model, precision),
  activations
})

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
    memory: { ...frozen(model, precision, 0), ...generationMemory(model, precision, Math.min(batchSize, rows), room) }
  }
}
