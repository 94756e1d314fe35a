/** The memory that PPO takes: its models together, while they are updated and while they generate and read; and how an update is made to fit. */
import {
  bytesOf,
  type Cut,
  forwardBytes,
  generationMemory,
  larger,
  type Memory,
  noMemory,
  type Precision,
  together,
  trainingMemory
} from "../../models/memory.ts"
import type { Step } from "../training/fit.ts"
import type { PpoConfig } from "./config.ts"
import { heldWeights, type PpoShapes } from "./shapes.ts"

/** The models of a run, in the precision in which they compute. */
export interface PlacedShapes extends PpoShapes {
  readonly precision: Precision
}

const trainedOf = ({ policy, value }: PpoShapes) => [policy, ...(value === undefined ? [] : [value])]

/** Of what is trained, beside weights. */
const statesOf = (shapes: PlacedShapes, cut: Cut): Memory => ({
  ...together(trainedOf(shapes).map((model) => trainingMemory(model, shapes.precision, cut))),
  weights: 0
})
const weightsOf = (shapes: PlacedShapes): number => heldWeights(shapes) * bytesOf[shapes.precision]

/** While policy and value model are updated, one after the other: their gradients are there together. */
const updateMemory = (shapes: PlacedShapes, cut: Cut): Memory => ({ ...statesOf(shapes, cut), weights: weightsOf(shapes) })

/** While responses are drawn and read, before there are gradients. */
const rolloutMemory = (
  shapes: PlacedShapes,
  { batchSize, inferenceBatchSize, maxNewTokens }: Pick<PpoConfig, "batchSize" | "inferenceBatchSize" | "maxNewTokens">,
  prompt: number
): Memory => {
  const { policy, precision, rewards } = shapes
  const { masters, moments } = statesOf(shapes, { tokens: 0, several: false, recompute: 0 })
  const sequences = Math.min(inferenceBatchSize, batchSize)
  const drawing = generationMemory(policy, precision, sequences, { prompt, response: maxNewTokens })
  const read = Math.max(
    ...[...trainedOf(shapes), ...rewards].map((model) => forwardBytes(model, precision, sequences * (prompt + maxNewTokens)))
  )
  const working = read > drawing.activations + drawing.cache ? { activations: read, cache: 0 } : drawing
  return { ...noMemory, weights: weightsOf(shapes), masters, moments, ...working }
}

/** Updates on mini-batches of responses of `longest` tokens, prompts included. */
export const ppoStep = (shapes: PlacedShapes, { miniBatchSize }: Pick<PpoConfig, "miniBatchSize">, longest: number): Step => ({
  rows: miniBatchSize,
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
