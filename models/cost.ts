/**
 * Cost estimates for a Llama: FLOPs, time, disk and energy (memory: memory.ts). They are used by plans (`caravan plan`); results do not depend on them.
 *
 *     FLOPs of a token's forward pass     2 N + 4 L d T          (Chowdhery et al. 2022, PaLM, appendix B: a third of training's)
 *     FLOPs of a trained token            6 N + 12 L d T         forward once, backward twice that
 *     energy                              GPU-hours x TDP        (Llama 2 table 2)
 *     carbon                              energy x 0.4235 kg CO2eq per kWh
 *
 * N parameters (including embeddings, as in PaLM), L layers, d = heads x head dimension, T the sequence length over which attention is computed.
 * A sliding window (Mistral) is ignored: beyond it the estimates are too high. The half of the attention products above the diagonal is counted, as in PaLM and as kernels without a causal path compute it.
 */
import { adapterParameters, cacheBytes, type CostedModel, costedParameters, headParameters, type Precision, weightBytes } from "./memory.ts"

/** L d, the factor of attention's FLOPs. */
const attentionWidth = ({ config }: CostedModel): number => config.layers * config.heads * config.headDim

/** FLOPs of a forward pass over `tokens` tokens in sequences of `length`; an adapter's weights are added to the model's. */
export const forwardFlops = (model: CostedModel, tokens: number, length: number): number =>
  tokens * (2 * (costedParameters(model) + adapterParameters(model)) + 4 * attentionWidth(model) * length)

/**
 * FLOPs of training on `tokens` tokens in sequences of `length`: the forward pass, and twice that for the backward pass. With an adapter, the gradients of the model's own weights
 * (2 N per token) are not computed.
 */
export const trainingFlops = (model: CostedModel, tokens: number, length: number): number =>
  3 * forwardFlops(model, tokens, length) -
  (model.adapter === undefined ? 0 : tokens * 2 * (costedParameters(model) - headParameters(model)))

/**
 * FLOPs of generating one sequence with a cache: the prompt of P tokens is read in one pass, then each of R new tokens attends to the tokens before it:
 * sum over t of 2 N + 4 L d (P + t).
 */
export const generationFlops = (model: CostedModel, prompt: number, response: number): number =>
  forwardFlops(model, prompt, prompt) +
  response * 2 * costedParameters(model) +
  4 * attentionWidth(model) * (prompt * response + (response * (response + 1)) / 2)

/** Bytes read from memory to decode `sequences` sequences in one batch: all weights at each step, and the growing cache. */
export const decodingTraffic = (
  model: CostedModel,
  precision: Precision,
  sequences: number,
  lengths: { readonly prompt: number; readonly response: number }
): number =>
  lengths.response * weightBytes(model, precision) +
  cacheBytes(model, precision, sequences, lengths.prompt * lengths.response + (lengths.response * (lengths.response + 1)) / 2)

/** An accelerator according to its data sheet: dense FLOP/s, bytes per second, watts; and its memory as reported by CUDA, rounded to whole GiB (engine/device.ts `totalMemory`). */
export interface Accelerator {
  readonly name: string
  readonly flops: Readonly<Record<Precision, number>>
  readonly memory: number
  readonly bandwidth: number
  readonly watts: number
}

/** From NVIDIA's data sheets, for the SXM versions; float32 without TF32. The paper used A100-80GB (§2.2.1). */
export const accelerators = {
  "a100-80gb": { name: "A100-80GB", flops: { bfloat16: 312e12, float32: 19.5e12 }, memory: 79 * 2 ** 30, bandwidth: 2.039e12, watts: 400 },
  h100: { name: "H100-80GB", flops: { bfloat16: 989.4e12, float32: 66.9e12 }, memory: 79 * 2 ** 30, bandwidth: 3.35e12, watts: 700 },
  h200: { name: "H200-141GB", flops: { bfloat16: 989.4e12, float32: 66.9e12 }, memory: 139 * 2 ** 30, bandwidth: 4.8e12, watts: 700 }
} as const satisfies Record<string, Accelerator>

/** kg of CO2 equivalent per kWh, derived from the rows of table 2. */
export const carbonIntensity = 0.4235

/** Energy as in Llama 2 table 2: GPU-hours at the GPU's thermal design power, without the rest of the data centre. */
export const energyKwh = (gpuHours: number, watts: number): number => (gpuHours * watts) / 1000
export const carbonKg = (gpuHours: number, watts: number, intensity: number = carbonIntensity): number =>
  energyKwh(gpuHours, watts) * intensity
