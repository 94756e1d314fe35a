/** A tensor that was freed is known to be, however often its place was used again. */
import { describe, expect, it } from "vitest"
import { liveTensors, tensor } from "../../engine/tensor.ts"

describe("a tensor that was freed", () => {
  const wasFreed = "this tensor was freed"

  // The place that was freed last is the next to be taken: each of these stands where `freed` stood.
  it("never reads what stands in its place now, after 1, 2, 4, 8, ... 8,192 others stood there", () => {
    const freed = tensor([1])
    freed.free()
    const live = liveTensors()
    // Where a handle has b bits for how often its place was used, it means another tensor after 2^b uses.
    for (let count = 0, next = 1; next <= 2 ** 13; next *= 2) {
      for (; count < next - 1; count++) tensor([2]).free()
      const other = tensor([2])
      count++
      expect(() => freed.item(), `after ${count}`).toThrow(wasFreed)
      other.free()
    }
    expect(liveTensors()).toBe(live)
  })

  it("can't be freed again, with what stands in its place", () => {
    const freed = tensor([1])
    freed.free()
    for (let count = 1; count < 4096; count++) tensor([2]).free()
    const other = tensor([3])
    expect(() => freed.free()).toThrow(wasFreed)
    expect(other.item()).toBe(3)
    other.free()
  })
})
