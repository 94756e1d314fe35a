/** Random models for benchmarks, made on the measured device: a large one would take minutes on the CPU. */
import { type Device, type DType, keep, noGrad, ones, scoped, zeros } from "../engine/tensor.ts"
import { type LlamaConfig, llamaConfig, parameterShapes, presets } from "../models/config.ts"
import { Llama } from "../models/llama.ts"

/** The presets, and the sizes of the GPU benchmarks. */
export const sizes: Readonly<Record<string, LlamaConfig>> = {
  ...presets,
  "134m": llamaConfig({ vocabSize: 32000, dim: 768, layers: 12, heads: 12, kvHeads: 12, ffn: 2048 })
}

/** A Llama with normal weights of deviation 0.02 and norms of 1, from the device's generator in its current state. */
export const randomLlama = (config: LlamaConfig, like: { readonly dtype: DType; readonly device: Device }): Llama =>
  new Llama(
    config,
    Object.fromEntries(
      Object.entries(parameterShapes(config)).map(([name, shape]) => {
        const made = scoped(() => noGrad(() => (name.endsWith("norm.weight") ? ones(shape, like) : zeros(shape, like).normal_(0, 0.02))))
        return [name, keep(made).requiresGrad()]
      })
    )
  )
