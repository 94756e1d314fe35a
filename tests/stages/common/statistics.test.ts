/** Statistics of evaluations, compared with values worked out by hand, by enumeration, and by simulation. */
import { describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { bleu, selfBleu } from "../../../stages/evaluation/bleu.ts"
import {
  bootstrapMean,
  correlation,
  expectedMax,
  mean,
  pairedBootstrap,
  ranks,
  spearman,
  standardError,
  unitHistogram,
  studentMean
} from "../../../stages/common/statistics.ts"
import { float64 } from "../../tolerances.ts"

const close = (value: number | null, expected: number) => {
  expect(value).not.toBeNull()
  expect(Math.abs(value! - expected)).toBeLessThanOrEqual(float64)
}

describe("Student's interval", () => {
  it("of three values has t with two degrees of freedom; of one value there is none", () => {
    // Mean 2, standard error 1 / sqrt 3, t = 4.303.
    const { high, low, mean } = studentMean([1, 2, 3])
    expect([low, mean, high]).toEqual([expect.closeTo(2 - 4.303 / Math.sqrt(3), 12), 2, expect.closeTo(2 + 4.303 / Math.sqrt(3), 12)])
    expect(() => studentMean([1])).toThrow("expected at least two values, got 1")
  })
})

describe("the paired bootstrap", () => {
  it("is of the mean difference: with two prompts a resample consists of one of them with probability 1/4", () => {
    expect(pairedBootstrap([3, 1], [1, 2], 7)).toEqual({ mean: 0.5, low: -1, high: 2 })
  })
  it("changes sign with its sides", () => {
    const [a, b] = [
      [0.1, 0.9, 0.4, 0.7, 0.3],
      [0.2, 0.4, 0.4, 0.1, 0.6]
    ]
    close(pairedBootstrap(a, b, 7).mean, 0.14)
    close(pairedBootstrap(b, a, 7).mean, -0.14)
  })
  it("cancels what both sides share: prompts that are hard for both do not widen the interval", () => {
    const random = new Random(3, "hard prompts")
    const theirs = Array.from({ length: 100 }, () => 10 * random.normal())
    const ours = theirs.map((value) => value + 0.25 + 0.1 * random.normal())
    const { low, high } = pairedBootstrap(ours, theirs, 7)
    expect(low).toBeGreaterThan(0.2)
    expect(high).toBeLessThan(0.3)
    // Each side's own interval is a hundred times as wide.
    const own = bootstrapMean(ours, 7)
    expect(own.high - own.low).toBeGreaterThan(30 * (high - low))
  })
  it("contains the true difference in about 95 of 100 samples of normal values, and of skewed shares", () => {
    const cover = (draw: (random: Random) => number, truth: number, trials = 300) => {
      let held = 0
      for (let trial = 0; trial < trials; trial++) {
        const random = new Random(trial, "coverage")
        const theirs = Array.from({ length: 60 }, () => draw(random))
        const ours = theirs.map((value) => value + truth + draw(random))
        const { low, high } = pairedBootstrap(ours, theirs, trial, 400)
        if (low <= truth && truth <= high) held++
      }
      return held / trials
    }
    // 60 differences: the percentile interval covers slightly less than 95% (about 94%). Three deviations of 300 coins of 0.94 are 0.041.
    for (const rate of [cover((random) => random.normal(), 0.3), cover((random) => (random.next() < 0.2 ? 0.8 : -0.2), -0.1)]) {
      expect(rate).toBeGreaterThan(0.895)
      expect(rate).toBeLessThan(0.985)
    }
  })
  it("is the same for the same seed, and rejects unpaired sides", () => {
    const [a, b] = [Array.from({ length: 30 }, (_, i) => i ** 1.5), Array.from({ length: 30 }, (_, i) => 3 * i)]
    expect(pairedBootstrap(a, b, 1)).toEqual(pairedBootstrap(a, b, 1))
    expect(pairedBootstrap(a, b, 1)).not.toEqual(pairedBootstrap(a, b, 2))
    expect(() => pairedBootstrap([1, 2], [1], 1)).toThrow("got 2 and 1")
    expect(() => pairedBootstrap([], [], 1)).toThrow("got 0 and 0")
  })
})

describe("the expected maximum of n among K", () => {
  it("is the mean over all subsets of n", () => {
    const values = [2, -1, 7, 2, 0.5, 4]
    for (let n = 1; n <= values.length; n++) {
      const greatest = Array.from({ length: 2 ** values.length }, (_, bits) => values.filter((_, i) => (bits >> i) & 1))
        .filter((subset) => subset.length === n)
        .map((subset) => Math.max(...subset))
      close(expectedMax(values, n), mean(greatest))
    }
  })
  it("of 1 is the mean, of all the maximum, of 2 among 1, 2, 3 is 8/3", () => {
    close(expectedMax([1, 2, 6], 1), 3)
    expect(expectedMax([6, 1, 2], 3)).toBe(6)
    close(expectedMax([3, 1, 2], 2), (2 + 3 + 3) / 3)
    expect(expectedMax([5], 1)).toBe(5)
  })
  it("is unbiased: over many samples of K uniform numbers its mean is that of the maximum of n, n / (n + 1)", () => {
    const random = new Random(5, "uniform")
    for (const n of [2, 5]) {
      const found = Array.from({ length: 4000 }, () =>
        expectedMax(
          Array.from({ length: 10 }, () => random.next()),
          n
        )
      )
      expect(Math.abs(mean(found) - n / (n + 1))).toBeLessThan(4 * standardError(found))
      expect(standardError(found)).toBeLessThan(0.003)
    }
  })
  it("stays exact with many samples: K = 1000 equal ones", () => {
    close(expectedMax(new Array<number>(1000).fill(1.5), 100), 1.5)
  })
  it("of none, of more than there are, or of a half is rejected", () => {
    for (const n of [0, 4, 1.5]) expect(() => expectedMax([1, 2, 3], n)).toThrow("from 1 to 3")
  })
})

describe("rank correlation", () => {
  it("ranks from 1, with the mean rank for equal values", () => {
    expect(ranks([30, 10, 20])).toEqual([3, 1, 2])
    // 5, 5 have ranks 2 and 3; the three 9s ranks 4, 5, 6.
    expect(ranks([9, 5, 9, 1, 5, 9])).toEqual([5, 2.5, 5, 1, 2.5, 5])
    expect(ranks([])).toEqual([])
  })
  it("is 1 for any increasing relation, -1 for any decreasing one", () => {
    close(spearman([1, 2, 3, 4], [1, 10, 11, 1000]), 1)
    close(spearman([1, 2, 3, 4], [8, 4, 2, 1]), -1)
  })
  it("without ties is 1 - 6 sum d^2 / (n (n^2 - 1))", () => {
    // Ranks 1 2 3 4 5 and 2 1 4 3 5: d^2 = 1 + 1 + 1 + 1 + 0 = 4; 1 - 24 / 120 = 0.8
    close(spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]), 0.8)
  })
  it("with ties is Pearson's of the ranks, where that formula does not hold", () => {
    // Ranks 1 2.5 2.5 4 and 1 2 3 4: covariance 2.25 + 0 + 0 + 2.25 = 4.5, squares 4.5 and 5: 4.5 / sqrt(22.5). The formula would give 0.95.
    close(spearman([1, 2, 2, 3], [1, 2, 3, 4]), 4.5 / Math.sqrt(22.5))
  })
  it("is undefined if one side does not vary, and needs two sides of equal length", () => {
    expect(spearman([1, 1, 1], [1, 2, 3])).toBeNull()
    expect(spearman([], [])).toBeNull()
    expect(() => correlation([1], [1, 2])).toThrow("got 1 and 2")
  })
})

