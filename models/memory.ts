/**
 * The memory that a Llama takes on a device, in bytes: trained, read, generating. Stages choose by it how a batch is cut and what is recomputed (stages/training/fit.ts),
 * and plans show it; so it follows from shapes alone.
 *
 *     d width   L blocks   H query heads   G key and value heads   E head dim   F ffn   V vocabulary   b bytes of a number in the model's precision
 *
 * A block keeps of each token for its backward pass: its input and the sum after attention, both norms' outputs (4 d), queries, keys and values as they are projected and
 * attention's output ((2 H + 2 G) E), gate and up and their product (3 F), and a float32 log-sum-exp for each head. One that is recomputed keeps its input.
 */
import type { Sharding } from "../engine/ranks.ts"
import { type LlamaConfig, parameterCount } from "./config.ts"
import { type LoraConfig, loraShapes } from "./lora.ts"

/** A model to reckon with: a language model, or one with a scalar head in place of the output layer (reward and value models). */
export interface CostedModel {
  readonly config: LlamaConfig
  readonly scalarHead: boolean
  /** The adapter that is trained in its place; none: all of its weights are. */
  readonly adapter?: Pick<LoraConfig, "rank" | "targets"> | undefined
}

export type Precision = "float32" | "bfloat16"
export const bytesOf: Readonly<Record<Precision, number>> = { float32: 4, bfloat16: 2 }

const counted = new WeakMap<LlamaConfig, number>()
/** As parameterCount, counted once: what is chosen is looked for among hundreds of ways to cut a step. */
const countOf = (config: LlamaConfig): number => {
  const count = counted.get(config) ?? parameterCount(config)
  counted.set(config, count)
  return count
}

/** N. A scalar head has d weights where an untied output layer has V d. */
export const costedParameters = ({ config, scalarHead }: CostedModel): number =>
  countOf(config) - (scalarHead && !config.tiedEmbeddings ? config.vocabSize * config.dim : 0) + (scalarHead ? config.dim : 0)

/** Weights of a scalar head, which is trained beside an adapter. */
export const headParameters = ({ config, scalarHead }: CostedModel): number => (scalarHead ? config.dim : 0)

/** Weights of its adapter: 0 where it has none. */
export const adapterParameters = ({ adapter, config }: CostedModel): number =>
  adapter === undefined
    ? 0
    : config.layers *
      Object.values(loraShapes({ ...config, layers: 1 }, adapter)).reduce((sum, [rows, columns]) => sum + rows! * columns!, 0)

/** Weights that are trained: all, or those of an adapter and of a scalar head. */
export const trainedParameterCount = (model: CostedModel): number =>
  model.adapter === undefined ? costedParameters(model) : adapterParameters(model) + headParameters(model)

/** Memory at its peak, by part. What is there at the peak beside weights, masters, moments, gradients and cache counts as activations. */
export interface Memory {
  readonly weights: number
  /** The optimiser's float32 copies of bfloat16 weights. */
  readonly masters: number
  /** AdamW's two moments, in float32. */
  readonly moments: number
  readonly gradients: number
  /** What the backward pass keeps, and the working memory of the widest place. */
  readonly activations: number
  /** Keys and values while generating. */
  readonly cache: number
}
export const memoryParts = ["weights", "masters", "moments", "gradients", "activations", "cache"] as const satisfies ReadonlyArray<
  keyof Memory
>
export const noMemory: Memory = { weights: 0, masters: 0, moments: 0, gradients: 0, activations: 0, cache: 0 }
export const totalMemory = (memory: Memory): number => memoryParts.reduce((sum, part) => sum + memory[part], 0)

/** Several models that are there together. Their activations and caches are not: the largest counts. */
export const together = (parts: ReadonlyArray<Memory>): Memory => {
  const sum = (part: keyof Memory) => parts.reduce((total, memory) => total + memory[part], 0)
  const widest = parts.reduce((a, b) => (a.activations + a.cache >= b.activations + b.cache ? a : b), noMemory)
  return {
    ...{ weights: sum("weights"), masters: sum("masters"), moments: sum("moments"), gradients: sum("gradients") },
    ...{ activations: widest.activations, cache: widest.cache }
  }
}
/** One after the other: what is larger at its peak. */
export const larger = (a: Memory, b: Memory): Memory => (totalMemory(a) >= totalMemory(b) ? a : b)

export const weightBytes = (model: CostedModel, precision: Precision): number =>
  (costedParameters(model) + adapterParameters(model)) * bytesOf[precision]

