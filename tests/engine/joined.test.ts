/** Linear layers with the same input as one product: values, gradients, and the position of their weights in memory. */
import { describe, expect, it } from "vitest"
import { joinedLinear, joinedWeight, joinWeights } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { aten, cat, linear, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"

const [rows, width] = [5, 6]
const numbers = (seed: number, count: number) =>
  Float64Array.from(
    { length: count },
    (
      () => () =>
        0
    )()
  ).map(
    (
      (random) => () =>
        random.normal()
    )(new Random(seed, "joined"))
  )

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`layers with the same input on ${device}`, () => {
    const make = (heights: ReadonlyArray<number>) => ({
      x: tensor(numbers(1, rows * width), { shape: [1, rows, width], dtype: "float64", device }).requiresGrad(),
      weights: heights.map((height, i) =>
        tensor(numbers(2 + i, height * width), { shape: [height, width], dtype: "float64", device }).requiresGrad()
      )
    })
    const pull = (y: Tensor) =>
      y
        .mul(tensor(numbers(9, y.elements), { shape: y.shape, dtype: "float64", device }))
        .sum()
        .backward()
    const found = ({ weights, x }: ReturnType<typeof make>) => [x, ...weights].map((leaf) => leaf.grad()!.toNumbers())

    it.each([[[4]], [[4, 2, 2]], [[3, 3]], [[1, 5, 2]]])(
      "with %j rows give the same outputs and gradients as separate layers",
      (heights) => {
        scoped(() => {
          const [apart, together, moved] = [make(heights), make(heights), make(heights)]
          joinWeights(moved.weights)
          const one = cat(
            apart.weights.map((weight) => linear(apart.x, weight)),
            -1
          )
          pull(one)
          for (const form of [together, moved]) {
            const y = joinedLinear(form.x, form.weights)
            expect(y.shape).toEqual(one.shape)
            pull(y)
            y.toNumbers().forEach((value, i) => expect(value).toBeCloseTo(one.toNumbers()[i]!, 12))
            found(form).forEach((gradient, which) =>
              gradient.forEach((value, i) => expect(value).toBeCloseTo(found(apart)[which]![i]!, 12))
            )
          }
        })
      }
    )

    it("give no gradient to frozen weights", () => {
      scoped(() => {
        const { weights, x } = make([2, 3])
        weights[0]!.requiresGrad(false)
        pull(joinedLinear(x, weights))
        expect(weights[0]!.grad()).toBeUndefined()
        expect(
          weights[1]!
            .grad()!
            .toNumbers()
            .some((value) => value !== 0)
        ).toBe(true)
      })
    })

    it("are adjacent in memory once joined: the product sees changes to either of them", () => {
      scoped(() => {
        const { weights, x } = make([2, 3])
        const before = weights.map((weight) => weight.toNumbers())
        joinWeights(weights)
        expect(weights.map((weight) => weight.toNumbers())).toEqual(before)
        const all = noGrad(() => joinedWeight(weights))
        noGrad(() => weights[1]!.add_(1))
        expect(all.toNumbers()).toEqual([...before[0]!, ...before[1]!.map((value) => value + 1)])
        noGrad(() => all.mul_(2))
        expect(weights[0]!.toNumbers()).toEqual(before[0]!.map((value) => 2 * value))
        // Joining them again leaves them in place.
        joinWeights(weights)
        noGrad(() => all.fill_(7))
        expect(weights.flatMap((weight) => weight.toNumbers())).toEqual(new Array(5 * width).fill(7))
        pull(joinedLinear(x, weights))
      })
    })

    it("are copied if they are not adjacent: the joined tensor is not a view", () => {
      scoped(() => {
        const { weights } = make([2, 3])
        const all = noGrad(() => joinedWeight(weights))
        noGrad(() => weights[0]!.fill_(0))
        expect(all.toNumbers().some((value) => value !== 0)).toBe(true)
        expect(
          all
            .toNumbers()
            .slice(0, 2 * width)
            .every((value) => value === 0)
        ).toBe(false)
      })
    })

    it("reject weights of other widths or dtypes", () => {
      scoped(() => {
        const wide = tensor(numbers(1, 8), { shape: [1, 8], dtype: "float64", device })
        const { weights, x } = make([2])
        expect(() => joinedLinear(x, [...weights, wide])).toThrow(/the same K, dtype and device/)
        expect(() => joinedLinear(x, [...weights, aten("to.dtype", weights[0], 6)])).toThrow(/the same K, dtype and device/)
      })
    })
  })
}
