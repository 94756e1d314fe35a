/** Both forms of an operation, the kernel and plain operators, compared with its formula in plain numbers: values and gradients, with and without a significant epsilon. */
import { describe, expect, it } from "vitest"
import { composedRmsNorm, composedSwiglu, rmsNorm, swiglu } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { scoped, tensor, type Tensor } from "../../engine/tensor.ts"

const [rows, dim, epsilon] = [3, 8, 1e-5]
const random = new Random(2, "forms")
const normal = (count: number) => Array.from({ length: count }, () => random.normal())
const weight = normal(dim).map((x) => 1 + 0.3 * x)
/** Weights of the output before it is summed, so that no gradient cancels. */
const pull = normal(rows * dim)

/** Value of the output followed by the gradients of the inputs. */
const run = (
  form: (...inputs: ReadonlyArray<Tensor>) => Tensor,
  dtype: "float32" | "float64",
  ...inputs: ReadonlyArray<readonly [ReadonlyArray<number>, ReadonlyArray<number>]>
) =>
  scoped(() => {
    const leaves = inputs.map(([numbers, shape]) => tensor(numbers, { shape, dtype }).requiresGrad())
    const out = form(...leaves)
    out
      .mul(
        tensor(
          pull.slice(
            0,
            out.shape.reduce((a, b) => a * b)
          ),
          { shape: out.shape, dtype }
        )
      )
      .sum()
      .backward()
    return [out.detach(), ...leaves.map((leaf) => leaf.grad()!)].map((found) => found.toNumbers())
  })
/** The largest difference relative to the largest expected number. */
const difference = (found: ReadonlyArray<ReadonlyArray<number>>, wanted: ReadonlyArray<ReadonlyArray<number>>): number =>
  Math.max(
    ...wanted.map((numbers, i) => {
      expect(found[i]!.length).toBe(numbers.length)
      return Math.max(...numbers.map((x, j) => Math.abs(x - found[i]![j]!))) / Math.max(...numbers.map(Math.abs))
    })
  )
const forms = [
  { name: "the kernel", dtype: "float32", near: 2e-5, norm: rmsNorm, gate: swiglu },
  { name: "plain operators in float32", dtype: "float32", near: 2e-5, norm: composedRmsNorm, gate: composedSwiglu },
  { name: "plain operators in float64", dtype: "float64", near: 1e-12, norm: rmsNorm, gate: swiglu }
] as const

describe.each(forms)("$name", ({ dtype, near, norm, gate }) => {
  // With x of size s the mean square is about s^2: up to 1e-3 it is less than epsilon, at 3e-3 about equal, from 1 on epsilon is negligible.
  it.each([1e-5, 1e-3, 3e-3, 1, 100])(
    "normalise numbers of size %f: x w / sqrt(mean(x^2) + epsilon), with epsilon inside the root",
    (size) => {
      const x = normal(rows * dim).map((one) => size * one)
      const value: Array<number> = []
      const ofX: Array<number> = []
      const ofWeight = weight.map(() => 0)
      for (let row = 0; row < rows; row++) {
        const own = x.slice(row * dim, (row + 1) * dim)
        const g = pull.slice(row * dim, (row + 1) * dim)
        const r = 1 / Math.sqrt(own.reduce((sum, one) => sum + one * one, 0) / dim + epsilon)
        // d/dx_j of sum_i g_i w_i x_i r: g_j w_j r - x_j r^3 / dim sum_i g_i w_i x_i.
        const along = own.reduce((sum, one, i) => sum + g[i]! * weight[i]! * one, 0)
        own.forEach((one, i) => {
          value.push(one * r * weight[i]!)
          ofX.push(g[i]! * weight[i]! * r - (one * r ** 3 * along) / dim)
          ofWeight[i]! += g[i]! * one * r
        })
      }
      const found = run((a, b) => norm(a, b, epsilon), dtype, [x, [rows, dim]], [weight, [dim]])
      expect(difference(found, [value, ofX, ofWeight])).toBeLessThanOrEqual(near)
    }
  )

  it.each([0.1, 1, 30])("gate numbers of size %f: silu of the first half times the second", (size) => {
    const x = normal(rows * 2 * dim).map((one) => size * one)
    const value: Array<number> = []
    const ofX = x.map(() => 0)
    for (let row = 0; row < rows; row++)
      for (let i = 0; i < dim; i++) {
        const [at, beside] = [row * 2 * dim + i, row * 2 * dim + dim + i]
        const [a, b, g] = [x[at]!, x[beside]!, pull[row * dim + i]!]
        const s = 1 / (1 + Math.exp(-a))
        value.push(a * s * b)
        ofX[at] = g * b * (s + a * s * (1 - s))
        ofX[beside] = g * a * s
      }
    expect(
      difference(
        run((a) => gate(a), dtype, [x, [rows, 2 * dim]]),
        [value, ofX]
      )
    ).toBeLessThanOrEqual(near)
  })
})
