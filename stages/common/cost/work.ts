/** The computation and memory of a stage: building blocks of cost estimates. */
import { decodingTraffic, forwardFlops, generationFlops, trainingFlops } from "../../../models/cost.ts"
import { type CostedModel, generationMemory, type Memory, noMemory, type Precision, weightBytes } from "../../../models/memory.ts"
import { type Size, UnknownSizeError } from "./size.ts"

/** A part of a stage's computation. */
export interface Work {
  readonly what: string
  readonly tokens: number
  readonly flops: number
  /** FLOPs of recomputation, which saves memory. */
  readonly recomputed: number
  /** Bytes read from memory, for decoding, which is limited by bandwidth. */
  readonly traffic: number
  readonly precision: Precision
}

/** How a training stage splits a batch, and how many blocks recompute their activations in the backward pass. */
export interface PlannedStep {
  readonly microBatch: { readonly rows: number } | { readonly tokens: number }
  readonly recompute: number
  readonly blocks: number
}

export interface StageCost {
  readonly work: ReadonlyArray<Work>
  readonly memory: Memory
  readonly step?: PlannedStep
  /** Bytes that the stage stores on disk to resume from; undefined if negligible. */
  readonly resume?: number
  /** Set if the stage needs more memory than the GPU has: a sentence on what would fit. */
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

/** `recompute` blocks compute their forward pass a second time in the backward pass. */
export const training = (what: string, model: CostedModel, precision: Precision, rows: number, length: number, recompute: number): Work => {
  const tokens = rows * length
  const recomputed = (forwardFlops(model, tokens, length) * recompute) / model.config.layers
  return { what, tokens, flops: trainingFlops(model, tokens, length), recomputed, traffic: 0, precision }
}

/** Reads `rows` prompts, then decodes `batchSize` sequences at a time. */
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

/** The memory of a frozen model; `activations` is the working memory of its forward pass. */
export const frozen = (model: CostedModel, precision: Precision, activations: number): Memory => ({
  ...noMemory,
  weights: weightBytes(model, precision),
  activations
})

export interface Sampling {
  readonly maxNewTokens: number
  readonly batchSize: number
  readonly precision: Precision
  readonly topK: number
  readonly topP: number
}
export const sampling = (
  policy: Size,
  config: Sampling,
  rows: number,
  lengths: { readonly prompt: number; readonly response: number }
): StageCost => {
  const model = languageModel(policy, "the policy")
  const { batchSize, maxNewTokens, precision, topK, topP } = config
  const room = { prompt: lengths.prompt, response: maxNewTokens }
  const drawing = generationMemory(model, precision, Math.min(batchSize, rows), room, topK > 0 || topP < 1)
  return {
    work: generating(model, precision, rows, batchSize, lengths),
    memory: { ...frozen(model, precision, 0), ...drawing }
  }
}
