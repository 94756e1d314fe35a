/** A freed tensor is detected, however often its slot was reused. */
import { describe, expect, it } from "vitest"
import { liveTensors, tensor } from "../../engine/tensor.ts"

describe("a freed tensor", () => {
  const wasFreed = "this tensor was freed"

  // The slot freed last is reused first: each of these takes the slot of `freed`.
  it("never reads the tensor that reuses its slot, after 1, 2, 4, 8, ... 8,192 others", () => {
    const freed = tensor([1])
    freed.free()
    const live = liveTensors()
    // With b bits for a slot's generation, a handle would refer to another tensor after 2^b uses.
    for (let count = 0, next = 1; next <= 2 ** 13; next *= 2) {
      for (; count < next - 1; count++) tensor([2]).free()
      const other = tensor([2])
      count++
      expect(() => freed.item(), `after ${count}`).toThrow(wasFreed)
      other.free()
    }
    expect(liveTensors()).toBe(live)
  })

  it("can't be freed again together with the tensor that reuses its slot", () => {
    const freed = tensor([1])
    freed.free()
    for (let count = 1; count < 4096; count++) tensor([2]).free()
    const other = tensor([3])
    expect(() => freed.free()).toThrow(wasFreed)
    expect(other.item()).toBe(3)
    other.free()
  })
})
