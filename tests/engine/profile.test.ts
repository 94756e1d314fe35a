import { describe, expect, it } from "vitest"
import { hasCuda } from "../../engine/device.ts"
import { profileGpu, summarise } from "../../engine/profile.ts"
import { scoped, zeros } from "../../engine/tensor.ts"

describe("a GPU's profile", () => {
  it("sums kernels by name, and counts gaps once if kernels overlap", () => {
    const profile = summarise([
      { name: "b", start: 30, duration: 10 },
      { name: "a", start: 0, duration: 10 },
      { name: "a", start: 5, duration: 10 },
      { name: "c", start: 6, duration: 2 }
    ])
    expect(profile).toEqual({
      microseconds: 40,
      idle: 15,
      kernels: [
        { name: "a", calls: 2, microseconds: 20 },
        { name: "b", calls: 1, microseconds: 10 },
        { name: "c", calls: 1, microseconds: 2 }
      ]
    })
  })
  it("is empty if nothing ran", () => expect(summarise([])).toEqual({ microseconds: 0, idle: 0, kernels: [] }))
  it.skipIf(hasCuda())("needs a GPU, and says so", () => {
    expect(() => profileGpu(() => {})).toThrow("profiling needs a GPU, and there is none")
  })
  it.skipIf(!hasCuda())("lists the kernels that ran, with their number of calls", () => {
    const { kernels, microseconds } = profileGpu(() =>
      scoped(() => {
        const a = zeros([512, 512], { dtype: "float32", device: "cuda" })
        for (let i = 0; i < 5; i++) a.matmul(a)
      })
    )
    expect(kernels.some(({ calls }) => calls === 5)).toBe(true)
    expect(microseconds).toBeGreaterThan(0)
  })
})
