/**
 * BLEU of a sentence (Papineni et al. 2002) and Self-BLEU of several answers to one prompt (Zhu et al. 2018, Texygen), the measure of diversity in
 * Llama 2's figure 21: 1 if all answers are equal, 0 if they share no words.
 *
 *     BLEU = BP exp(1/N sum over n = 1 .. N of ln p_n),   p_n = clipped matches of n-grams / n-grams of the hypothesis
 *     BP   = 1 if the hypothesis is longer than the closest reference (on ties the shorter), else exp(1 - r/h)
 *
 * N is 4, or the hypothesis' length if that is less (sacreBLEU's effective order): a one-word answer repeated word for word has BLEU 1. An order
 * without a match counts as 0.1 of a match (Chen and Cherry 2014, smoothing 1), since otherwise one missing 4-gram would make the result 0; without a common word
 * it is 0 (sacreBLEU's sentence BLEU with smoothing "floor" 0.1). Tokens are those of common/words.ts: lower-case words, runs of digits, every
 * other character separately.
 */
import { mean } from "../common/statistics.ts"

type Tokens = ReadonlyArray<string>

const maxOrder = 4
/** The number of matches assumed for an order without any. */
export const missing = 0.1

/** The count of each n-gram; tokens contain no spaces. */
const ngrams = (tokens: Tokens, n: number): Map<string, number> => {
  const counts = new Map<string, number>()
  for (let i = 0; i + n <= tokens.length; i++) {
    const gram = tokens.slice(i, i + n).join(" ")
    counts.set(gram, (counts.get(gram) ?? 0) + 1)
  }
  return counts
}

/** The reference length closest to the hypothesis'; on ties the shorter. */
const closest = (length: number, references: ReadonlyArray<number>): number =>
  references.reduce((best, other) => {
    const [near, nearest] = [Math.abs(other - length), Math.abs(best - length)]
    return near < nearest || (near === nearest && other < best) ? other : best
  })

/** BLEU of a hypothesis of `length` tokens, from its clipped matches of orders 1, 2, .. and its references' lengths. */
const bleuOf = (length: number, matches: ReadonlyArray<number>, references: ReadonlyArray<number>): number => {
  const orders = Math.min(maxOrder, length)
  if (orders === 0 || matches[0] === 0) return 0
  let logs = 0
  for (let n = 1; n <= orders; n++) logs += Math.log(Math.max(matches[n - 1]!, missing) / (length - n + 1))
  const reference = closest(length, references)
  return Math.exp(logs / orders + Math.min(0, 1 - reference / length))
}

/** BLEU of one hypothesis against references: an n-gram's matches are limited to its highest count in any reference. Empty: 0. */
export const bleu = (hypothesis: Tokens, references: ReadonlyArray<Tokens>): number => {
  if (references.length === 0) throw new RangeError("bleu: expected at least one reference, got none")
  const matches = Array.from({ length: maxOrder }, (_, i) => {
    const counts = references.map((reference) => ngrams(reference, i + 1))
    return ngrams(hypothesis, i + 1)
      .entries()
      .reduce((sum, [gram, count]) => sum + Math.min(count, Math.max(...counts.map((reference) => reference.get(gram) ?? 0))), 0)
  })
  return bleuOf(
    hypothesis.length,
    matches,
    references.map((reference) => reference.length)
  )
}

/** The two highest counts of an n-gram in any one answer, and which answer has the highest: this determines the count in the others for every answer. */
interface Counts {
  first: number
  holder: number
  second: number
}

/**
 * Mean BLEU of each answer against all others. The cost is linear in the number of words (each n-gram is visited once), not quadratic in the number of
 * answers; only their lengths are compared pair by pair.
 */
export const selfBleu = (answers: ReadonlyArray<Tokens>): number => {
  if (answers.length < 2) throw new RangeError(`selfBleu: expected at least two answers, got ${answers.length}`)
  const matches = answers.map(() => new Array<number>(maxOrder).fill(0))
  for (let n = 1; n <= maxOrder; n++) {
    const counts = answers.map((answer) => ngrams(answer, n))
    const greatest = new Map<string, Counts>()
    counts.forEach((grams, answer) => {
      for (const [gram, count] of grams) {
        const seen = greatest.get(gram)
        if (seen === undefined) greatest.set(gram, { first: count, holder: answer, second: 0 })
        else if (count > seen.first) Object.assign(seen, { first: count, holder: answer, second: seen.first })
        else if (count > seen.second) seen.second = count
      }
    })
    counts.forEach((grams, answer) => {
      for (const [gram, count] of grams) {
        const { first, holder, second } = greatest.get(gram)!
        matches[answer]![n - 1]! += Math.min(count, holder === answer ? second : first)
      }
    })
  }
  return mean(
    answers.map((answer, i) =>
      bleuOf(
        answer.length,
        matches[i]!,
        answers.flatMap((other, j) => (j === i ? [] : [other.length]))
      )
    )
  )
}
