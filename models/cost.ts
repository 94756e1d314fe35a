/**
 * What a Llama costs: FLOPs, memory, energy. Estimates, for plans (`caravan plan`): nothing of a result depends on them.
 *
 *     FLOPs of a token's forward pass     2 N + 4 L d T          (Chowdhery et al. 2022, PaLM, appendix B: a third of training's)
 *     FLOPs of a trained token            6 N + 12 L d T         forward once, backward twice that
 *     energy                              GPU-hours x TDP        (Llama 2 table 2)
 *     carbon                              energy x 0.4235 kg CO2eq per kWh
 *
 * N parameters (embeddings included, as PaLM counts them), L layers, d = heads x head dimension, T the tokens of the sequence that attention multiplies.
 * A sliding window (Mistral) is not reckoned with: beyond it the estimates are too high. Half of attention's products lie above the diagonal; they are counted, as PaLM does, and as kernels without a causal path compute them.
 */
import { type LlamaConfig, parameterCount } from "./config.ts"
import { type LoraConfig, loraShapes } from "./lora.ts"

/** A model to reckon with: a language model, or one with a scalar head in place of the output layer (reward and value models). */
export interface CostedModel {
  readonly config: LlamaConfig
  readonly scalarHead: boolean
  /** The adapter that is trained in its place; none: all of its weights are. */
  readonly adapter?: Pick<LoraConfig, "rank" | "targets"> | undefined
}

/** N. A scalar head has d weights where an untied output layer has V d. */
export const costedParameters = ({ config, scalarHead }: CostedModel): number =>
  parameterCount(config) - (scalarHead && !config.tiedEmbeddings ? config.vocabSize * config.dim : 0) + (scalarHead ? config.dim : 0)

/** Weights of a scalar head, which is trained beside an adapter. */
const headParameters = ({ config, scalarHead }: CostedModel): number => (scalarHead ? config.dim : 0)

/** Weights of its adapter: 0 where it has none. */
export const adapterParameters = ({ adapter, config }: CostedModel): number =>
  adapter === undefined ? 0 : Object.values(loraShapes(config, adapter)).reduce((sum, [rows, columns]) => sum + rows! * columns!, 0)

/** L d: what attention's FLOPs grow with. */
const attentionWidth = ({ config }: CostedModel): number => config.layers * config.heads * config.headDim

/** FLOPs of reading `tokens` tokens in sequences of `length`; an adapter's weights are read beside those of the model. */
export const forwardFlops = (model: CostedModel, tokens: number, length: number): number =>
  tokens * (2 * (costedParameters(model) + adapterParameters(model)) + 4 * attentionWidth(model) * length)

/**
 * FLOPs of training on `tokens` tokens in sequences of `length`: forward, and backward at twice that. Under an adapter the gradients of the model's own weights (2 N a
 * token) are not computed.
 */
export const trainingFlops = (model: CostedModel, tokens: number, length: number): number =>
  3 * forwardFlops(model, tokens, length) -
  (model.adapter === undefined ? 0 : tokens * 2 * (costedParameters(model) - headParameters(model)))

/**
 * FLOPs of one sequence's generation with a cache: the prompt of P tokens is read at once, then each of R new tokens attends to what is before it:
 * sum over t of 2 N + 4 L d (P + t).
 */
export const generationFlops = (model: CostedModel, prompt: number, response: number): number =>
  forwardFlops(model, prompt, prompt) +
  response * 2 * costedParameters(model) +
  4 * attentionWidth(model) * (prompt * response + (response * (response + 1)) / 2)

export type Precision = "float32" | "bfloat16"
export const bytesOf: Readonly<Record<Precision, number>> = { float32: 4, bfloat16: 2 }

/** Memory that a trained model takes beside its activations, in bytes. */
export interface TrainingState {
  readonly weights: number
  /** In float32: micro-batches add up in it (engine/gradients.ts). A single one leaves bfloat16 gradients, and takes less than this. */
  readonly gradients: number
  /** AdamW's two moments in float32, and the float32 copy of bfloat16 weights (engine/optimizer.ts). */
  readonly optimiser: number
}
export const trainingState = (model: CostedModel, precision: Precision): TrainingState => {
  const [all, adapter] = [costedParameters(model), adapterParameters(model)]
  const trained = adapter > 0 ? adapter + headParameters(model) : all
  const bytes = bytesOf[precision]
  return {
    weights: (all + adapter) * bytes,
    gradients: trained * bytesOf.float32,
    optimiser: trained * (precision === "bfloat16" ? 12 : 8)
  }
}

