/**
 * Training steps of a reward model on 64 pairs of varying length, with several micro-batch sizes, to measure the fixed cost of a micro-batch. Prints a line of JSON for each
 * size; with profile=on also the milliseconds of each part, waiting for the GPU in between.
 *
 *     node bench/reward-gpu.ts [size=134m] [micro=8,16,32] [profile=on]
 */
import { deviceMemory, environment, synchronize } from "../engine/device.ts"
import { accumulateGradients, clipGradientNorm } from "../engine/gradients.ts"
import { AdamW } from "../engine/optimizer.ts"
import { Random } from "../engine/random.ts"
import { backward } from "../engine/segments.ts"
import { scoped } from "../engine/tensor.ts"
import { initRewardModel } from "../models/reward-model.ts"
import { chunks } from "../stages/common/sequences.ts"
import type { TokenisedPair } from "../stages/reward/pairs.ts"
import { pairLoss } from "../stages/reward/reward-model.ts"
import { randomLlama, sizes } from "./random-llama.ts"

const given = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=") as [string, string]))
const device = (given.device ?? "cuda") as "cuda" | "cpu"
const size = given.size ?? "134m"
const [pairsAStep, steps] = [64, Number(given.steps ?? 6)]
const model = initRewardModel(randomLlama({ ...sizes[size]!, maxPositions: 4096 }, { dtype: "bfloat16", device }), { seed: 1 })
const optimizer = new AdamW({ parameters: model.parameters })
const random = new Random(1, "pairs")
const words = (count: number) => Array.from({ length: count }, () => 3 + random.int(model.config.vocabSize - 3))
const pairs = (): Array<TokenisedPair> =>
  Array.from({ length: pairsAStep }, () => {
    const prompt = words(60 + random.int(120))
    return { chosen: [...prompt, ...words(20 + random.int(200))], rejected: [...prompt, ...words(20 + random.int(200))], margin: 0 }
  })
const milliseconds: Record<string, number> = {}
const part = <A>(name: string, run: () => A): A => {
  if (given.profile !== "on") return run()
  synchronize()
  const started = performance.now()
  const result = run()
  synchronize()
  milliseconds[name] = (milliseconds[name] ?? 0) + (performance.now() - started) / steps
  return result
}
const step = (batch: ReadonlyArray<TokenisedPair>, micro: number) =>
  scoped(() => {
    accumulateGradients(model.parameters, chunks(batch, micro), (some) => {
      const loss = part("forward", () => pairLoss(model, some, { padId: 0, device }).div(pairsAStep))
      part("backward", () => backward(loss))
      return part("read", () => loss.item())
    })
    part("clip", () => clipGradientNorm(model.parameters, 1).item())
    part("optimiser", () => optimizer.step(1e-5))
  })
for (const micro of (given.micro ?? "8,16,32").split(",").map(Number)) {
  const batches = Array.from({ length: steps + 2 }, pairs)
  for (const batch of batches.slice(0, 2)) step(batch, micro)
  synchronize()
  deviceMemory({ resetPeak: true })
  for (const name of Object.keys(milliseconds)) delete milliseconds[name]
  const started = performance.now()
  for (const batch of batches.slice(2)) step(batch, micro)
  synchronize()
  const { gpu, libtorch } = environment()
  const line = {
    ...{ who: "caravan", size, pairs: pairsAStep, micro, millisecondsAStep: (performance.now() - started) / steps },
    ...{ peakGiB: (deviceMemory()?.peak ?? 0) / 2 ** 30, libtorch, gpu },
    ...(given.profile === "on" ? { milliseconds } : {})
  }
  process.stdout.write(`${JSON.stringify(line)}\n`)
}
