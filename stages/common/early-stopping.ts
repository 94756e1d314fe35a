/** Early stopping: decides from evaluations on held-out data when to stop and which weights to keep. */

/** Given the evaluations so far (greater is better): the best one, whether it is the last, and whether `patience` evaluations followed it without improvement. */
export const judgeEvaluations = (
  evaluations: ReadonlyArray<number>,
  patience: number
): { readonly best: number; readonly isLast: boolean; readonly stop: boolean } => {
  const best = evaluations.reduce((best, value, i) => (value > evaluations[best]! ? i : best), 0)
  return { best, isLast: best === evaluations.length - 1, stop: evaluations.length - 1 - best >= patience }
}
