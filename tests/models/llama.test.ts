/** Properties of the model: padding, packing, later tokens and the order of the batch do not change its results. */
import { describe, expect, it } from "vitest"
import { clearGradients, liveTensors, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { presets } from "../../models/config.ts"
import { type ForwardOptions, initLlama, Llama } from "../../models/llama.ts"
import { devices } from "../devices.ts"
import { bfloat16, sameInFloat32 } from "../tolerances.ts"
import { largestDifference, smallConfig } from "./small.ts"
import { sharpen } from "./tensors.ts"

const shapes = [
  ["grouped-query attention", smallConfig()],
  ["multi-head attention, tied", smallConfig({ kvHeads: 6, tiedEmbeddings: true })],
  ["multi-query attention", smallConfig({ kvHeads: 1, headDim: 10 })]
] as const

const sequences = [
  [1, 5, 9, 13, 60, 3, 7],
  [1, 44, 2],
  [1, 8, 8, 30, 21]
]
const length = 7

for (const { device, skip } of devices) {
  const ids = (rows: ReadonlyArray<ReadonlyArray<number>>) => tensor(rows, { dtype: "int64", device })
  /** Logits as rows of V numbers, by token. */
  const logits = (
    model: Llama,
    rows: ReadonlyArray<ReadonlyArray<number>>,
    options: () => ForwardOptions = () => ({})
  ): Array<Array<Array<number>>> =>
    scoped(() =>
      noGrad(() => {
        const flat = model.forward(ids(rows), options()).to({ dtype: "float32" }).toNumbers()
        const vocab = model.config.vocabSize
        return rows.map((row, b) => row.map((_, t) => flat.slice((b * row.length + t) * vocab, (b * row.length + t + 1) * vocab)))
      })
    )
  const padLeft = (filler: (i: number) => number) =>
    sequences.map((sequence) => [...Array.from({ length: length - sequence.length }, (_, i) => filler(i)), ...sequence])
  const padRight = (filler: (i: number) => number) =>
    sequences.map((sequence) => [...sequence, ...Array.from({ length: length - sequence.length }, (_, i) => filler(i))])

  /** The mask of padding on the left. */
  const maskLeft = sequences.map((sequence) => Array.from({ length }, (_, i) => (i < length - sequence.length ? 0 : 1)))

  describe.skipIf(skip)(`a Llama on ${device}`, () => {
    for (const [name, config] of shapes) {
      it(`gives a padded sequence the same logits as alone, with any padding on either side (${name})`, () => {
        const model = initLlama(config, { seed: 3, device })
        const alone = sequences.map((sequence) => logits(model, [sequence])[0]!)
        for (const filler of [() => 0, (i: number) => 17 + i]) {
          const left = logits(model, padLeft(filler), () => ({ attentionMask: ids(maskLeft) }))
          const right = logits(model, padRight(filler), () => ({ attentionMask: ids(maskLeft.map((row) => row.toReversed())) }))
          const rightUnmasked = logits(model, padRight(filler))
          sequences.forEach((sequence, b) => {
            expect(largestDifference(left[b]!.slice(length - sequence.length).flat(), alone[b]!.flat())).toBeLessThanOrEqual(sameInFloat32)
            expect(largestDifference(right[b]!.slice(0, sequence.length).flat(), alone[b]!.flat())).toBeLessThanOrEqual(sameInFloat32)
            expect(largestDifference(rightUnmasked[b]!.slice(0, sequence.length).flat(), alone[b]!.flat())).toBeLessThanOrEqual(
              sameInFloat32
            )
          })
        }
      })

      it(`gives a packed sequence the same logits as alone (${name})`, () => {
        const model = initLlama(config, { seed: 3, device })
        const segments = sequences.flatMap((sequence, b) => sequence.map(() => b))
        const packed = logits(model, [[...sequences.flat(), 0, 0]], () => ({ segmentIds: ids([[...segments, -1, -1]]) }))[0]!
        const alone = sequences.flatMap((sequence) => logits(model, [sequence])[0]!)
        expect(largestDifference(packed.slice(0, alone.length).flat(), alone.flat())).toBeLessThanOrEqual(sameInFloat32)
      })
    }

    // Rotary embeddings depend only on distances: padding at one end shifts all positions equally, and would not show whether they follow the mask.
    it("counts positions by the mask: a gap in the middle of a sequence changes nothing, whatever it contains (detail 2)", () => {
      // Attention depends on positions.
      const model = sharpen(initLlama(smallConfig(), { seed: 3, device }), 10)
      const sequence = sequences[0]!
      const alone = logits(model, [sequence])[0]!
      const gap = [...sequence.slice(0, 3), 50, 17, 0, 50, ...sequence.slice(3)]
      const mask = gap.map((_, i) => (i >= 3 && i < 7 ? 0 : 1))
      const masked = logits(model, [gap], () => ({ attentionMask: ids([mask]) }))[0]!.filter((_, i) => mask[i] === 1)
      expect(largestDifference(masked.flat(), alone.flat())).toBeLessThanOrEqual(sameInFloat32)
    })

    it("does not see later tokens", () => {
      const model = initLlama(smallConfig(), { seed: 3, device })
      const [before] = logits(model, [[1, 5, 9, 13]])
      const [after] = logits(model, [[1, 5, 9, 60]])
      expect(largestDifference(before!.slice(0, 3).flat(), after!.slice(0, 3).flat())).toBe(0)
      expect(largestDifference(before![3]!, after![3]!)).toBeGreaterThan(1e-3)
    })

    it("gives padding no gradient, whatever it contains", () => {
      const model = initLlama(smallConfig({ tiedEmbeddings: false }), { seed: 3, device })
      const gradients = (filler: number): Array<number> => {
        scoped(() => {
          const mask = ids(maskLeft)
          const hidden = model.hidden(ids(padLeft(() => filler)), { attentionMask: mask })
          model
            .logits(hidden)
            .logSoftmax(-1)
            .select(2, 4)
            .mul(mask.to({ dtype: "float32" }))
            .sum()
            .backward()
        })
        const found = Object.values(model.parameters).flatMap((parameter) => scoped(() => parameter.grad()!.toNumbers()))
        clearGradients(Object.values(model.parameters))
        return found
      }
      expect(largestDifference(gradients(0), gradients(50))).toBeLessThanOrEqual(sameInFloat32)
    })

    it("in bfloat16 is close to itself in float32", () => {
      const exact = initLlama(smallConfig(), { seed: 3, device })
      const rounded = new Llama(
        exact.config,
        Object.fromEntries(Object.entries(exact.parameters).map(([name, weight]) => [name, weight.detach().to({ dtype: "bfloat16" })]))
      )
      expect(rounded.dtype).toBe("bfloat16")
      const mask = () => ({
        attentionMask: ids(maskLeft)
      })
      const [a, b] = [exact, rounded].map((model) =>
        logits(
          model,
          padLeft(() => 0),
          mask
        )
      )
      sequences.forEach((sequence, row) => {
        const tokens = (all: typeof a) => all![row]!.slice(length - sequence.length).flat()
        expect(largestDifference(tokens(a), tokens(b))).toBeLessThanOrEqual(bfloat16)
      })
    })

    it("without gradients keeps one layer's states, not all", () => {
      const kept = (layers: number) => {
        const model = initLlama(smallConfig({ layers }), { seed: 3, device })
        const read = () => model.hidden(ids([[1, 5, 9]]))
        scoped(() => noGrad(read)) // The rotation table is made and kept.
        return scoped(() => {
          const before = liveTensors()
          noGrad(read)
          return liveTensors() - before
        })
      }
      expect(kept(4)).toBe(kept(2))
    })

    it("rejects more tokens than its context, and two layouts at the same time", () => {
      const model = initLlama(smallConfig({ maxPositions: 8 }), { seed: 3, device })
      expect(() => logits(model, [Array.from({ length: 9 }, () => 1)])).toThrow("a sequence of 9 tokens exceeds the model's context of 8")
      expect(() => logits(model, [[1, 2]], () => ({ attentionMask: ids([[1, 1]]), segmentIds: ids([[0, 0]]) }))).toThrow("not both")
    })
  })
}

describe("a Llama", () => {
  it("rejects ids outside its vocabulary", () => {
    const model = initLlama(smallConfig(), { seed: 3 })
    expect(() => scoped(() => model.forward(tensor([[1, 61]], { dtype: "int64" })))).toThrow(/embedding.*ids from 0 to V - 1/)
  })
})

describe("a forward pass without gradients", () => {
  it("leaves no tensors of its blocks behind, however many there are", () => {
    const left = (layers: number) =>
      scoped(() =>
        noGrad(() => {
          const model = initLlama(smallConfig({ layers }), { seed: 1 })
          const rows = tensor(sequences.slice(0, 1), { dtype: "int64" })
          model.hidden(rows)
          const before = liveTensors()
          model.hidden(rows)
          return liveTensors() - before
        })
      )
    expect(left(5)).toBe(left(1))
  })
})

describe("new weights", () => {
  const weights = (seed: number, over = {}) => initLlama(smallConfig(over), { seed }).parameters

  it("depend only on the seed and the tensor's name", () => {
    const [first, again, other, deeper] = [weights(5), weights(5), weights(6), weights(5, { layers: 3 })]
    const name = "model.layers.1.mlp.up_proj.weight"
    expect(again[name]!.toTypedArray()).toEqual(first[name]!.toTypedArray())
    expect(deeper[name]!.toTypedArray()).toEqual(first[name]!.toTypedArray())
    expect(other[name]!.toTypedArray()).not.toEqual(first[name]!.toTypedArray())
    expect(first["model.layers.0.mlp.up_proj.weight"]!.toTypedArray()).not.toEqual(first[name]!.toTypedArray())
  })

  it("are normal with deviation 0.02, norms 1", () => {
    const { parameters } = initLlama(presets["260k"], { seed: 1 })
    const moments = (weight: Tensor) => {
      const numbers = weight.toNumbers()
      return {
        count: numbers.length,
        mean: numbers.reduce((a, b) => a + b, 0) / numbers.length,
        square: numbers.reduce((a, b) => a + b * b, 0) / numbers.length
      }
    }
    const { count, mean, square } = moments(parameters["model.embed_tokens.weight"]!)
    // Five standard errors of the mean and of the variance.
    expect(Math.abs(mean)).toBeLessThan((5 * 0.02) / Math.sqrt(count))
    expect(Math.abs(square / 0.02 ** 2 - 1)).toBeLessThan(5 * Math.sqrt(2 / count))
    expect(new Set(parameters["model.norm.weight"]!.toNumbers())).toEqual(new Set([1]))
  })
})
