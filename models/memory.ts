/**
 * The device memory of a Llama in bytes: for training, for forward passes, for generation. Stages use it to split a batch and to choose what to recompute (stages/training/fit.ts),
 * and plans show it; it therefore depends only on shapes.
 *
 *     d width   L blocks   H query heads   G key and value heads   E head dim   F ffn   V vocabulary   b bytes per number in the model's precision
 *
 * For its backward pass, a block keeps per token: its input and the sum after attention, both norms' outputs (4 d), the projected queries, keys and values and
 * attention's output ((2 H + 2 G) E), gate, up and their product (3 F), and a float32 log-sum-exp per head. A recomputed block keeps only its input.
 */
import type { Sharding } from "../engine/ranks.ts"
import { type LlamaConfig, parameterCount } from "./config.ts"
import { type LoraConfig, loraShapes } from "./lora.ts"

/** A model to estimate: a language model, or a model with a scalar head instead of the output layer (reward and value models). */
export interface CostedModel {
  readonly config: LlamaConfig
  readonly scalarHead: boolean
  /** The adapter that is trained instead of the weights; absent: all weights are trained. */
  readonly adapter?: Pick<LoraConfig, "rank" | "targets"> | undefined
}

export type Precision = "float32" | "bfloat16"
export const bytesOf: Readonly<Record<Precision, number>> = { float32: 4, bfloat16: 2 }

const counted = new WeakMap<LlamaConfig, number>()
/** parameterCount, cached: the search over ways to split a step calls it hundreds of times. */
const countOf = (config: LlamaConfig): number => {
  const count = counted.get(config) ?? parameterCount(config)
  counted.set(config, count)
  return count
}

/** N. A scalar head has d weights where an untied output layer has V d. */
export const costedParameters = ({ config, scalarHead }: CostedModel): number =>
  countOf(config) - (scalarHead && !config.tiedEmbeddings ? config.vocabSize * config.dim : 0) + (scalarHead ? config.dim : 0)

/** The weights of a scalar head, which is trained along with an adapter. */
export const headParameters = ({ config, scalarHead }: CostedModel): number => (scalarHead ? config.dim : 0)

/** The weights of the adapter; 0 without one. */
export const adapterParameters = ({ adapter, config }: CostedModel): number =>
  adapter === undefined
    ? 0
    : config.layers *
      Object.values(loraShapes({ ...config, layers: 1 }, adapter)).reduce((sum, [rows, columns]) => sum + rows! * columns!, 0)

/** The number of trained weights: all, or those of an adapter and of a scalar head. */
export const trainedParameterCount = (model: CostedModel): number =>
  model.adapter === undefined ? costedParameters(model) : adapterParameters(model) + headParameters(model)

/** Peak memory in bytes, by part. Anything at the peak other than weights, masters, moments, gradients and cache counts as activations. */
export interface Memory {
  readonly weights: number
  /** The optimiser's float32 copies of bfloat16 weights. */
  readonly masters: number
  /** AdamW's two moments, in float32. */
  readonly moments: number
  readonly gradients: number
  /** Activations kept for the backward pass, and the largest working memory. */
  readonly activations: number
  /** Keys and values during generation. */
  readonly cache: number
}
export const memoryParts = ["weights", "masters", "moments", "gradients", "activations", "cache"] as const satisfies ReadonlyArray<
  keyof Memory
>
export const noMemory: Memory = { weights: 0, masters: 0, moments: 0, gradients: 0, activations: 0, cache: 0 }
export const totalMemory = (memory: Memory): number => memoryParts.reduce((sum, part) => sum + memory[part], 0)

