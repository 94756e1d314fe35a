/**
 * Converts tokenised examples to the tensors that a language model trains on: packs several examples into one row, and computes the loss over the tokens
 * that carry loss.
 */
import { type Device, tensor, type Tensor } from "../../engine/tensor.ts"
import type { Llama } from "../../models/llama.ts"

/** A tokenised example. `lossMask[i]` says whether the prediction of token i contributes to the loss. */
export interface Example {
  readonly tokens: ReadonlyArray<number>
  readonly lossMask: ReadonlyArray<boolean>
}

/** A row of `length` tokens: several examples one after another, then padding. All arrays have this length. */
export interface PackedRow {
  readonly tokens: Int32Array
  /** Whether the prediction of this token contributes to the loss; never at an example's first token or at padding. */
  readonly lossMask: Uint8Array
  /** The index of the example in the row that the token belongs to, from 0; -1 at padding. */
  readonly segments: Int32Array
}

/** A list whose items may be created on demand. An array is a Sequence. */
export interface Sequence<A> {
  readonly length: number
  readonly at: (index: number) => A | undefined
}

/** The assignment of examples to rows. */
export interface Packing {
  /** Number of rows. */
  readonly length: number
  /** The indices of the examples in a row. */
  readonly row: (index: number) => Uint32Array
}

/** Examples of at most this many tokens have nothing to predict. */
const tooShort = 1

/**
 * Packs examples, in the given order, into rows of `length` tokens: each goes into the first open row with enough space (Llama 2 §3.1: "we concatenate
 * all the prompts and answers" to fill sequences). Of an example longer than a row, the first `length` tokens are kept; an example with nothing to
 * predict is left out. At most `openRows` rows are open, so that packing takes linear time.
 */
export const packRows = (
  order: Uint32Array,
  options: { readonly sizeOf: (example: number) => number; readonly length: number; readonly openRows?: number }
): Packing => {
  const { sizeOf, length, openRows = 32 } = options
  const nowhere = 2 ** 32 - 1
  /** The row of each position in the order. */
  const rows = new Uint32Array(order.length).fill(nowhere)
  const open: Array<{ readonly row: number; used: number }> = []
  let count = 0
  order.forEach((example, i) => {
    const size = Math.min(sizeOf(example), length)
    if (size <= tooShort) return
    let place = open.find((candidate) => candidate.used + size <= length)
    if (place === undefined) {
      place = { row: count++, used: 0 }
      open.push(place)
      if (open.length > openRows) open.shift()
    }
    place.used += size
    rows[i] = place.row
  })
  // Counting sort by row.
  const ends = new Uint32Array(count + 1)
  for (const row of rows) if (row !== nowhere) ends[row + 1]!++
  for (let row = 0; row < count; row++) ends[row + 1]! += ends[row]!
  const members = new Uint32Array(ends[count]!)
  const next = ends.slice()
  rows.forEach((row, i) => {
    if (row !== nowhere) members[next[row]!++] = order[i]!
  })
  return { length: count, row: (index) => members.subarray(ends[index], ends[index + 1]) }
}

/** The rows of a packing, each created on demand. */
export const packedRows = (
  examples: Sequence<Example>,
  packing: Packing,
  { length, padId }: { readonly length: number; readonly padId: number }
): Sequence<PackedRow> => ({
  length: packing.length,
  at: (index) =>
    layOut(
      Array.from(packing.row(index), (example) => examples.at(example)!),
      length,
      padId
    )
})

const layOut = (examples: ReadonlyArray<Example>, length: number, padId: number): PackedRow => {
  const tokens = new Int32Array(length).fill(padId)
  const lossMask = new Uint8Array(length)
  const segments = new Int32Array(length).fill(-1)
  let at = 0
  examples.forEach((example, segment) => {
    const size = Math.min(example.tokens.length, length)
    for (let i = 0; i < size; i++) {
      tokens[at + i] = example.tokens[i]!
      lossMask[at + i] = i > 0 && example.lossMask[i] === true ? 1 : 0
      segments[at + i] = segment
    }
    at += size
  })
  return { tokens, lossMask, segments }
}

/** The number of tokens in these rows that carry loss. */
export const lossTokens = (rows: ReadonlyArray<PackedRow>): number =>
  rows.reduce((sum, row) => sum + row.lossMask.reduce((a, b) => a + b, 0), 0)

/** Concatenates B rows of T tokens to one flat array of B x T. */
const concatenate = (rows: ReadonlyArray<ArrayLike<number>>, length: number): Int32Array => {
  const out = new Int32Array(rows.length * length)
  rows.forEach((row, i) => out.set(row, i * length))
  return out
}

/**
 * Cross-entropy in nats of the next tokens that carry loss, summed over all rows; returns () in float32. Tokens attend only to their own example, unless
 * `isolate` is false (pretraining on running text). Logits are computed only at positions with loss.
 */
export const languageModelLoss = (
  model: Llama,
  rows: ReadonlyArray<PackedRow>,
  options: { readonly device: Device; readonly isolate: boolean }
): Tensor => {
  const { device } = options
  const length = rows[0]!.tokens.length
  // Position t predicts token t + 1: the model reads all but the last token (B, T - 1).
  const shape = [rows.length, length - 1]
  const take = (field: (row: PackedRow) => ArrayLike<number>, from: number) =>
    concatenate(
      rows.map((row) => Array.prototype.slice.call(field(row), from, from + length - 1)),
      length - 1
    )
  const ids = tensor(
    take((row) => row.tokens, 0),
    { shape, dtype: "int64", device }
  )
  const segmentIds = options.isolate
    ? tensor(
        take((row) => row.segments, 0),
        { shape, dtype: "int64", device }
      )
    : undefined
  const mask = take((row) => row.lossMask, 1)
  const next = take((row) => row.tokens, 1)
  const positions: Array<number> = []
  const targets: Array<number> = []
  mask.forEach((on, i) => {
    if (on === 1) {
      positions.push(i)
      targets.push(next[i]!)
    }
  })
  const hidden = model.hidden(ids, segmentIds === undefined ? {} : { segmentIds }) // (B, T - 1, D)
  const dim = hidden.size(-1)
  const picked = hidden.reshape(-1, dim).indexSelect(0, tensor(Int32Array.from(positions), { dtype: "int64", device })) // (N, D)
  return model
    .distribution(picked, tensor(Int32Array.from(targets), { dtype: "int64", device }))
    .logProbabilities.neg()
    .sum()
}

/** The items at these indices, in their order. */
export const inOrder = <A>(items: Sequence<A>, order: Uint32Array): Sequence<A> => ({
  length: order.length,
  at: (index) => (index < order.length ? items.at(order[index]!) : undefined)
})

/** The items of a sequence in batches of at most `size`, each created on demand. */
export function* batchesOf<A>(items: Sequence<A>, size: number): Generator<Array<A>> {
  for (let from = 0; from < items.length; from += size)
    yield Array.from({ length: Math.min(size, items.length - from) }, (_, i) => items.at(from + i)!)
}

/** Splits rows into batches of at most `size`. */
export const chunks = <A>(items: ReadonlyArray<A>, size: number): Array<Array<A>> => {
  const out: Array<Array<A>> = []
  for (let i = 0; i < items.length; i += size) out.push(items.slice(i, i + size))
  return out
}
