/**
 * Training steps of a 134M-parameter Llama on a GPU (dim 768, 12 layers, untied, vocabulary 32000): forward, backward, clipping, AdamW. Prints a
 * line of JSON. The peer: bench/peers/torch_train_gpu.py.
 *
 *     node bench/train-gpu.ts float32|bfloat16 [tf32]
 */
import { allowTf32, deviceMemory, environment, synchronize } from "../engine/device.ts"
import { accumulateGradients, clipGradientNorm } from "../engine/gradients.ts"
import { AdamW } from "../engine/optimizer.ts"
import { backward } from "../engine/segments.ts"
import { type DType, scoped, tensor } from "../engine/tensor.ts"
import { llamaConfig, parameterCount } from "../models/config.ts"
import { initLlama } from "../models/llama.ts"

const [dtype = "bfloat16", tf32] = process.argv.slice(2) as [DType | undefined, string | undefined]
allowTf32(tf32 === "tf32")
const config = llamaConfig({ vocabSize: 32000, dim: 768, layers: 12, heads: 12, kvHeads: 12, ffn: 2048 })
const model = initLlama(config, { seed: 1, device: "cuda", dtype })
const batch = 16
const length = 1024
const draw = (factor: number) => Int32Array.from({ length: batch * length }, (_, i) => (i * factor) % config.vocabSize)
const ids = tensor(draw(7919), { shape: [batch, length], dtype: "int64", device: "cuda" })
const targets = tensor(draw(104729), { dtype: "int64", device: "cuda" })
const optimizer = new AdamW({ parameters: model.parameters })
const step = () =>
  scoped(() => {
    accumulateGradients(model.parameters, [ids], () => {
      const { logProbabilities } = model.distribution(model.hidden(ids).view(-1, config.dim), targets)
      backward(logProbabilities.sum().div(-batch * length))
    })
    clipGradientNorm(model.parameters, 1)
    optimizer.step(1e-5)
  })
for (let i = 0; i < 3; i++) step()
synchronize()
deviceMemory({ resetPeak: true })
const steps = 10
const started = performance.now()
for (let i = 0; i < steps; i++) step()
synchronize()
const milliseconds = (performance.now() - started) / steps
const { libtorch, gpu } = environment()
process.stdout.write(
  `${JSON.stringify({ who: "caravan", dtype, tf32: tf32 === "tf32", parameters: parameterCount(config), milliseconds, tokensPerSecond: Math.round((batch * length * 1000) / milliseconds), peakGiB: (deviceMemory()?.peak ?? 0) / 2 ** 30, libtorch, gpu })}\n`
)