/** What of that is trained: all, or the adapter and a scalar head. */
export const trainedWeightBytes = (model: CostedModel, precision: Precision): number => trainedParameterCount(model) * bytesOf[precision]

/** Of one token, in numbers of the model's precision; `float32` beside them. */
const keptOf = ({ adapter, config }: CostedModel): { readonly numbers: number; readonly float32: number } => {
  const { dim, ffn, headDim, heads, kvHeads } = config
  const adapters = adapter === undefined ? 0 : adapter.rank * adapter.targets.length
  return { numbers: 4 * dim + (2 * heads + 2 * kvHeads) * headDim + 3 * ffn + adapters, float32: heads }
}

/** What one block keeps of `tokens` tokens for its backward pass, nothing recomputed. */
export const blockBytes = (model: CostedModel, precision: Precision, tokens: number): number => {
  const { float32, numbers } = keptOf(model)
  return tokens * (numbers * bytesOf[precision] + float32 * 4)
}

/** Gradients of a block's widest place while it is gone back through: those of its output and of gate, up and their product. */
const blockGradientBytes = ({ config }: CostedModel, precision: Precision, tokens: number): number =>
  tokens * (config.dim + 3 * config.ffn) * bytesOf[precision]

/** Logits that are computed at once, and bytes of all logits up to which they are kept for the backward pass (engine/native/vocabulary.cc). */
const [chunkElements, keptLogitBytes] = [2 ** 27, 2 ** 30]

/** At a loss on `tokens` tokens, by the GPU's kernels: logits that are kept, or a chunk of them, whose gradient takes their place; and the output layer's gradient, which chunks add up in float32. */
const lossBytes = ({ adapter, config, scalarHead }: CostedModel, precision: Precision, tokens: number): number => {
  if (scalarHead) return 0
  const { dim, vocabSize } = config
  const b = bytesOf[precision]
  const all = tokens * vocabSize
  const isKept = all * b <= keptLogitBytes
  const logits = b * (isKept ? all : Math.min(all, chunkElements))
  const gradient = adapter === undefined ? vocabSize * dim * (isKept ? b : b + 4) : 0
  return logits + gradient
}

/** How a step is computed. */
export interface Cut {
  /** Tokens of a micro-batch, with padding. */
  readonly tokens: number
  /** Whether a step has several micro-batches: their gradients are added up in float32. */
  readonly several: boolean
  /** How many blocks, the first ones, are recomputed in the backward pass. */
  readonly recompute: number
}

/** The ranks that a training is spread over, and what each has a part of (engine/spread.ts). */
export interface SpreadOver {
  readonly ranks: number
  readonly sharding: Sharding
}
export const onOneRank: SpreadOver = { ranks: 1, sharding: "none" }

const emptied = new WeakMap<LlamaConfig, LlamaConfig>()
/** The same object each time, whose weights are counted once. */
const withoutBlocks = (config: LlamaConfig): LlamaConfig => {
  const empty = emptied.get(config) ?? { ...config, layers: 0 }
  emptied.set(config, empty)
  return empty
}

/** The same on one of several ranks: its parts, the weights of two blocks and of what is in no block gathered, and the gradients of a block in their dtype and in a float32 buffer. */
const onRank = (memory: Memory, model: CostedModel, precision: Precision, { ranks, sharding }: SpreadOver): Memory => {
  const trained = trainedParameterCount(model)
  const b = bytesOf[precision]
  const none = trainedParameterCount({ ...model, config: withoutBlocks(model.config) })
  const block = (trained - none) / model.config.layers
  const passing = Math.max(block, none) * (b + 4)
  if (sharding === "none") return { ...memory, activations: memory.activations + passing }
  const gathered = Math.min(trained, none + 2 * block) * b
  return {
    ...memory,
    weights: memory.weights - (sharding === "weights" ? trained * b - gathered - (trained * b) / ranks : 0),
    masters: memory.masters / ranks,
    moments: memory.moments / ranks,
    gradients: memory.gradients / ranks,
    activations: memory.activations + passing
  }
}

/**
 * A model that is trained. The peak is at the loss, with all that was kept and the gradients of the micro-batches before; while the recomputed blocks are gone back through; or
 * at the end of the backward pass, with all gradients and the float32 ones of the embeddings.
 */
export const trainingMemory = (model: CostedModel, precision: Precision, cut: Cut, spread: SpreadOver = onOneRank): Memory =>
  spread.ranks === 1
    ? aloneMemory(model, precision, cut)
    : onRank(aloneMemory(model, precision, { ...cut, several: true }), model, precision, spread)

