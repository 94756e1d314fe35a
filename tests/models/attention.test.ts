/** The CPU kernels compared with the same formulas written with plain operators, in float64. */
import { describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { clearGradients, type Device, type DType, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import {
  type AttentionLayout,
  causalLayout,
  composedRotaryAttention,
  maskLayout,
  rotaryAttention,
  segmentLayout
} from "../../models/attention.ts"
import { positionsOfMask, RotaryTable, startsOfSegments } from "../../models/rotary.ts"
import { devices } from "../devices.ts"
import { bfloat16, fused } from "../tolerances.ts"
import { largestDifference, smallConfig } from "./small.ts"

const random = (shape: ReadonlyArray<number>, seed: number) => {
  const numbers = new Random(seed, "test")
  return tensor(
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => numbers.normal()),
    { shape }
  )
}

/** The largest difference of values and of gradients between both forms on the same numbers; `counts` (B, T) marks the queries whose results matter. */
const difference = (
  shape: { readonly batch: number; readonly length: number; readonly heads: number; readonly groups: number; readonly headDim: number },
  make: (dtype: "float32" | "float64") => { readonly layout: AttentionLayout; readonly positions?: Tensor; readonly counts?: Tensor }
) => {
  const { batch, length, heads, groups, headDim } = shape
  const table = new RotaryTable(smallConfig({ dim: heads * headDim, heads, kvHeads: groups, headDim, maxPositions: length }))
  const exact = random([batch, length, (heads + 2 * groups) * headDim], 1)
  const pull = random([batch, length, heads * headDim], 2)
  const run = (dtype: "float32" | "float64") =>
    scoped(() => {
      const qkv = exact.to({ dtype }).detach().clone().requiresGrad()
      const { layout, positions, counts } = make(dtype)
      const rotation = table.at("cpu", dtype, positions ?? length)
      const out =
        dtype === "float32"
          ? rotaryAttention(qkv, rotation, layout, heads, groups)
          : composedRotaryAttention(qkv, rotation, layout, heads, groups)
      const counted = counts === undefined ? out : out.mul(counts.to({ dtype }).unsqueeze(-1))
      counted.mul(pull.to({ dtype })).sum().backward()
      const result = { values: counted.detach().toNumbers(), gradient: qkv.grad()!.toNumbers() }
      clearGradients([qkv])
      return result
    })
  const actual = run("float32")
  const wanted = run("float64")
  return Math.max(largestDifference(actual.values, wanted.values), largestDifference(actual.gradient, wanted.gradient))
}

describe("attention on the CPU, values and gradients,", () => {
  const shapes = [
    { batch: 2, length: 17, heads: 6, groups: 2, headDim: 4 },
    { batch: 1, length: 5, heads: 4, groups: 4, headDim: 32 },
    { batch: 3, length: 33, heads: 4, groups: 1, headDim: 10 },
    { batch: 2, length: 1, heads: 2, groups: 1, headDim: 2 },
    { batch: 1, length: 64, heads: 3, groups: 3, headDim: 48 }
  ]
  it.each(shapes)("is causal attention: %o", (shape) => {
    const most = difference(shape, (dtype) => ({ layout: causalLayout(shape.length, dtype, "cpu") }))
    expect(most).toBeLessThanOrEqual(fused)
  })

  it.each(shapes.filter(({ length }) => length > 4))("ignores padding on the left and on the right: %o", (shape) => {
    const { batch, length } = shape
    const rows = Array.from({ length: batch }, (_, row) =>
      Array.from({ length }, (__, i) => ((row % 2 === 0 ? i >= row + 2 : i < length - 3) ? 1 : 0))
    )
    const most = difference(shape, (dtype) => {
      const mask = tensor(rows, { dtype: "int64" })
      return { layout: maskLayout(mask, dtype), positions: positionsOfMask(mask), counts: mask }
    })
    expect(most).toBeLessThanOrEqual(fused)
  })

  it("ignores padding in the middle, which no kernel supports", () => {
    const shape = { batch: 1, length: 6, heads: 2, groups: 1, headDim: 4 }
    const most = difference(shape, (dtype) => {
      const mask = tensor([[1, 1, 0, 0, 1, 1]], { dtype: "int64" })
      return { layout: maskLayout(mask, dtype), positions: positionsOfMask(mask), counts: mask }
    })
    expect(most).toBeLessThanOrEqual(fused)
  })

  it.each(shapes.filter(({ length }) => length > 4))("stays within its segment: %o", (shape) => {
    const { batch, length } = shape
    const rows = Array.from({ length: batch }, (_, row) => Array.from({ length }, (__, i) => (i < 3 + row ? 0 : i < length - 1 ? 1 : -1)))
    const most = difference(shape, (dtype) => {
      const segments = tensor(rows, { dtype: "int64" })
      const starts = startsOfSegments(segments)
      return { layout: segmentLayout(segments, starts, dtype) }
    })
    expect(most).toBeLessThanOrEqual(fused)
  })

  it("stays finite and exact when scores are large", () => {
    const shape = { batch: 1, length: 9, heads: 2, groups: 2, headDim: 4 }
    const table = new RotaryTable(smallConfig({ dim: 8, heads: 2, kvHeads: 2, headDim: 4, maxPositions: 9 }))
    scoped(() =>
      noGrad(() => {
        const exact = random([1, shape.length, 24], 3).mul(30)
        const run = (dtype: "float32" | "float64") => {
          const form = dtype === "float32" ? rotaryAttention : composedRotaryAttention
          return form(exact.to({ dtype }), table.at("cpu", dtype, shape.length), causalLayout(shape.length, dtype, "cpu"), 2, 2).toNumbers()
        }
        // Scores reach thousands, for which float32 has four decimals; values are about 30.
        expect(largestDifference(run("float32"), run("float64"))).toBeLessThanOrEqual(30 * 2e-3)
      })
    )
  })
})

const gpu = devices.find(({ device }) => device === "cuda")!
describe.skipIf(gpu.skip)("attention on a GPU, values and gradients,", () => {
  const shapes = [
    { batch: 2, length: 37, heads: 6, groups: 2, headDim: 8 },
    { batch: 3, length: 130, heads: 4, groups: 1, headDim: 64 },
    { batch: 1, length: 300, heads: 3, groups: 3, headDim: 128 },
    // Long rows of one sequence each use cuDNN.
    { batch: 2, length: 512, heads: 4, groups: 2, headDim: 64 },
    { batch: 1, length: 1023, heads: 2, groups: 2, headDim: 128 }
  ]
  const layouts = {
    causal: (shape: (typeof shapes)[number], dtype: DType, device: Device) => causalLayout(shape.length, dtype, device),
    padded: ({ batch, length }: (typeof shapes)[number], dtype: DType, device: Device) => {
      const rows = Array.from({ length: batch }, (_, row) => Array.from({ length }, (__, i) => (i >= 5 * row + 2 ? 1 : 0)))
      return maskLayout(tensor(rows, { dtype: "int64", device }), dtype)
    },
    packed: ({ batch, length }: (typeof shapes)[number], dtype: DType, device: Device) => {
      const rows = Array.from({ length: batch }, (_, row) =>
        Array.from({ length }, (__, i) => (i < 11 + row ? 0 : i < length - 4 ? 1 : -1))
      )
      const segments = tensor(rows, { dtype: "int64", device })
      return segmentLayout(segments, startsOfSegments(segments), dtype)
    }
  }
  const run = (shape: (typeof shapes)[number], name: keyof typeof layouts, device: Device, dtype: DType) =>
    scoped(() => {
      const { batch, groups, headDim, heads, length } = shape
      const table = new RotaryTable(smallConfig({ dim: heads * headDim, heads, kvHeads: groups, headDim, maxPositions: length }))
      const qkv = random([batch, length, (heads + 2 * groups) * headDim], 1)
        .to({ device, dtype })
        .detach()
        .requiresGrad()
      const pull = random([batch, length, heads * headDim], 2).to({ device, dtype })
      // The results for padding queries do not matter.
      const counts = Array.from({ length: batch }, (_, row) =>
        Array.from({ length }, (__, i) => (name === "padded" && i < 5 * row + 2 ? 0 : 1))
      )
      const out = rotaryAttention(qkv, table.at(device, dtype, length), layouts[name](shape, dtype, device), heads, groups)
      const counted = out.mul(tensor(counts, { device, dtype }).unsqueeze(-1))
      counted.mul(pull).sum().backward()
      return [counted.detach().toNumbers(), qkv.grad()!.toNumbers()]
    })
  it.each(shapes.flatMap((shape) => (["causal", "padded", "packed"] as const).map((name) => [name, shape] as const)))(
    "%s, gives the same as float64 on the CPU: %o",
    (name, shape) => {
      const wanted = run(shape, name, "cpu", "float64")
      for (const [dtype, near] of [
        ["float32", fused],
        ["bfloat16", bfloat16]
      ] as const) {
        const found = run(shape, name, "cuda", dtype)
        found.forEach((numbers, i) => expect(largestDifference(numbers, wanted[i]!)).toBeLessThanOrEqual(near))
        // The same numbers a second time, bit for bit.
        expect(run(shape, name, "cuda", dtype)[0]).toEqual(found[0])
      }
    }
  )
})

describe("positions", () => {
  it("count the preceding tokens except padding", () => {
    const positions = positionsOfMask(
      tensor(
        [
          [0, 0, 1, 1, 1],
          [1, 1, 1, 0, 0]
        ],
        { dtype: "int64" }
      )
    )
    expect(positions.toNumbers()).toEqual([0, 0, 0, 1, 2, 0, 1, 2, 2, 2])
  })

  it("restart in each segment", () => {
    const starts = startsOfSegments(
      tensor(
        [
          [0, 0, 1, 1, 1, -1],
          [4, 5, 5, 5, 6, 6]
        ],
        { dtype: "int64" }
      )
    )
    expect(starts.toNumbers()).toEqual([0, 0, 2, 2, 2, 5, 0, 1, 1, 1, 4, 4])
    expect(startsOfSegments(tensor([[3], [4]], { dtype: "int64" })).toNumbers()).toEqual([0, 0])
  })
})