/** Several models held at the same time. Their activations and caches are not simultaneous, so the largest counts. */
export const together = (parts: ReadonlyArray<Memory>): Memory => {
  const sum = (part: keyof Memory) => parts.reduce((total, memory) => total + memory[part], 0)
  const widest = parts.reduce((a, b) => (a.activations + a.cache >= b.activations + b.cache ? a : b), noMemory)
  return {
    ...{ weights: sum("weights"), masters: sum("masters"), moments: sum("moments"), gradients: sum("gradients") },
    ...{ activations: widest.activations, cache: widest.cache }
  }
}
/** Two phases one after the other: the one with the larger peak. */
export const larger = (a: Memory, b: Memory): Memory => (totalMemory(a) >= totalMemory(b) ? a : b)

export const weightBytes = (model: CostedModel, precision: Precision): number =>
  (costedParameters(model) + adapterParameters(model)) * bytesOf[precision]

/** Bytes of the trained weights: all, or the adapter and a scalar head. */
export const trainedWeightBytes = (model: CostedModel, precision: Precision): number => trainedParameterCount(model) * bytesOf[precision]

/** Kept per token: numbers in the model's precision, plus `float32` numbers. */
const keptOf = ({ adapter, config }: CostedModel): { readonly numbers: number; readonly float32: number } => {
  const { dim, ffn, headDim, heads, kvHeads } = config
  const adapters = adapter === undefined ? 0 : adapter.rank * adapter.targets.length
  return { numbers: 4 * dim + (2 * heads + 2 * kvHeads) * headDim + 3 * ffn + adapters, float32: heads }
}

/** Bytes that one block keeps for its backward pass over `tokens` tokens, without recomputation. */
export const blockBytes = (model: CostedModel, precision: Precision, tokens: number): number => {
  const { float32, numbers } = keptOf(model)
  return tokens * (numbers * bytesOf[precision] + float32 * 4)
}

/** The gradients held at the widest point of a block's backward pass: those of its output and of gate, up and their product. */
const blockGradientBytes = ({ config }: CostedModel, precision: Precision, tokens: number): number =>
  tokens * (config.dim + 3 * config.ffn) * bytesOf[precision]

/** Number of logits computed in one chunk, and the limit in bytes below which all logits are kept for the backward pass (engine/native/vocabulary.cc). */
const [chunkElements, keptLogitBytes] = [2 ** 27, 2 ** 30]

/** At a loss on `tokens` tokens, with the GPU kernels: the kept logits, or one chunk, whose gradient replaces it; and the output layer's gradient, which chunks accumulate in float32. */
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

/** How a training step is split. */
export interface Cut {
  /** Tokens per micro-batch, including padding. */
  readonly tokens: number
  /** Whether a step has several micro-batches, whose gradients are accumulated in float32. */
  readonly several: boolean
  /** The number of leading blocks that are recomputed in the backward pass. */
  readonly recompute: number
}

/** The number of ranks of a training run, and what is sharded between them (engine/spread.ts). */
export interface SpreadOver {
  readonly ranks: number
  readonly sharding: Sharding
}
export const onOneRank: SpreadOver = { ranks: 1, sharding: "none" }

const emptied = new WeakMap<LlamaConfig, LlamaConfig>()
/** Returns the same object each time, so that its weights are counted once. */
const withoutBlocks = (config: LlamaConfig): LlamaConfig => {
  const empty = emptied.get(config) ?? { ...config, layers: 0 }
  emptied.set(config, empty)
  return empty
}

/** Bytes of the parts that a rank keeps of weights that it gathers. The parts of 16-bit weights are their float32 masters (engine/spread.ts). */
export const partBytes = (model: CostedModel, precision: Precision, ranks: number): number =>
  precision === "bfloat16" ? 0 : trainedWeightBytes(model, precision) / ranks

/** The same memory on one of several ranks: its shards, the gathered weights of two blocks and of everything outside the blocks, and one block's gradients in their dtype and in a float32 buffer. */
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
    weights: memory.weights + (sharding === "weights" ? gathered + partBytes(model, precision, ranks) - trained * b : 0),
    masters: memory.masters / ranks,
    moments: memory.moments / ranks,
    gradients: memory.gradients / ranks,
    activations: memory.activations + passing
  }
}