const aloneMemory = (model: CostedModel, precision: Precision, { recompute, several, tokens }: Cut): Memory => {
  const { config } = model
  const trained = trainedParameterCount(model)
  const b = bytesOf[precision]
  const gradients = trained * (several ? 4 : b)
  const isWhole = model.adapter === undefined
  const recomputed = Math.min(recompute, config.layers)
  const block = blockBytes(model, precision, tokens)
  // The embeddings, the last block's output and its norm.
  const ends = 3 * tokens * config.dim * b
  const inputs = recomputed * tokens * config.dim * b
  const kept = inputs + (config.layers - recomputed) * block + ends
  const before = several ? gradients : 0
  const atLoss = before + kept + Math.max(lossBytes(model, precision, tokens), blockGradientBytes(model, precision, tokens))
  // The gradients of the blocks behind are there by then.
  const behind = several ? gradients : (gradients * (config.layers - recomputed)) / config.layers
  const atRecomputed = recomputed === 0 ? 0 : behind + inputs + block + blockGradientBytes(model, precision, tokens)
  // Of a 16-bit table of embeddings the gradient in float32, and what it is converted to.
  const atEnd = gradients + (isWhole && precision === "bfloat16" ? 6 * config.vocabSize * config.dim : 0)
  const peak = Math.max(atLoss, atRecomputed, atEnd)
  return {
    ...noMemory,
    weights: weightBytes(model, precision),
    masters: precision === "bfloat16" ? 4 * trained : 0,
    moments: 8 * trained,
    gradients,
    activations: peak - gradients
  }
}

/**
 * Working memory of a forward pass without gradients: all that one block computes, which is freed at its end. Its input, both norms, what attention and the feed-forward
 * block add and the two sums (7 d), queries, keys and values, attention's output, gate and up and their product.
 */
export const forwardBytes = (model: CostedModel, precision: Precision, tokens: number): number => {
  const { dim, ffn, headDim, heads, kvHeads } = model.config
  return tokens * (7 * dim + (2 * heads + 2 * kvHeads) * headDim + 3 * ffn) * bytesOf[precision]
}

/** Tokens of prompts that a decoder on a GPU reads together (models/gpu-decoder.ts): more would take memory and save no time. */
export const promptTokensAtOnce = 16_384

/** Keys and values of `sequences` sequences of `length` tokens, in every layer. */
export const cacheBytes = ({ config }: CostedModel, precision: Precision, sequences: number, length: number): number =>
  2 * config.layers * config.kvHeads * config.headDim * sequences * length * bytesOf[precision]

/** Weights that the decoder copies: those of linear layers, with an adapter's share added (models/decoder.ts). */
const mergedWeights = ({ adapter, config }: CostedModel): number => {
  const { dim, ffn, headDim, heads, kvHeads, layers } = config
  return adapter === undefined ? 0 : layers * dim * ((2 * heads + 2 * kvHeads) * headDim + 3 * ffn)
}

/** Of one sequence and token of the vocabulary while the next token is drawn (models/sampler.ts): logits, in float32 and their softmax, and probabilities and their sums in float64. */
const drawnBytes = 2 + 4 + 4 + 8 + 8

/** Of generation beside the weights: the cache, copies of weights that an adapter is merged into, and the widest of reading the prompts, a step and a draw. */
export const generationMemory = (
  model: CostedModel,
  precision: Precision,
  sequences: number,
  lengths: { readonly prompt: number; readonly response: number }
): Pick<Memory, "activations" | "cache"> => {
  const { config } = model
  const cache = cacheBytes(model, precision, sequences, lengths.prompt + lengths.response)
  // The keys and values of one layer side by side, as products read them; and, once sequences have ended, as they are picked from the cache.
  const step = cache / config.layers
  const draw = sequences * config.vocabSize * drawnBytes
  const working = Math.max(
    forwardBytes(model, precision, Math.max(lengths.prompt, Math.min(sequences * lengths.prompt, promptTokensAtOnce))),
    step,
    draw
  )
  return { cache, activations: mergedWeights(model) * bytesOf[precision] + working }
}

/** Kept free for what no tensor holds: the CUDA context, the libraries' kernels. */
const contextBytes = 2 ** 30
/** Share of a device's memory that is lost between tensors: the allocator's blocks are not all filled. */
const lostShare = 0.04
/** What tensors may take of a device with so much memory. */
export const usableMemory = (deviceMemory: number): number => (1 - lostShare) * deviceMemory - contextBytes
