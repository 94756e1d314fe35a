/** The CPU kernels compared with the same formulas written with plain operators in float64: values and gradients. */
import { describe, expect, it } from "vitest"
import { composedRmsNorm, composedSwiglu, inferenceLinear, inferenceWeight, isFused, rmsNorm, swiglu } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { linear, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { fused } from "../tolerances.ts"

type Numbers = Float64Array
const random = (seed: number, ...shape: ReadonlyArray<number>) => ({
  shape,
  data: Float64Array.from(
    { length: shape.reduce((a, b) => a * b, 1) },
    (
      (numbers) => () =>
        numbers.normal()
    )(new Random(seed, "test"))
  )
})

/** The largest difference of value and gradients between a form in float32 and one in float64, relative to numbers above 1. */
const difference = (
  inputs: ReadonlyArray<{ readonly shape: ReadonlyArray<number>; readonly data: Numbers }>,
  actual: (...inputs: ReadonlyArray<Tensor>) => Tensor,
  wanted: (...inputs: ReadonlyArray<Tensor>) => Tensor
): number => {
  const run = (form: typeof actual, dtype: "float32" | "float64"): Array<number> =>
    scoped(() => {
      const leaves = inputs.map(({ data, shape }) => tensor(data, { shape, dtype }).requiresGrad())
      const out = form(...leaves)
      // A different weight for every element, so that no gradient cancels.
      const pull = tensor(random(9, ...out.shape).data, { shape: out.shape, dtype })
      out.mul(pull).sum().backward()
      return [...out.detach().toNumbers(), ...leaves.flatMap((leaf) => leaf.grad()!.toNumbers())]
    })
  const [a, b] = [run(actual, "float32"), run(wanted, "float64")]
  expect(a.length).toBe(b.length)
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!) / Math.max(1, Math.abs(b[i]!))), 0)
}

describe("kernels for float32 on the CPU", () => {
  it.each([
    [3, 5],
    [1, 64],
    [7, 192]
  ])("normalise by the root of the mean square: %i x %i", (rows, dim) => {
    const most = difference(
      [random(1, rows, dim), random(2, dim)],
      (x, w) => rmsNorm(x, w, 1e-5),
      (x, w) => composedRmsNorm(x, w, 1e-5)
    )
    expect(most).toBeLessThanOrEqual(fused)
  })

  it.each([
    [3, 6],
    [1, 344],
    [5, 34]
  ])("gate: %i x %i", (rows, both) => {
    const wide = random(1, rows, both)
    // Some values far from 0, where an exponential overflows or vanishes.
    wide.data.forEach((x, i) => (wide.data[i] = i % 7 === 0 ? 40 * x : x))
    expect(
      difference(
        [wide],
        (x) => swiglu(x),
        (x) => composedSwiglu(x)
      )
    ).toBeLessThanOrEqual(fused)
  })

  it.each(
    [1, 2, 4, 5, 8, 13, 64].flatMap(
      (rows) =>
        [
          [rows, 7, 5],
          [rows, 64, 96],
          [rows, 30, 65]
        ] as const
    )
  )("multiply %i rows by a packed weight of %i x %i", (rows, dim, columns) => {
    const [x, weight] = [random(1, rows, dim), random(2, columns, dim)]
    const run = (dtype: "float32" | "float64") =>
      scoped(() =>
        noGrad(() => {
          const [a, b] = [tensor(x.data, { shape: x.shape, dtype }), tensor(weight.data, { shape: weight.shape, dtype })]
          expect(isFused(a)).toBe(dtype === "float32")
          return (dtype === "float32" ? inferenceLinear(a, inferenceWeight(b)) : linear(a, b)).toNumbers()
        })
      )
    const [actual, wanted] = [run("float32"), run("float64")]
    expect(actual.length).toBe(rows * columns)
    expect(actual.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0)).toBeLessThanOrEqual(fused)
  })

  it("keep the leading dimensions, and reject another width", () => {
    const weight = inferenceWeight(
      tensor([
        [1, 2],
        [3, 4],
        [5, 6]
      ])
    )
    const x = tensor([[[1, 1]], [[2, 0]]]) // (2, 1, 2)
    expect(inferenceLinear(x, weight).shape).toEqual([2, 1, 3])
    expect(inferenceLinear(x, weight).toNumbers()).toEqual([3, 7, 11, 2, 6, 10])
    expect(inferenceLinear(x.transpose(0, 1), weight).shape).toEqual([1, 2, 3])
    expect(() => inferenceLinear(tensor([[1, 2, 3]]), weight)).toThrow(/packed as \(1, 3, 32\)/)
  })
})
