/** Backward passes in segments give the same gradients as in one piece, bit for bit, whatever is recomputed. */
import { describe, expect, it } from "vitest"
import { accumulateGradients } from "../../engine/gradients.ts"
import { backward, segment } from "../../engine/segments.ts"
import { keep, liveTensors, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`segments on ${device}`, () => {
    const layers = 4
    const make = () =>
      Array.from({ length: layers }, (_, i) =>
        keep(
          tensor(
            [
              [0.3 + i, -0.7],
              [0.11, 0.5 * i]
            ],
            { device }
          )
        ).requiresGrad()
      )
    const parametersOf = (weights: ReadonlyArray<Tensor>) => Object.fromEntries(weights.map((weight, i) => [`w${i}`, weight]))
    /** A block that reads its input twice. */
    const block = (x: Tensor, weight: Tensor) => x.add(x.matmul(weight).tanh())
    const input = () =>
      tensor(
        [
          [0.25, -1.5],
          [2, 0.125],
          [-0.3, 0.7]
        ],
        { device }
      )
    const gradients = (weights: ReadonlyArray<Tensor>) => weights.map((weight) => scoped(() => weight.grad()?.toNumbers()))

    const inOnePiece = () => {
      const [first, ...weights] = make()
      scoped(() => weights.reduce(block, input().matmul(first!)).square().sum().backward())
      return gradients([first!, ...weights])
    }
    const inParts = (recompute: number, watch: (index: number) => void = () => {}) => {
      const [first, ...weights] = make()
      const before = liveTensors()
      accumulateGradients(
        parametersOf([first!, ...weights]),
        [0],
        () => {
          const start = input().matmul(first!)
          const end = weights.reduce(
            (x, weight, i) =>
              segment(i, x, (x) => {
                watch(i)
                return block(x, weight)
              }),
            start
          )
          backward(end.square().sum())
        },
        { recompute }
      )
      expect(liveTensors()).toBe(before)
      return gradients([first!, ...weights])
    }

    it.each([0, 1, 2, 3, 100])("give the gradients of the complete model, with %i of 3 recomputed", (recompute) => {
      const found = inParts(recompute)
      expect(found.flat().every((value) => value !== undefined && value !== 0)).toBe(true)
      expect(found).toEqual(inOnePiece())
    })
    it("recompute only the first ones, in reverse order", () => {
      const order: Array<number> = []
      inParts(2, (index) => order.push(index))
      expect(order).toEqual([0, 1, 2, 1, 0])
    })
    it("are computed normally outside of a training step, and if gradients are not recorded", () => {
      scoped(() => {
        const w = tensor([[2]], { device }).requiresGrad()
        const y = segment(0, w, (x) => x.mul(x))
        y.sum().backward()
        expect(w.grad()!.toNumbers()).toEqual([4])
        expect(noGrad(() => segment(0, w, (x) => x.mul(x))).hasGradient).toBe(false)
      })
    })
    it("pass nothing to an input without gradients", () => {
      const w = keep(tensor([[2]], { device })).requiresGrad()
      const frozen = keep(tensor([[3]], { device }))
      accumulateGradients({ w }, [0], () => backward(segment(0, frozen, (x) => x.matmul(w)).sum()), { recompute: 1 })
      expect(scoped(() => w.grad()!.toNumbers())).toEqual([3])
      expect(frozen.grad()).toBeUndefined()
    })
    it.each([0, 1])("that read only frozen tensors are skipped, with %i of them recomputed", (recompute) => {
      const w = keep(tensor([[2]], { device })).requiresGrad()
      const [frozen, x] = [keep(tensor([[5]], { device })), keep(tensor([[3]], { device }))]
      accumulateGradients(
        { w },
        [0],
        () => {
          const below = segment(0, x, (x) => x.matmul(frozen)) // 15
          backward(segment(1, below, (x) => x.matmul(w)).sum())
        },
        { recompute }
      )
      expect(scoped(() => w.grad()!.toNumbers())).toEqual([15])
      expect(frozen.grad()).toBeUndefined()
    })
    it("that the loss does not depend on contribute nothing", () => {
      const [a, b] = [keep(tensor([2], { device })).requiresGrad(), keep(tensor([5], { device })).requiresGrad()]
      accumulateGradients({ a }, [0], () => {
        segment(0, b, (x) => x.mul(x))
        backward(segment(0, a, (x) => x.mul(x)).sum())
      })
      expect(scoped(() => a.grad()!.toNumbers())).toEqual([4])
      expect(b.grad()).toBeUndefined()
    })
    it("detect a call of the loss's own backward()", () => {
      const w = keep(tensor([2], { device })).requiresGrad()
      const wrong = () =>
        accumulateGradients({ w }, [0], () =>
          segment(0, w, (x) => x.mul(x))
            .sum()
            .backward()
        )
      expect(wrong).toThrow(/pass the loss to backward\(\) of engine\/segments\.ts/)
    })
    it("of an earlier step that threw are discarded", () => {
      const w = keep(tensor([2], { device })).requiresGrad()
      const before = liveTensors()
      const broken = () =>
        accumulateGradients({ w }, [0], () => {
          segment(0, w, (x) => x.mul(x))
          throw new Error("no loss")
        })
      expect(broken).toThrow("no loss")
      expect(liveTensors()).toBe(before)
      accumulateGradients({ w }, [0], () => backward(segment(0, w, (x) => x.mul(x)).sum()))
      expect(scoped(() => w.grad()!.toNumbers())).toEqual([4])
    })
  })
}
