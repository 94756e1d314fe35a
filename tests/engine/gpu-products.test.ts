/** Our products for few rows (native/gpu-products.h) compared with float64 products, on a Hopper GPU. */
import { afterEach, describe, expect, it } from "vitest"
import { composedSwiglu } from "../../engine/fused.ts"
import { environment } from "../../engine/device.ts"
import { Random } from "../../engine/random.ts"
import { atenVoid, full, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"
import { bfloat16Rounding } from "../tolerances.ts"

const gpu = devices.find(({ device }) => device === "cuda")!
const like = { dtype: "bfloat16", device: "cuda" } as const
/** Normal numbers; a large matrix repeats its first 100,003, a prime, so that no two of its rows are alike. */
const normal = (seed: number, rows: number, columns: number, deviation = 1): Tensor => {
  const random = new Random(seed, "gpu products")
  const numbers = Float32Array.from({ length: Math.min(rows * columns, 100_003) }, () => deviation * random.normal())
  return tensor(
    Float32Array.from({ length: rows * columns }, (_, i) => numbers[i % numbers.length]!),
    { shape: [rows, columns] }
  ).to(like)
}
const product = (x: Tensor, weight: Tensor, columns: number, gated: boolean): Tensor => {
  // Rows before and after must stay as they are.
  const rows = x.shape[0]!
  const room = full([rows + 2, columns], 7, like)
  const out = room.slice(0, 1, rows + 1)
  atenVoid("caravan::own_product_", x, weight, out, gated)
  for (const edge of [0, rows + 1]) expect(new Set(room.select(0, edge).toNumbers())).toEqual(new Set([7]))
  return out
}
const wide = (x: Tensor) => x.to({ device: "cpu", dtype: "float64" })
const expected = (x: Tensor, weight: Tensor, gated: boolean): Tensor => {
  const both = wide(x).matmul(wide(weight).transpose(0, 1))
  return gated ? composedSwiglu(both.to({ dtype: "bfloat16" }).to({ dtype: "float64" })) : both
}
/** The norm of the difference relative to the norm of what was expected. */
const away = (found: Tensor, wanted: Tensor): number => {
  const norm = (x: Tensor) => Math.sqrt(x.square().sum().item())
  return norm(wide(found).sub(wanted)) / norm(wanted)
}

describe.skipIf(gpu.skip || environment().gpuGeneration !== 9)("our products for few rows", () => {
  const choose = (columns: number, dim: number, gated: boolean, [tile, split, stages]: readonly [number, number, number]) =>
    atenVoid("caravan::choose_product", columns, dim, gated, tile, split, stages)
  const none = [0, 0, 0] as const
  // N, K, gated, and a plan: tile, split, stages.
  const shapes = [
    [2560, 2048, false, [128, 4, 5]],
    [768, 768, false, [48, 1, 8]],
    [1000, 328, false, [64, 2, 3]],
    [8, 8, false, [8, 1, 2]],
    [5632, 2048, true, [96, 1, 8]],
    [688, 256, true, [48, 4, 2]],
    [8, 24, true, [16, 1, 2]]
  ] as const
  it.each(shapes.flatMap(([columns, dim, gated, plan]) => [1, 17, 64].map((rows) => [rows, columns, dim, gated, plan] as const)))(
    "multiply %i rows: %i x %i, gated: %s",
    (rows, columns, dim, gated, plan) =>
      scoped(() => {
        choose(columns, dim, gated, plan)
        const [x, weight] = [normal(1, rows, dim), normal(2, gated ? 2 * columns : columns, dim, 0.05)]
        expect(away(product(x, weight, columns, gated), expected(x, weight, gated))).toBeLessThanOrEqual(bfloat16Rounding)
        choose(columns, dim, gated, none)
      })
  )
  it.each([
    [2560, 2048, false],
    [2048, 2048, false],
    [5632, 2048, true],
    [2048, 5632, false],
    [32_000, 2048, false],
    [12_288, 4096, false],
    [11_008, 4096, true],
    [4096, 11_008, false],
    [32_000, 4096, false]
  ] as const)("have a measured plan for %i x %i, gated: %s", (columns, dim, gated) =>
    scoped(() => {
      const [x, weight] = [normal(1, 64, dim), normal(2, gated ? 2 * columns : columns, dim, 0.05)]
      expect(away(product(x, weight, columns, gated), expected(x, weight, gated))).toBeLessThanOrEqual(bfloat16Rounding)
    })
  )

  const [columns, dim] = [1024, 1096]
  afterEach(() => {
    for (const gated of [false, true]) choose(columns, dim, gated, none)
  })
  const plans = [
    [8, 1, 2, false],
    [48, 1, 8, false],
    [128, 8, 4, false],
    [176, 4, 3, false],
    [256, 2, 5, false],
    [16, 8, 2, true],
    [176, 2, 4, true],
    [256, 1, 5, true]
  ] as const
  it.each(plans)("follow a plan: tile %i, split %i, stages %i, gated: %s", (tile, split, stages, gated) =>
    scoped(() => {
      choose(columns, dim, gated, [tile, split, stages])
      const [x, weight] = [normal(3, 40, dim), normal(4, gated ? 2 * columns : columns, dim, 0.05)]
      const found = product(x, weight, columns, gated)
      expect(away(found, expected(x, weight, gated))).toBeLessThanOrEqual(bfloat16Rounding)
      const numbers = found.toNumbers()
      for (let again = 0; again < 5; again++) expect(product(x, weight, columns, gated).toNumbers()).toEqual(numbers)
      // A row does not depend on the others, nor on how many there are.
      const row = product(x.slice(0, 11, 12), weight, columns, gated)
      expect(row.toNumbers()).toEqual(numbers.slice(11 * columns, 12 * columns))
    })
  )

  it("do not support more than 64 rows, other dtypes, shapes without a plan, or fewer rows than the plan is for", () =>
    scoped(() => {
      expect(() => product(normal(6, 4, 64), normal(5, 64, 64), 64, false)).toThrow("no product of our own")
      choose(64, 64, false, [8, 1, 2])
      const weight = normal(5, 64, 64)
      expect(() => product(normal(6, 65, 64), weight, 64, false)).toThrow("no product of our own")
      const x = normal(6, 4, 64).to({ dtype: "float32" })
      expect(() => atenVoid("caravan::own_product_", x, weight, normal(7, 4, 64), false)).toThrow("no product of our own")
      choose(64, 64, false, none)
      // The plans of 7B are for 16 rows or more.
      const down = normal(5, 4096, 11_008)
      expect(() => product(normal(6, 15, 11_008), down, 4096, false)).toThrow("no product of our own")
      product(normal(6, 16, 11_008), down, 4096, false)
    }))
})
