/** The memory of PPO: all its models during updates, and during generation and scoring; and how updates are split to fit the device. */
import {
  bytesOf,
  type Cut,
  forwardBytes,
  generationMemory,
  larger,
  type Memory,
  noMemory,
  onOneRank,
  partBytes,
  type Precision,
  type SpreadOver,
  together,
  trainingMemory,
  weightBytes
} from "../../models/memory.ts"
import type { Step } from "../training/fit.ts"
import type { PpoConfig } from "./config.ts"
import { heldWeights, type PpoShapes } from "./shapes.ts"

/** The models of a run, with their precision. */
export interface PlacedShapes extends PpoShapes {
  readonly precision: Precision
  /** The ranks that they are trained on; one by default. */
  readonly spread?: SpreadOver | undefined
}

const trainedOf = ({ policy, value }: PpoShapes) => [policy, ...(value === undefined ? [] : [value])]

/** Memory of the trained models including their weights; on several ranks, the weights held during training. */
const trainedMemory = (shapes: PlacedShapes, cut: Cut): Memory =>
  together(trainedOf(shapes).map((model) => trainingMemory(model, shapes.precision, cut, shapes.spread)))
/** The complete weights of the trained models. */
const wholeWeights = (shapes: PlacedShapes): number =>
  trainedOf(shapes).reduce((sum, model) => sum + weightBytes(model, shapes.precision), 0)
const weightsOf = (shapes: PlacedShapes): number => heldWeights(shapes) * bytesOf[shapes.precision]

/** Memory while policy and value model are updated one after the other; the gradients of both exist at the same time. */
const updateMemory = (shapes: PlacedShapes, cut: Cut): Memory => {
  const trained = trainedMemory(shapes, cut)
  return { ...trained, weights: weightsOf(shapes) - wholeWeights(shapes) + trained.weights }
}

/** Memory while responses are sampled and scored, before there are gradients. */
const rolloutMemory = (
  shapes: PlacedShapes,
  { batchSize, inferenceBatchSize, maxNewTokens }: Pick<PpoConfig, "batchSize" | "inferenceBatchSize" | "maxNewTokens">,
  prompt: number
): Memory => {
  const { policy, precision, rewards, spread = onOneRank } = shapes
  const { masters, moments } = trainedMemory(shapes, { tokens: 0, several: false, recompute: 0 })
  // The gathered weights, in addition to the rank's own shards.
  const parts =
    spread.sharding === "weights" ? trainedOf(shapes).reduce((sum, model) => sum + partBytes(model, precision, spread.ranks), 0) : 0
  const sequences = Math.min(inferenceBatchSize, batchSize)
  const drawing = generationMemory(policy, precision, sequences, { prompt, response: maxNewTokens })
  const read = Math.max(
    ...[...trainedOf(shapes), ...rewards].map((model) => forwardBytes(model, precision, sequences * (prompt + maxNewTokens)))
  )
  const working = read > drawing.activations + drawing.cache ? { activations: read, cache: 0 } : drawing
  return { ...noMemory, weights: weightsOf(shapes) + parts, masters, moments, ...working }
}

/** Updates on mini-batches of responses of at most `longest` tokens, including prompts. */
export const ppoStep = (shapes: PlacedShapes, { miniBatchSize }: Pick<PpoConfig, "miniBatchSize">, longest: number): Step => ({
  rows: Math.ceil(miniBatchSize / (shapes.spread?.ranks ?? 1)),
  longest,
  layers: Math.max(...trainedOf(shapes).map(({ config }) => config.layers)),
  memory: (cut) => updateMemory(shapes, cut)
})

/** Peak memory of the whole run, for prompts of this length and updates with this memory. */
export const ppoMemory = (
  shapes: PlacedShapes,
  config: Pick<PpoConfig, "batchSize" | "inferenceBatchSize" | "maxNewTokens">,
  prompt: number,
  update: Memory
): Memory => larger(update, rolloutMemory(shapes, config, prompt))

/** Settings that reduce the memory. */
export const ppoAdvice =
  "Use LoRA (loraRank 16), reward models trained with LoRA on one base (input base), precision bfloat16, a smaller inferenceBatchSize, fewer maxNewTokens, or smaller models."
