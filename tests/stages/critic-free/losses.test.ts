/** Advantages and losses of RLOO and GRPO compared with PyTorch in float64 (tests/golden/baselines), including gradients, and properties of their formulas. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { scoped, stack, tensor, type Tensor } from "../../../engine/tensor.ts"
import { groupRelativeAdvantages, groupsOf, isConstant, leaveOneOutAdvantages } from "../../../stages/critic-free/advantages.ts"
import { grpoLoss, rlooLoss } from "../../../stages/critic-free/losses.ts"
import { largestDifference } from "../../models/small.ts"
import { float64 } from "../../tolerances.ts"

type Rows = ReadonlyArray<ReadonlyArray<number>>
interface Case {
  readonly advantages: ReadonlyArray<number>
  readonly loss: number
  readonly gradient: Rows
}
const golden = JSON.parse(readFileSync(new URL("../../golden/baselines/losses.json", import.meta.url), "utf8")) as Readonly<
  Record<"beta" | "clip" | "groupSize", number> &
    Record<"rewards" | "kl", ReadonlyArray<number>> &
    Record<"new" | "old" | "reference", Rows>
> & {
  readonly rloo: Case
  readonly grpo: ReadonlyArray<Case & { readonly scale: "deviation" | "none"; readonly klGradient: "k3" | "unbiased" }>
}
const { beta, clip, groupSize } = golden
const wide = (values: ReadonlyArray<number>): Tensor => tensor(Float64Array.from(values))
const sums = (rows: Rows): ReadonlyArray<number> => rows.map((row) => row.reduce((a, b) => a + b, 0))
const responses = golden.new.length

/** Loss and the gradient of every token's log-probability. */
const differentiated = (loss: (logProbabilities: Tensor) => Tensor) =>
  scoped(() => {
    const now = wide(golden.new.flat()).requiresGrad()
    const value = loss(now).div(responses)
    value.backward()
    return { loss: value.item(), gradient: now.grad()!.toNumbers() }
  })

describe("RLOO's numbers equal PyTorch's in float64, and TRL's", () => {
  const rewards = golden.rewards.map((reward, i) => reward - beta * golden.kl[i]!)
  const advantages = groupsOf(rewards, groupSize).flatMap(leaveOneOutAdvantages)
  it("advantages: the reward minus beta times the KL, minus the mean of the others", () => {
    expect(largestDifference(advantages, golden.rloo.advantages)).toBeLessThanOrEqual(float64)
  })
  it("the loss and its gradient, with responses on either side of the clip", () => {
    const ours = differentiated((now) => {
      const whole = stack(
        now
          .split(
            golden.new.map(({ length }) => length),
            0
          )
          .map((part) => part.sum()),
        0
      )
      return rlooLoss(whole, wide(sums(golden.old)), wide(advantages), clip)
    })
    expect(Math.abs(ours.loss - golden.rloo.loss)).toBeLessThanOrEqual(float64)
    expect(largestDifference(ours.gradient, golden.rloo.gradient.flat())).toBeLessThanOrEqual(float64)
    // Some responses' gradients are clipped away, and others are not.
    expect(new Set(golden.rloo.gradient.map((row) => row[0] === 0)).size).toBe(2)
  })
})

describe.each(golden.grpo.map((one) => [`${one.scale}, ${one.klGradient}`, one] as const))(
  "GRPO's numbers (%s) equal PyTorch's in float64, and TRL's",
  (_, wanted) => {
    const advantages = groupsOf(golden.rewards, groupSize).flatMap((group) => groupRelativeAdvantages(group, wanted.scale))
    it("advantages", () => {
      expect(largestDifference(advantages, wanted.advantages)).toBeLessThanOrEqual(float64)
    })
    it("the loss and its gradient: the mean over responses of the mean over their tokens", () => {
      const perToken = (of: (response: number) => number) => wide(golden.new.flatMap((row, i) => row.map(() => of(i))))
      const ours = differentiated((now) =>
        grpoLoss(
          now,
          {
            old: wide(golden.old.flat()),
            reference: wide(golden.reference.flat()),
            advantages: perToken((i) => advantages[i]!),
            weights: perToken((i) => 1 / golden.new[i]!.length)
          },
          { clip, beta, klGradient: wanted.klGradient }
        )
      )
      expect(Math.abs(ours.loss - wanted.loss)).toBeLessThanOrEqual(float64)
      expect(largestDifference(ours.gradient, wanted.gradient.flat())).toBeLessThanOrEqual(float64)
    })
  }
)

