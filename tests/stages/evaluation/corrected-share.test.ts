/** Shares corrected for errors. Rogan and Gladen's estimates are from the documentation of the R package epiR; the intervals are worked out with exact fractions. */
import { describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { correctedShare, type ErrorRates } from "../../../stages/evaluation/corrected-share.ts"

const errors = (positives: number, told: number, negatives: number, falseAlarms: number): ErrorRates => ({
  positives,
  told,
  negatives,
  falseAlarms
})

describe("a corrected share", () => {
  it("equals Rogan and Gladen's: 5.1% of 150 cows of which 23 are positive in a test with sensitivity .96 and specificity .89", () => {
    expect((100 * correctedShare(23 / 150, 150, errors(100, 96, 100, 11))!.mean).toFixed(1)).toBe("5.1")
  })
  it("is never below 0 or above 1: fewer positives than expected false alarms give 0", () => {
    expect(correctedShare(6 / 151, 151, errors(1000, 964, 1000, 73))).toMatchObject({ mean: 0, low: 0 })
    expect(correctedShare(0.92, 200, errors(100, 90, 100, 5))).toMatchObject({ mean: 1, high: 1 })
  })
  it("without errors is the share", () => {
    expect(correctedShare(0.25, 40, errors(1e9, 1e9, 1e9, 0))!.mean).toBeCloseTo(0.25, 8)
  })
  it.each([
    [23, 150, errors(100, 96, 100, 11), 0, 0.145668],
    [6, 151, errors(1000, 964, 1000, 73), 0, 0.017193],
    [30, 210, errors(240, 195, 210, 10), 0.055307, 0.199787],
    [150, 200, errors(240, 195, 210, 10), 0.820086, 1]
  ])("of %i of %i has Lang and Reiczigel's interval", (count, n, rates, low, high) => {
    const found = correctedShare(count / n, n, rates)!
    expect(found.low).toBeCloseTo(low, 6)
    expect(found.high).toBeCloseTo(high, 6)
  })
  it("is not given if the known errors are inconsistent with any share: 0 of 250, where one in twenty is a false alarm", () => {
    expect(correctedShare(0, 250, errors(240, 195, 210, 10))).toBeUndefined()
    expect(correctedShare(1, 250, errors(240, 195, 210, 10))).toBeUndefined()
    // With so few prompts there may have been none.
    expect(correctedShare(0, 25, errors(240, 195, 210, 10))).toMatchObject({ mean: 0, low: 0, high: expect.closeTo(0.143854, 6) as number })
  })
  it("is not given for a classifier no better than chance", () => {
    expect(correctedShare(0.5, 100, errors(10, 5, 10, 5))).toBeUndefined()
    expect(correctedShare(0.5, 100, errors(10, 2, 10, 9))).toBeUndefined()
  })
  it.each([
    [0.1, 210, 0.81, 0.95, 240, 210],
    [0.4, 100, 0.7, 0.9, 80, 80],
    [0.02, 400, 0.9, 0.98, 150, 300]
  ])("of a true %f has it within its interval in 95 of 100 studies", (truth, n, sensitivity, specificity, positives, negatives) => {
    const random = new Random(7, "studies", `${truth}`)
    const draw = (trials: number, chance: number) => {
      let count = 0
      for (let i = 0; i < trials; i++) if (random.next() < chance) count++
      return count
    }
    const studies = 2000
    let covered = 0
    for (let study = 0; study < studies; study++) {
      const observed = draw(n, truth * sensitivity + (1 - truth) * (1 - specificity)) / n
      const found = correctedShare(
        observed,
        n,
        errors(positives, draw(positives, sensitivity), negatives, draw(negatives, 1 - specificity))
      )
      if (found !== undefined && found.low <= truth && truth <= found.high) covered++
    }
    expect(covered / studies).toBeGreaterThan(0.935)
    expect(covered / studies).toBeLessThan(0.98)
  })
})
