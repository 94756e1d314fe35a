/** Combined rewards compared with PyTorch in float64 (tests/golden/rlhf-losses). */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { combineRewards, logit, whiten } from "../../../stages/reward/combined-reward.ts"
import { largestDifference } from "../../models/small.ts"
import { float64 } from "../../tolerances.ts"

interface Combined {
  readonly safety: ReadonlyArray<number>
  readonly helpfulness: ReadonlyArray<number>
  readonly is_safety_prompt: ReadonlyArray<boolean>
  readonly combined: ReadonlyArray<number>
  readonly logit: ReadonlyArray<number>
  readonly whitened: ReadonlyArray<number>
}
const golden = JSON.parse(readFileSync(new URL("../../golden/rlhf-losses/rlhf.json", import.meta.url), "utf8")) as Record<
  "combine" | "combine_gate",
  Combined
>

describe.each(["combine", "combine_gate"] as const)("the combined reward of %s", (name) => {
  const wanted = golden[name]
  const combined = wanted.safety.map((safety, i) =>
    combineRewards({ safety, helpfulness: wanted.helpfulness[i]!, isSafetyPrompt: wanted.is_safety_prompt[i]! })
  )
  it("is the safety score for safety prompts and below 0.15, otherwise the helpfulness score", () => {
    expect(combined).toEqual(wanted.combined)
  })
  it("has PyTorch's logit", () => {
    expect(largestDifference(combined.map(logit), wanted.logit)).toBeLessThanOrEqual(float64)
  })
  it("is whitened like PyTorch, with the population's variance", () => {
    expect(largestDifference(whiten(combined.map(logit)), wanted.whitened)).toBeLessThanOrEqual(float64)
  })
})

describe("the parts of a combined reward", () => {
  it("a safety score at the threshold passes, one just below does not", () => {
    const at = (safety: number) => combineRewards({ safety, helpfulness: 0.9, isSafetyPrompt: false, threshold: 0.5 })
    expect(at(0.5)).toBe(0.9)
    expect(at(0.5 - 2 ** -53)).toBe(0.5 - 2 ** -53)
  })
  it("equal values are whitened to 0, not to NaN", () => {
    expect(whiten([3, 3, 3])).toEqual([0, 0, 0])
    expect(whiten([])).toEqual([])
  })
  it("an invalid score is rejected and reported", () => {
    for (const score of [0, 1, -0.5, 2, NaN]) expect(() => logit(score)).toThrow(`above 0 and below 1, got ${score}`)
  })
})
