/**
 * Suggests the closest candidate for a misspelt word: ' Did you mean "learningRate"?'; without a close one, lists all candidates if there are at most
 * `listed`.
 */
export const didYouMean = (word: string, candidates: Iterable<string>, listed = Infinity): string => {
  const all = [...candidates]
  let best: string | undefined
  let least = Math.max(2, Math.floor(word.length / 3)) + 1
  for (const candidate of all) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase())
    // Any two words of two letters are within the threshold, even without a common letter.
    if (distance < least && distance < Math.max(word.length, candidate.length)) {
      least = distance
      best = candidate
    }
  }
  if (best !== undefined) return ` Did you mean "${best}"?`
  return all.length === 0 || all.length > listed ? "" : ` Available: ${all.join(", ")}.`
}

/** Damerau-Levenshtein distance with adjacent transpositions. */
const editDistance = (a: string, b: string): number => {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => [i, ...new Array<number>(b.length).fill(0)])
  for (let j = 0; j <= b.length; j++) rows[0]![j] = j
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let distance = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, rows[i - 1]![j - 1]! + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) distance = Math.min(distance, rows[i - 2]![j - 2]! + 1)
      rows[i]![j] = distance
    }
  }
  return rows[a.length]![b.length]!
}