/**
 * Memory of a model in training. The peak occurs at the loss, with all kept activations and the gradients of earlier micro-batches; during the backward pass of the recomputed blocks; or
 * at the end of the backward pass, with all gradients and the float32 gradients of the embeddings.
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
  // The gradients of the later blocks exist by then.
  const behind = several ? gradients : (gradients * (config.layers - recomputed)) / config.layers
  const atRecomputed = recomputed === 0 ? 0 : behind + inputs + block + blockGradientBytes(model, precision, tokens)
  // A 16-bit embedding table has its gradient in float32, plus the converted copy.
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
 * Working memory of a forward pass without gradients: everything that one block computes, freed at its end. Its input, both norms, the outputs of attention and of the feed-forward
 * block and the two sums (7 d), queries, keys and values, attention's output, gate, up and their product.
 */
export const forwardBytes = (model: CostedModel, precision: Precision, tokens: number): number => {
  const { dim, ffn, headDim, heads, kvHeads } = model.config
  return tokens * (7 * dim + (2 * heads + 2 * kvHeads) * headDim + 3 * ffn) * bytesOf[precision]
}

/** Prompt tokens that a GPU decoder reads in one pass (models/gpu-decoder.ts): more would use memory without saving time. */
export const promptTokensAtOnce = 16_384

/** Keys and values of `sequences` sequences of `length` tokens, over all layers. */
export const cacheBytes = ({ config }: CostedModel, precision: Precision, sequences: number, length: number): number =>
  2 * config.layers * config.kvHeads * config.headDim * sequences * length * bytesOf[precision]

/** Number of weights that the decoder copies: those of linear layers to which an adapter is added (models/decoder.ts). */
const mergedWeights = ({ adapter, config }: CostedModel): number => {
  const { dim, ffn, headDim, heads, kvHeads, layers } = config
  return adapter === undefined ? 0 : layers * dim * ((2 * heads + 2 * kvHeads) * headDim + 3 * ffn)
}

/** Bytes per sequence and vocabulary token while the next token is drawn (models/sampler.ts): logits, in float32 and their softmax, and probabilities and their sums in float64. */
const drawnBytes = 2 + 4 + 4 + 8 + 8
/**
 * The same for top-k and top-p (models/restrict.ts): logits after the temperature and after each mask, sorted values and indices (twice: sorting on a GPU needs its own copies), probabilities, their
 * sums, those of the tokens before, and two masks of a byte.
 */
const restrictedBytes = 3 * 4 + 2 * (4 + 8) + 3 * 4 + 2

/** Memory of generation beyond the weights: the cache, copies of weights with a merged adapter, and the largest of reading the prompts, a step and a draw. `restricted`: with top-k or top-p. */
export const generationMemory = (
  model: CostedModel,
  precision: Precision,
  sequences: number,
  lengths: { readonly prompt: number; readonly response: number },
  restricted = false
): Pick<Memory, "activations" | "cache"> => {
  const { config } = model
  const cache = cacheBytes(model, precision, sequences, lengths.prompt + lengths.response)
  // One layer's keys and values as contiguous tensors for the products; and, once sequences have ended, as they are selected from the cache.
  const step = cache / config.layers
  const draw = sequences * config.vocabSize * (drawnBytes + (restricted ? restrictedBytes : 0))
  const working = Math.max(
    forwardBytes(model, precision, Math.max(lengths.prompt, Math.min(sequences * lengths.prompt, promptTokensAtOnce))),
    step,
    draw
  )
  return { cache, activations: mergedWeights(model) * bytesOf[precision] + working }
}

/** Reserved for memory that tensors do not account for: the CUDA context and the libraries' kernels. */
const contextBytes = 2 ** 30
/** Share of the device memory lost to fragmentation: the allocator's blocks are not completely filled. */
const lostShare = 0.04
/** Bytes available to tensors on a device with this much memory. */
export const usableMemory = (deviceMemory: number): number => (1 - lostShare) * deviceMemory - contextBytes
