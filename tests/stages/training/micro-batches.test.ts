/** bfloat16 gradients of one batch, split in several ways, compared with each other and with float32 gradients of the same weights. */
import { beforeAll, describe, expect, it } from "vitest"
import { accumulateGradients, type Parameters } from "../../../engine/gradients.ts"
import { Random } from "../../../engine/random.ts"
import { backward } from "../../../engine/segments.ts"
import { clearGradients, type DType, keep, noGrad, scoped, type Tensor } from "../../../engine/tensor.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama, Llama } from "../../../models/llama.ts"
import { headName, initRewardModel, RewardModel } from "../../../models/reward-model.ts"
import { chunks, languageModelLoss, type PackedRow } from "../../../stages/common/sequences.ts"
import type { TokenisedPair } from "../../../stages/reward/pairs.ts"
import { pairLoss } from "../../../stages/reward/reward-model.ts"
import { devices } from "../../devices.ts"
import { alikeGradients, splitGradients } from "../../tolerances.ts"

const count = 512
const splits = [512, 64, 8, 1]
const config = llamaConfig({ vocabSize: 60, dim: 32, layers: 2, heads: 4, kvHeads: 2, ffn: 64, maxPositions: 24 })
const random = new Random(1, "micro-batches")
const words = (n: number) => Array.from({ length: n }, () => 3 + random.int(57))
/** Every sequence begins with one token and ends with another, whose embedding rows get the most gradient terms. */
const rows = Array.from({ length: count }, (): PackedRow => ({
  tokens: Int32Array.from([1, ...words(14), 2]),
  lossMask: Uint8Array.from({ length: 16 }, (_, i) => (i > 4 ? 1 : 0)),
  segments: new Int32Array(16)
}))
/** If both dialogues of a pair are equal, their gradients cancel. */
const pairs = Array.from({ length: count }, (): TokenisedPair => {
  const prompt = [1, ...words(1)]
  return { chosen: [...prompt, ...words(4 + random.int(8)), 2], rejected: [...prompt, ...words(4 + random.int(8)), 2], margin: 1 / 3 }
})

const normOf = (numbers: ArrayLike<number>): number => Math.sqrt(Array.from(numbers).reduce((sum, x) => sum + x * x, 0))
/** Distance of gradients from others, relative to their norm: it bounds the norm's error, and the angle. */
const apart = (some: ReadonlyArray<number>, others: ReadonlyArray<number>): number =>
  normOf(some.map((x, i) => x - others[i]!)) / normOf(others)

for (const { device, skip } of devices) {
  /** The same bfloat16 weights in either dtype. */
  const start = () => initLlama(config, { seed: 3, device, dtype: "bfloat16" })
  const inDtype = (parameters: Parameters, dtype: DType): Parameters =>
    Object.fromEntries(
      Object.entries(parameters).map(([name, weight]) => [
        name,
        keep(scoped(() => noGrad(() => weight.to({ dtype }).clone()))).requiresGrad()
      ])
    )
  const gradients = <A>(parameters: Parameters, items: ReadonlyArray<A>, size: number, loss: (part: ReadonlyArray<A>) => Tensor) => {
    accumulateGradients(parameters, chunks(items, size), (part) => backward(loss(part).div(items.length)))
    const numbers = Object.values(parameters).flatMap((weight) => scoped(() => weight.grad()!.to({ dtype: "float32" }).toNumbers()))
    clearGradients(Object.values(parameters))
    return numbers
  }
  const languageModel = (dtype: DType, size: number) => {
    const model = new Llama(config, inDtype(start().parameters, dtype))
    return gradients(model.parameters, rows, size, (part) => languageModelLoss(model, part, { device, isolate: true }))
  }
  const ranking = (some: ReadonlyArray<TokenisedPair>) => (dtype: DType, size: number) => {
    const { [headName]: head, ...backbone } = inDtype(initRewardModel(start(), { seed: 4 }).parameters, dtype)
    const model = new RewardModel(new Llama(config, backbone), head!)
    return gradients(model.parameters, some, size, (part) => pairLoss(model, part, { padId: 0, device }))
  }
  const kinds = [
    ["the language model's loss", languageModel, splitGradients],
    ["the ranking loss", ranking(pairs), splitGradients],
    ["the ranking loss of pairs that are all the same", ranking(pairs.map(() => pairs[0]!)), alikeGradients]
  ] as const

  describe.skipIf(skip).each(kinds)(`bfloat16 gradients of %s on ${device}`, (_, gradientsOf, tolerance) => {
    let [whole, wanted]: [ReadonlyArray<number>, ReadonlyArray<number>] = [[], []]
    beforeAll(() => {
      whole = gradientsOf("bfloat16", count)
      wanted = gradientsOf("float32", 64)
    })
    it.each(splits)("in micro-batches of %i equal float32's, and are nearer to those of the complete batch", (size) => {
      const split = gradientsOf("bfloat16", size)
      expect(apart(split, wanted)).toBeLessThan(tolerance)
      expect(apart(split, whole)).toBeLessThan(splitGradients / 2)
    })
  })
}