describe("the KL in GRPO's loss", () => {
  const random = new Random(4, "categoricals")
  const softmax = (logits: ReadonlyArray<number>) => {
    const total = logits.reduce((sum, x) => sum + Math.exp(x), 0)
    return logits.map((x) => Math.exp(x) / total)
  }
  const [logits, start] = [1, 2].map(() => Array.from({ length: 6 }, () => random.normal())) as [Array<number>, Array<number>]
  const [pi, reference] = [softmax(logits), softmax(start)]
  /** The expected gradient with respect to the logits, over all tokens weighted by pi's probabilities: no sampling error. */
  const expectedGradient = (klGradient: "k3" | "unbiased") =>
    scoped(() => {
      const leaf = wide(logits).requiresGrad()
      const now = leaf.logSoftmax(-1)
      const [old, none] = [wide(pi.map(Math.log)), wide(pi.map(() => 0))]
      grpoLoss(
        now,
        { old, reference: wide(reference.map(Math.log)), advantages: none, weights: wide(pi) },
        { clip, beta: 1, klGradient }
      ).backward()
      return leaf.grad()!.toNumbers()
    })
  it("has with k3 the gradient of KL(reference || pi), the reverse of the KL that its value estimates", () => {
    const wanted = pi.map((p, i) => p - reference[i]!)
    expect(largestDifference(expectedGradient("k3"), wanted)).toBeLessThanOrEqual(float64)
  })
  it("has the gradient of KL(pi || reference) if it is unbiased", () => {
    const kl = pi.reduce((sum, p, i) => sum + p * Math.log(p / reference[i]!), 0)
    const wanted = pi.map((p, i) => p * (Math.log(p / reference[i]!) - kl))
    expect(largestDifference(expectedGradient("unbiased"), wanted)).toBeLessThanOrEqual(float64)
    expect(largestDifference(expectedGradient("k3"), wanted)).toBeGreaterThan(0.01)
  })
})

describe("advantages of a group", () => {
  it("are each reward minus the mean of the others, and sum to 0", () => {
    expect(leaveOneOutAdvantages([1, 2, 6])).toEqual([-3, -1.5, 4.5])
  })
  it("of GRPO without the division are RLOO's times (G - 1) / G", () => {
    const rewards = [0.3, -1, 2, 0.7]
    const wanted = leaveOneOutAdvantages(rewards).map((x) => (x * 3) / 4)
    expect(largestDifference(groupRelativeAdvantages(rewards, "none"), wanted)).toBeLessThanOrEqual(float64)
  })
  it("that differ only by rounding are not amplified, and the group counts as constant", () => {
    const rewards = [0.5, 0.5 + 1e-7, 0.5 - 1e-7]
    expect(Math.max(...groupRelativeAdvantages(rewards, "deviation").map(Math.abs))).toBeLessThan(0.01)
    expect([isConstant(rewards), isConstant([0, 1e-5])]).toEqual([true, false])
  })
  it.each([leaveOneOutAdvantages, (rewards: ReadonlyArray<number>) => groupRelativeAdvantages(rewards, "deviation")])(
    "are rejected for a single response, and for a NaN reward",
    (advantages) => {
      expect(() => advantages([1])).toThrow("expected the rewards of at least two responses to a prompt, got 1")
      expect(() => advantages([1, NaN, 2])).toThrow("expected finite rewards, got NaN for response 2 of 3")
    }
  )
  it("are rejected for a number of rewards that is not a multiple of the group size", () => {
    expect(() => groupsOf([1, 2, 3], 2)).toThrow("expected complete groups of 2 responses, got 3 responses")
    expect(() => groupsOf([], 2)).toThrow("got 0 responses")
  })
})
