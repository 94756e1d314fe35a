/** The memory that PPO takes: its models together, while they are updated and while they generate and read; and how an update is made to fit. */
import {
  bytesOf,
  type Cut,
  forwardBytes,
  generationMemory,
  larger,
  type Memory,
  noMemory,
  onOneRank,
  type Precision,
  type SpreadOver,
  together,
  trainedWeightBytes,
  trainingMemory,
  weightBytes
} from "../../models/memory.ts"
import type { Step } from "../training/fit.ts"
import type { PpoConfig } from "./config.ts"
import { heldWeights, type PpoShapes } from "./shapes.ts"

/** The models of a run, in the precision in which they compute. */
export interface PlacedShapes extends PpoShapes {
  readonly precision: Precision
  /** The ranks that they are trained on; one unless given. */
  readonly spread?: SpreadOver | undefined
}

const trainedOf = ({ policy, value }: PpoShapes) => [policy, ...(value === undefined ? [] : [value])]

/** Of what is trained, with its weights; on several ranks those that are there while it is. */
const trainedMemory = (shapes: PlacedShapes, cut: Cut): Memory =>
  together(trainedOf(shapes).map((model) => trainingMemory(model, shapes.precision, cut, shapes.spread)))
/** Its weights, whole. */
const wholeWeights = (shapes: PlacedShapes): number =>
  trainedOf(shapes).reduce((sum, model) => sum + weightBytes(model, shapes.precision), 0)
const weightsOf = (shapes: PlacedShapes): number => heldWeights(shapes) * bytesOf[shapes.precision]

/** While policy and value model are updated, one after the other: their gradients are there together. */
const updateMemory = (shapes: PlacedShapes, cut: Cut): Memory => {
  const trained = trainedMemory(shapes, cut)
  return { ...trained, weights: weightsOf(shapes) - wholeWeights(shapes) + trained.weights }
}

/** While responses are drawn and read, before there are gradients. */
const rolloutMemory = (
  shapes: PlacedShapes,
  { batchSize, inferenceBatchSize, maxNewTokens }: Pick<PpoConfig, "batchSize" | "inferenceBatchSize" | "maxNewTokens">,
  prompt: number
): Memory => {
  const { policy, precision, rewards, spread = onOneRank } = shapes
  const { masters, moments } = trainedMemory(shapes, { tokens: 0, several: false, recompute: 0 })
  // Gathered, beside the rank's own parts of them.
  const parts =
    spread.sharding === "weights"
      ? trainedOf(shapes).reduce((sum, model) => sum + trainedWeightBytes(model, precision), 0) / spread.ranks
      : 0
  const sequences = Math.min(inferenceBatchSize, batchSize)
  const drawing = generationMemory(policy, precision, sequences, { prompt, response: maxNewTokens })
  const read = Math.max(
    ...[...trainedOf(shapes), ...rewards].map((model) => forwardBytes(model, precision, sequences * (prompt + maxNewTokens)))
  )
  const working = read > drawing.activations + drawing.cache ? { activations: read, cache: 0 } : drawing
  return { ...noMemory, weights: weightsOf(shapes) + parts, masters, moments, ...working }
}

/** Updates on mini-batches of responses of `longest` tokens, prompts included. */
export const ppoStep = (shapes: PlacedShapes, { miniBatchSize }: Pick<PpoConfig, "miniBatchSize">, longest: number): Step => ({
  rows: Math.ceil(miniBatchSize / (shapes.spread?.ranks ?? 1)),
  longest,
  layers: Math.max(...trainedOf(shapes).map(({ config }) => config.layers)),
  memory: (cut) => updateMemory(shapes, cut)
})

/** The whole run at its peak, with prompts of so many tokens and updates that take so much. */
export const ppoMemory = (
  shapes: PlacedShapes,
  config: Pick<PpoConfig, "batchSize" | "inferenceBatchSize" | "maxNewTokens">,
  prompt: number,
  update: Memory
): Memory => larger(update, rolloutMemory(shapes, config, prompt))

/** What would fit where this does not. */
export const ppoAdvice =
  "What would help: LoRA (loraRank 16), reward models trained by LoRA on one base (input base), precision bfloat16, a smaller inferenceBatchSize, fewer maxNewTokens, or smaller models."