describe("a histogram of scores", () => {
  it("counts an edge in the bin above it, and 1 in the last", () => {
    expect(unitHistogram([0, 0.24, 0.25, 0.5, 0.99, 1], 4)).toEqual([2, 1, 1, 2])
  })
  it("rejects invalid scores", () => {
    expect(() => unitHistogram([1.01], 4)).toThrow("got 1.01")
    expect(() => unitHistogram([Number.NaN], 4)).toThrow("got NaN")
  })
})

const tokens = (text: string) => text.split(" ").filter((word) => word !== "")

describe("BLEU", () => {
  // sacreBLEU 2.6.0: BLEU(smooth_method="floor", smooth_value=0.1, effective_order=True, tokenize="none").sentence_score(..).score / 100
  it.each([
    ["the cat sat on the mat", ["the cat is on the mat", "there is a cat on the mat"], 0.2540663740773073],
    ["a b c d e f", ["a b c d x y", "c d e f"], 0.9036020036098453],
    ["yes", ["yes", "no"], 1],
    ["a a a a", ["a b a", "b a a a c"], 0.39763536438352537],
    ["a b c", ["a b c d e f g"], 0.2635971381157268],
    ["x y z w v", ["a b c d e"], 0]
  ])("of %j equals sacreBLEU's", (hypothesis, references, expected) => close(bleu(tokens(hypothesis), references.map(tokens)), expected))
  it("is the geometric mean of clipped precisions, 0.1 for an order without a match", () => {
    // 5 of 6 words ("the" at most twice), 3 of 5 pairs (the cat, on the, the mat), 1 of 4 triples (on the mat), none of 3; as long as the closest.
    const expected = ((5 / 6) * (3 / 5) * (1 / 4) * (0.1 / 3)) ** 0.25
    close(bleu(tokens("the cat sat on the mat"), [tokens("the cat is on the mat"), tokens("there is a cat on the mat")]), expected)
  })
  it("falls if the hypothesis is shorter than the closest reference: 3 words compared with 7 keep exp(1 - 7/3)", () => {
    close(bleu(tokens("a b c"), [tokens("a b c d e f g")]), Math.exp(1 - 7 / 3))
    // Of one longer and one shorter reference, the shorter: no penalty.
    close(bleu(tokens("a b c"), [tokens("a b c d"), tokens("a b")]), 1)
    close(bleu(tokens("a b c"), [tokens("a b"), tokens("a b c d")]), 1)
  })
  it("of no words is 0, and without references is rejected", () => {
    expect(bleu([], [["a"]])).toBe(0)
    expect(() => bleu(["a"], [])).toThrow("got none")
  })
})

