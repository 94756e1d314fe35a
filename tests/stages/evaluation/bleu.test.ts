/** BLEU worked out by hand (Papineni et al. 2002): short hypotheses are penalised, long ones are not. */
import { describe, expect, it } from "vitest"
import { bleu } from "../../../stages/evaluation/bleu.ts"

const words = (text: string) => text.split(" ")

describe("BLEU", () => {
  it.each([
    // Both words and the pair match; two words for three: exp(1 - 3 / 2).
    ["a b", ["a b c"], Math.exp(-1 / 2)],
    // Of three words two match, of two pairs one, of one triple none, which counts as 0.1; longer than the reference: no penalty.
    ["a b c", ["a b"], (2 / 3 / 2 / 10) ** (1 / 3)],
    // The nearest length counts, and the shorter of two equally near: 2 of 2 and 4, so no penalty. All matches are in the longer one.
    ["a b c", ["a b c d", "x y"], 1],
    // A word matches as often as in the reference with the most occurrences: two of three; pairs one of two; no triple.
    ["a a a", ["a a", "a b"], (2 / 3 / 2 / 10) ** (1 / 3)]
  ])("of %j compared with %j is %f", (hypothesis, references, wanted) => {
    expect(bleu(words(hypothesis), references.map(words))).toBeCloseTo(wanted, 12)
  })
})
