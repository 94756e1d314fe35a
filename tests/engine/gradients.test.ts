/** Gradients summed over micro-batches, and their norm. */
import { describe, expect, it, vi } from "vitest"
import { hasGpuKernels } from "../../engine/fused.ts"
import { accumulateGradients, clipGradientNorm, gradientNorm } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { keep, liveTensors, noGrad, scoped, Tensor, tensor, zeros } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"

/** Float32 has seven digits. */
const near = 1e-6

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`gradients of micro-batches on ${device}`, () => {
    const weight = (dtype: "bfloat16" | "float16" | "float32", size = 1) => keep(zeros([size], { dtype, device })).requiresGrad()
    /** Micro-batches with these numbers as gradients. */
    const add = (w: Tensor, gradients: ReadonlyArray<number>) =>
      accumulateGradients({ w }, gradients, (gradient) => w.sum().mul(gradient).backward())

    it.each(["bfloat16", "float16", "float32"] as const)("of %s weights are summed in float32", (dtype) => {
      const w = weight(dtype)
      // In bfloat16 256 + 1 is 256, in float16 2048 + 1 is 2048.
      add(w, new Array<number>(3000).fill(1))
      expect(w.grad()!.item()).toBe(3000)
      expect(w.grad()!.dtype).toBe("float32")
      // A single later micro-batch is added in float32 too.
      add(w, [1])
      expect(w.grad()!.item()).toBe(3001)
    })
    it("are unchanged if there is only one: in the dtype of the weights, without a copy", () => {
      const w = weight("bfloat16", 3)
      const before = liveTensors()
      add(w, [0.75])
      expect(liveTensors()).toBe(before)
      expect(w.grad()!.dtype).toBe("bfloat16")
      expect(w.grad()!.toNumbers()).toEqual([0.75, 0.75, 0.75])
    })
    it("may first appear with a later micro-batch", () => {
      const [a, b] = [weight("bfloat16"), weight("bfloat16")]
      const microBatches = Array.from({ length: 1000 }, (_, i) => i)
      const results = accumulateGradients({ a, b }, microBatches, (i) => {
        ;(i === 0 ? a.sum() : a.sum().add(b.sum())).backward()
        return i
      })
      expect([a.grad()!.item(), b.grad()!.item()]).toEqual([1000, 999])
      expect(results).toEqual(microBatches)
    })
    it("leave no tensor behind", () => {
      const w = weight("bfloat16")
      const before = liveTensors()
      add(w, [1, 2, 3])
      expect(liveTensors()).toBe(before)
    })

    it("in bfloat16 are converted one at a time for the optimiser's step and freed after it; a kernel reads them directly", () => {
      const parameters = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`w${i}`, weight("bfloat16", 8)]))
      const optimizer = new AdamW({ parameters })
      const sum = () =>
        Object.values(parameters)
          .map((w) => w.sum())
          .reduce((total, one) => total.add(one))
      accumulateGradients(parameters, [0], () => sum().backward())
      const before = liveTensors()
      const live: Array<number> = []
      const convert = Reflect.get(Tensor.prototype, "to")
      const spy = vi.spyOn(Tensor.prototype, "to").mockImplementation(function (this: Tensor, options) {
        live.push(liveTensors())
        return convert.call(this, options)
      })
      optimizer.step(1e-3)
      spy.mockRestore()
      const asTheyAre = hasGpuKernels(parameters["w0"]!)
      expect(live).toHaveLength(asTheyAre ? 0 : 20)
      expect(new Set(live).size).toBe(asTheyAre ? 0 : 1)
      expect(liveTensors()).toBe(before)
      optimizer.free()
    })
  })

  describe.skipIf(skip)(`the norm of bfloat16 gradients on ${device}`, () => {
    const withGradient = (numbers: ReadonlyArray<number>) => {
      const w = keep(zeros([numbers.length], { dtype: "bfloat16", device })).requiresGrad()
      scoped(() =>
        w
          .mul(tensor(numbers, { dtype: "bfloat16", device }))
          .sum()
          .backward()
      )
      return { w }
    }
    it("of no parameters is an error", () => {
      expect(() => gradientNorm({})).toThrow(/Computing the norm of gradients: expected at least one parameter, got none/)
    })
    it("is not rounded to bfloat16", () => {
      const parameters = withGradient([1, 1, 1]) // bfloat16 gives 1.734 for the root of 3
      expect(Math.abs(gradientNorm(parameters) / Math.sqrt(3) - 1)).toBeLessThan(near)
      expect(scoped(() => Math.abs(clipGradientNorm(parameters, 9).item() / Math.sqrt(3) - 1))).toBeLessThan(near)
    })
    it("is used for clipping, with a factor that is not rounded to bfloat16", () => {
      const numbers = scoped(() => noGrad(() => zeros([4096]).normal_(0, 1).to({ dtype: "bfloat16" }).toNumbers()))
      const norm = Math.hypot(...numbers)
      const parameters = withGradient(numbers)
      // bfloat16 gives 0.33398 for a third: 2e-3 too much. The 4096 products are rounded individually, in both directions.
      scoped(() => clipGradientNorm(parameters, norm / 3))
      expect(Math.abs(gradientNorm(parameters) / (norm / 3) - 1)).toBeLessThan(5e-4)
    })
  })
}
