/**
 * Training steps of a random Llama on a GPU: forward, backward, clipping, AdamW. Prints a line of JSON. The peer: bench/peers/torch_train_gpu.py.
 *
 *     node bench/train-gpu.ts dtype=bfloat16 size=134m batch=16 length=1024 micro=1 recompute=0 steps=10
 *     node bench/train-gpu.ts size=7b batch=1 length=4096 micro=16 recompute=32 steps=2
 *
 *     node bench/on-ranks.ts 2 bench/train-gpu.ts size=1.1b batch=4 length=4096 sharding=weights
 *
 * batch: sequences per micro-batch and rank; micro: micro-batches per step; recompute: blocks recomputed in the backward pass; tf32=on: float32 products in TensorFloat-32;
 * parts=on: seconds of each part, waiting for the GPU in between; profile=on: kernels by time.
 */
import { allowTf32, deviceMemory, environment, synchronize } from "../engine/device.ts"
import { accumulateGradients, clipGradientNorm } from "../engine/gradients.ts"
import { AdamW } from "../engine/optimizer.ts"
import { describeProfile, profileGpu } from "../engine/profile.ts"
import { ranks, type Sharding, sharding } from "../engine/ranks.ts"
import { backward } from "../engine/segments.ts"
import { spreadOver } from "../engine/spread.ts"
import { type DType, scoped, tensor } from "../engine/tensor.ts"
import { type LlamaConfig, parameterCount } from "../models/config.ts"
import { trainingFlops } from "../models/cost.ts"
import { joinFromEnvironment } from "./join-ranks.ts"
import { randomLlama, sizes } from "./random-llama.ts"

const given = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=") as [string, string]))
const number = (name: string, otherwise: number) => Number(given[name] ?? otherwise)
const dtype = (given.dtype ?? "bfloat16") as DType
const [batch, length, micro, recompute, steps] = [
  number("batch", 16),
  number("length", 1024),
  number("micro", 1),
  number("recompute", 0),
  number("steps", 10)
]
const size = given.size ?? "134m"
const config: LlamaConfig = { ...sizes[size]!, maxPositions: Math.max(4096, length) }
const device = (given.device ?? "cuda") as "cuda" | "cpu"
joinFromEnvironment((given.sharding ?? "weights") as Sharding, device)
allowTf32(given.tf32 === "on")
const model = randomLlama(config, { dtype, device })
const { parameters } = model
const draw = (factor: number) => Int32Array.from({ length: batch * length }, (_, i) => (i * factor) % config.vocabSize)
const ids = tensor(draw(7919), { shape: [batch, length], dtype: "int64", device })
const targets = tensor(draw(104729), { dtype: "int64", device })
const spread = spreadOver(parameters)
const optimizer = new AdamW({ parameters: spread.parameters })

const seconds: Record<string, number> = {}
/** Times a part if a profile is requested. */
const part = <A>(name: string, run: () => A): A => {
  if (given.parts !== "on") return run()
  synchronize()
  const started = performance.now()
  const result = run()
  synchronize()
  seconds[name] = (seconds[name] ?? 0) + (performance.now() - started) / 1000
  return result
}
const step = () =>
  scoped(() => {
    accumulateGradients(
      parameters,
      new Array<undefined>(micro).fill(undefined),
      () => {
        const states = part("forward", () => model.hidden(ids).view(-1, config.dim))
        const loss = part("loss", () =>
          model
            .distribution(states, targets)
            .logProbabilities.sum()
            .div(-batch * length * micro * ranks())
        )
        part("backward", () => backward(loss))
      },
      { recompute, weights: spread }
    )
    part("clip", () => clipGradientNorm(spread.parameters, 1, spread))
    part("optimiser", () => optimizer.step(1e-5))
    spread.updated()
  })
const warmUp = Math.min(3, steps)
for (let i = 0; i < warmUp; i++) step()
synchronize()
deviceMemory({ resetPeak: true })
for (const name of Object.keys(seconds)) delete seconds[name]
const started = performance.now()
for (let i = 0; i < steps; i++) step()
synchronize()
const milliseconds = (performance.now() - started) / steps
const tokens = batch * length * micro * ranks()
const flops = trainingFlops({ config, scalarHead: false }, tokens, length / 2)
const { libtorch, gpu } = environment()
const line = {
  ...{
    who: "caravan",
    size,
    dtype,
    tf32: given.tf32 === "on",
    batch,
    length,
    micro,
    recompute,
    ranks: ranks(),
    sharding: sharding(),
    parameters: parameterCount(config),
    milliseconds
  },
  ...{ tokensPerSecond: Math.round((tokens * 1000) / milliseconds), mfu: (flops * 1000) / milliseconds / 989e12 / ranks() },
  ...{ peakGiB: (deviceMemory()?.peak ?? 0) / 2 ** 30, libtorch, gpu },
  ...(given.parts === "on" ? { seconds: Object.fromEntries(Object.entries(seconds).map(([name, all]) => [name, all / steps])) } : {})
}
process.stdout.write(`${JSON.stringify(line)}\n`)
if (given.profile === "on") process.stdout.write(describeProfile(profileGpu(step)))