export const weightBytes = (model: CostedModel, precision: Precision): number => costedParameters(model) * bytesOf[precision]

/** Weights that are joined into copies (queries, keys and values; gate and up): models/llama.ts keeps them for the backward pass, models/decoder.ts to decode. */
const joinedWeights = ({ config }: CostedModel): number => {
  const { dim, ffn, headDim, heads, kvHeads, layers } = config
  return layers * dim * ((heads + 2 * kvHeads) * headDim + 2 * ffn)
}

/**
 * Activations of `tokens` tokens that are read at once with gradients, nothing recomputed. A block of models/llama.ts keeps, for each token: its
 * input, both norms' outputs, attention's output and the state between (5 d), queries, keys and values as projected and as rotated, and of the
 * feed-forward block gate and up, silu(gate) and the product. With them the joined weights. Attention keeps no T x T matrix (kernels like
 * FlashAttention). `logits` are those with a loss: one copy in the model's precision, two in float32.
 */
export const activationBytes = (model: CostedModel, precision: Precision, tokens: number, logits: number): number => {
  const { dim, ffn, headDim, heads, kvHeads, layers, vocabSize } = model.config
  const block = 5 * dim + (2 * heads + 3 * kvHeads) * headDim + 4 * ffn
  const bytes = bytesOf[precision]
  return (tokens * layers * block + joinedWeights(model)) * bytes + (model.scalarHead ? 0 : logits * vocabSize * (bytes + 8))
}

/** Working memory of a forward pass without gradients: one block's activations, in the widest place (gate, up and their product). */
export const forwardBytes = (model: CostedModel, precision: Precision, tokens: number): number => {
  const { dim, ffn, headDim, heads, kvHeads } = model.config
  return tokens * (2 * dim + (heads + 2 * kvHeads) * headDim + 3 * ffn) * bytesOf[precision]
}

/** Keys and values of `sequences` sequences of `length` tokens, in every layer. */
export const cacheBytes = ({ config }: CostedModel, precision: Precision, sequences: number, length: number): number =>
  2 * config.layers * config.kvHeads * config.headDim * sequences * length * bytesOf[precision]

/** Working memory of generation: the cache, the decoder's joined copies of weights, reading the prompts. */
export const generationBytes = (
  model: CostedModel,
  precision: Precision,
  sequences: number,
  lengths: { readonly prompt: number; readonly response: number }
): number =>
  cacheBytes(model, precision, sequences, lengths.prompt + lengths.response) +
  joinedWeights(model) * bytesOf[precision] +
  forwardBytes(model, precision, sequences * lengths.prompt)

/** What must be read from memory to decode `sequences` sequences side by side: all weights at each step, and the cache as it grows. */
export const decodingTraffic = (
  model: CostedModel,
  precision: Precision,
  sequences: number,
  lengths: { readonly prompt: number; readonly response: number }
): number =>
  lengths.response * weightBytes(model, precision) +
  cacheBytes(model, precision, sequences, lengths.prompt * lengths.response + (lengths.response * (lengths.response + 1)) / 2)

/** An accelerator by its data sheet: dense FLOP/s, bytes of memory, bytes a second, watts. */
export interface Accelerator {
  readonly name: string
  readonly flops: Readonly<Record<Precision, number>>
  readonly memory: number
  readonly bandwidth: number
  readonly watts: number
}

/** NVIDIA's data sheets, the SXM forms; float32 without TF32. The paper's (§2.2.1): A100-80GB. */
export const accelerators = {
  "a100-80gb": { name: "A100-80GB", flops: { bfloat16: 312e12, float32: 19.5e12 }, memory: 80e9, bandwidth: 2.039e12, watts: 400 },
  h100: { name: "H100-80GB", flops: { bfloat16: 989.4e12, float32: 66.9e12 }, memory: 80e9, bandwidth: 3.35e12, watts: 700 },
  h200: { name: "H200-141GB", flops: { bfloat16: 989.4e12, float32: 66.9e12 }, memory: 141e9, bandwidth: 4.8e12, watts: 700 }
} as const satisfies Record<string, Accelerator>

/** kg of CO2 equivalent per kWh: what the rows of table 2 come to. */
export const carbonIntensity = 0.4235

/** Llama 2 table 2: GPU-hours at the GPU's thermal design power, nothing for what is around it. */
export const energyKwh = (gpuHours: number, watts: number): number => (gpuHours * watts) / 1000
export const carbonKg = (gpuHours: number, watts: number, intensity: number = carbonIntensity): number =>
  energyKwh(gpuHours, watts) * intensity
