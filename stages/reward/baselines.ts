/**
 * How well preference pairs can be predicted without a language model: from the responses' lengths, and from their words. A reward model that is no better has
 * learnt nothing more.
 */
import { words } from "../common/words.ts"

export interface ResponsesOfPair {
  readonly chosen: string
  readonly rejected: string
}

/** Whether the pair is ordered correctly: 1 yes, 0 no, 1/2 for a tie. */
export type PairScorer = (pair: ResponsesOfPair) => number

const scoreOfMargin = (margin: number): number => (margin > 0 ? 1 : margin < 0 ? 0 : 0.5)

export const total = (score: PairScorer, pairs: ReadonlyArray<ResponsesOfPair>): number => pairs.reduce((sum, pair) => sum + score(pair), 0)

// ---- length

/** Prefers the longer or the shorter response, in characters: whichever is right more often on the training pairs (longer on a tie). */
export const fitLength = (
  train: ReadonlyArray<ResponsesOfPair>
): { readonly prefers: "longer" | "shorter"; readonly score: PairScorer } => {
  const longer: PairScorer = ({ chosen, rejected }) => scoreOfMargin(chosen.length - rejected.length)
  const shorter: PairScorer = (pair) => 1 - longer(pair)
  return total(longer, train) >= train.length / 2 ? { prefers: "longer", score: longer } : { prefers: "shorter", score: shorter }
}

// ---- words

/** A row of a sparse matrix: the indices of its non-zero columns, and their values. */
export interface SparseRow {
  readonly columns: ReadonlyArray<number>
  readonly values: ReadonlyArray<number>
}

/** The count of each known word in the chosen response minus its count in the rejected one; words with a difference of 0 are left out. */
export const wordDifferences = (pair: ResponsesOfPair, vocabulary: ReadonlyMap<string, number>): SparseRow => {
  const counts = new Map<number, number>()
  const count = (text: string, sign: number) => {
    for (const word of words(text)) {
      const column = vocabulary.get(word)
      if (column !== undefined) counts.set(column, (counts.get(column) ?? 0) + sign)
    }
  }
  count(pair.chosen, 1)
  count(pair.rejected, -1)
  const kept = [...counts].filter(([, value]) => value !== 0)
  return { columns: kept.map(([column]) => column), values: kept.map(([, value]) => value) }
}

const dotRow = ({ columns, values }: SparseRow, w: Float64Array): number => {
  let sum = 0
  for (let i = 0; i < columns.length; i++) sum += values[i]! * w[columns[i]!]!
  return sum
}
const addRow = (out: Float64Array, { columns, values }: SparseRow, scale: number): void => {
  for (let i = 0; i < columns.length; i++) out[columns[i]!]! += scale * values[i]!
}
const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0)
const plus = (a: Float64Array, b: Float64Array, scale: number): Float64Array => a.map((value, i) => value + scale * b[i]!)
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
/** log(1 + e^-x) without overflow. */
const softplusOfNegative = (x: number): number => Math.max(0, -x) + Math.log1p(Math.exp(-Math.abs(x)))

/** Solves (l2 + X^T diag(curvature) X) p = b by conjugate gradients, to a relative residual. */
const solve = (
  rows: ReadonlyArray<SparseRow>,
  curvature: ReadonlyArray<number>,
  l2: number,
  b: Float64Array,
  tolerance: number
): Float64Array => {
  let p: Float64Array = new Float64Array(b.length)
  let residual: Float64Array = b.slice()
  let direction: Float64Array = b.slice()
  let square = dot(residual, residual)
  const enough = tolerance * tolerance * square
  for (let iteration = 0; iteration < b.length && square > enough; iteration++) {
    const image = direction.map((value) => l2 * value)
    rows.forEach((row, i) => addRow(image, row, curvature[i]! * dotRow(row, direction)))
    const step = square / dot(direction, image)
    p = plus(p, direction, step)
    residual = plus(residual, image, -step)
    const next = dot(residual, residual)
    direction = plus(residual, direction, next / square)
    square = next
  }
  return p
}

/**
 * Logistic regression without a bias, since the two sides of a pair are symmetric: the w that minimises sum_i log(1 + exp(-w . x_i)) + l2 / 2 |w|^2, using
 * Newton's method over all rows (float64), until the gradient is 1e-8 of its value at 0 or the loss no longer decreases. `l2` must be above 0, so that
 * the minimum is unique.
 */
export const fitLogistic = (rows: ReadonlyArray<SparseRow>, columns: number, l2: number): Float64Array => {
  const lossAt = (w: Float64Array) => rows.reduce((sum, row) => sum + softplusOfNegative(dotRow(row, w)), (l2 / 2) * dot(w, w))
  let w: Float64Array = new Float64Array(columns)
  let loss = lossAt(w)
  let first: number | undefined
  for (let iteration = 0; iteration < 100; iteration++) {
    const wrong = rows.map((row) => sigmoid(-dotRow(row, w)))
    const descent = w.map((value) => -l2 * value) // the negative gradient
    rows.forEach((row, i) => addRow(descent, row, wrong[i]!))
    const norm = Math.sqrt(dot(descent, descent))
    first ??= norm
    if (norm <= 1e-8 * first) break
    const curvature = wrong.map((value) => value * (1 - value))
    const step = solve(rows, curvature, l2, descent, Math.min(0.1, Math.sqrt(norm / first)))
    const slope = dot(step, descent)
    let size = 1
    let next = plus(w, step, size)
    while (lossAt(next) > loss - 1e-4 * size * slope && size > 1e-10) {
      size /= 2
      next = plus(w, step, size)
    }
    const fallen = lossAt(next)
    if (!(fallen < loss)) break
    w = next
    loss = fallen
  }
  return w
}

/** A linear classifier on the words in which two responses differ, fitted to the training pairs. Unseen words have weight 0. */
export const fitBagOfWords = (
  train: ReadonlyArray<ResponsesOfPair>,
  l2: number
): { readonly weights: ReadonlyMap<string, number>; readonly score: PairScorer } => {
  const vocabulary = new Map<string, number>()
  for (const pair of train)
    for (const word of [...words(pair.chosen), ...words(pair.rejected)]) if (!vocabulary.has(word)) vocabulary.set(word, vocabulary.size)
  const w = fitLogistic(
    train.map((pair) => wordDifferences(pair, vocabulary)),
    vocabulary.size,
    l2
  )
  return {
    weights: new Map([...vocabulary].map(([word, column]) => [word, w[column]!])),
    score: (pair) => scoreOfMargin(dotRow(wordDifferences(pair, vocabulary), w))
  }
}
