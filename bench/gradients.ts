/**
 * Compares the gradients of one batch of 512 in bfloat16, split into micro-batches in several ways, with float32 gradients of the same weights: `node bench/gradients.ts [cpu|cuda]`. Prints
 * the norm of the difference relative to the norm, and the change of the norm. `node bench/gradients.ts cpu bfloat16` sums micro-batches in the gradients' own dtype,
 * as before engine/gradients.ts.
 */
import { accumulateGradients, type Parameters } from "../engine/gradients.ts"
import { Random } from "../engine/random.ts"
import { backward } from "../engine/segments.ts"
import { clearGradients, type DType, keep, noGrad, scoped, type Tensor } from "../engine/tensor.ts"
import { llamaConfig } from "../models/config.ts"
import { initLlama, Llama } from "../models/llama.ts"
import { headName, initRewardModel, RewardModel } from "../models/reward-model.ts"
import { chunks, languageModelLoss, type PackedRow } from "../stages/common/sequences.ts"
import type { TokenisedPair } from "../stages/reward/pairs.ts"
import { pairLoss } from "../stages/reward/reward-model.ts"

const device = process.argv[2] === "cuda" ? "cuda" : "cpu"
const inOwnDtype = process.argv[3] === "bfloat16"
const count = 512
const config = llamaConfig({ vocabSize: 300, dim: 64, layers: 2, heads: 4, kvHeads: 2, ffn: 128, maxPositions: 48 })
const random = new Random(1, "x")
/** Words; a few of them are frequent. */
const words = (length: number) => Array.from({ length }, () => 3 + Math.floor(random.next() ** 3 * 290))
/** Both dialogues of a pair share nine tokens of 13 to 23. */
const pairs = Array.from({ length: count }, (): TokenisedPair => {
  const prompt = [1, ...words(8)]
  return { chosen: [...prompt, ...words(4 + random.int(10)), 2], rejected: [...prompt, ...words(4 + random.int(10)), 2], margin: 1 / 3 }
})
const rows = Array.from({ length: count }, (): PackedRow => ({
  tokens: Int32Array.from([1, ...words(22), 2]),
  lossMask: Uint8Array.from({ length: 24 }, (_, i) => (i > 8 ? 1 : 0)),
  segments: new Int32Array(24)
}))

const start = () => initLlama(config, { seed: 3, device, dtype: "bfloat16" })
const inDtype = (parameters: Parameters, dtype: DType): Parameters =>
  Object.fromEntries(
    Object.entries(parameters).map(([name, weight]) => [
      name,
      keep(scoped(() => noGrad(() => weight.to({ dtype }).clone()))).requiresGrad()
    ])
  )
const gradients = <A>(parameters: Parameters, items: ReadonlyArray<A>, size: number, loss: (part: ReadonlyArray<A>) => Tensor) => {
  const add = (part: ReadonlyArray<A>) => backward(loss(part).div(items.length))
  if (inOwnDtype) for (const part of chunks(items, size)) scoped(() => add(part))
  else accumulateGradients(parameters, chunks(items, size), add)
  const numbers = Object.values(parameters).flatMap((weight) => scoped(() => weight.grad()!.to({ dtype: "float32" }).toNumbers()))
  clearGradients(Object.values(parameters))
  return numbers
}
const languageModel = (dtype: DType, size: number) => {
  const model = new Llama(config, inDtype(start().parameters, dtype))
  return gradients(model.parameters, rows, size, (part) => languageModelLoss(model, part, { device, isolate: true }))
}
const ranking = (some: ReadonlyArray<TokenisedPair>) => (dtype: DType, size: number) => {
  const { [headName]: head, ...backbone } = inDtype(initRewardModel(start(), { seed: 5 }).parameters, dtype)
  const model = new RewardModel(new Llama(config, backbone), head!)
  return gradients(model.parameters, some, size, (part) => pairLoss(model, part, { padId: 0, device }))
}

const normOf = (numbers: ReadonlyArray<number>): number => Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0))
const percent = (share: number): string => `${(100 * share).toFixed(2)}%`
for (const [name, gradientsOf] of [
  ["language model", languageModel],
  ["ranking", ranking(pairs)],
  ["ranking, all pairs the same", ranking(pairs.map(() => pairs[0]!))]
] as const) {
  const wanted = gradientsOf("float32", 64)
  for (const size of [512, 64, 8, 1]) {
    const found = gradientsOf("bfloat16", size)
    const apart = normOf(found.map((x, i) => x - wanted[i]!)) / normOf(wanted)
    process.stdout.write(
      `${name}, ${count / size} of ${size}: ${percent(apart)}, the norm ${percent(normOf(found) / normOf(wanted) - 1)}\n`
    )
  }
}
