/** Energy and carbon by the paper's method: its table 2. */
import { expect, it } from "vitest"
import { carbonKg, energyKwh } from "../../models/cost.ts"

it.each([
  // GPU-hours, watts, tonnes of CO2 equivalent
  ["7B", 184_320, 400, 31.22],
  ["13B", 368_640, 400, 62.44],
  ["34B", 1_038_336, 350, 153.9],
  ["70B", 1_720_320, 400, 291.42]
])("the carbon of %s is table 2's", (_, hours, watts, tonnes) => {
  expect(Math.abs(carbonKg(hours, watts) / 1000 - tonnes)).toBeLessThanOrEqual(0.01)
  expect(energyKwh(hours, watts)).toBe((hours * watts) / 1000)
})
