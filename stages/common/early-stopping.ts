/** Early stopping: what the evaluations on held-out data say of when to end, and of what to keep. */

/** Evaluations so far, greater is better: which is the best, whether that is the last, and whether `patience` came after it without a better one. */
export const judgeEvaluations = (
  evaluations: ReadonlyArray<number>,
  patience: number
): { readonly best: number; readonly isLast: boolean; readonly stop: boolean } => {
  const best = evaluations.reduce((best, value, i) => (value > evaluations[best]! ? i : best), 0)
  return { best, isLast: best === evaluations.length - 1, stop: evaluations.length - 1 - best >= patience }
}