describe("Self-BLEU", () => {
  const answers = ["the cat sat on the mat", "the dog sat on the mat", "a cat sat", "no", "the the cat on a mat ."].map(tokens)
  it("is the mean BLEU of each answer compared with the others: sacreBLEU's", () => {
    close(selfBleu(answers), 0.3273126983089149)
  })
  it("counts in one pass what BLEU counts answer by answer, with any repetitions", () => {
    const random = new Random(9, "answers")
    for (let trial = 0; trial < 30; trial++) {
      const some = Array.from({ length: 2 + random.int(6) }, () => Array.from({ length: 1 + random.int(12) }, () => "abc"[random.int(3)]!))
      const each = some.map((answer, i) =>
        bleu(
          answer,
          some.filter((_, j) => j !== i)
        )
      )
      close(selfBleu(some), mean(each))
    }
  })
  it("is 1 for equal answers, however short, and 0 for answers without common words", () => {
    close(selfBleu([["yes"], ["yes"], ["yes"]]), 1)
    close(selfBleu([tokens("a b c d e"), tokens("a b c d e")]), 1)
    expect(selfBleu([tokens("a b c d e"), tokens("f g h i j")])).toBe(0)
  })
  it("of a hundred answers of a thousand words is fast: linear in words, not in pairs of answers", () => {
    const random = new Random(9, "long answers")
    const many = Array.from({ length: 100 }, () => Array.from({ length: 1000 }, () => `w${random.int(500)}`))
    expect(selfBleu(many)).toBeGreaterThan(0)
  }, 10_000)
  it("of one answer is rejected", () => {
    expect(() => selfBleu([["a"]])).toThrow("got 1")
  })
})
