/**
 * From tokenised examples to the tensors a language model trains on: packing several examples into one row, and the loss over the tokens that
 * carry it.
 */
import { type Device, tensor, type Tensor } from "../../engine/tensor.ts"
import type { Llama } from "../../models/llama.ts"

/** A tokenised example. `lossMask[i]` says whether predicting token i is trained. */
export interface Example {
  readonly tokens: ReadonlyArray<number>
  readonly lossMask: ReadonlyArray<boolean>
}

/** A row of `length` tokens: several examples one after another, then padding. Arrays of one length. */
export interface PackedRow {
  readonly tokens: Int32Array
  /** Whether predicting the token here is trained; never at an example's first token, nor at padding. */
  readonly lossMask: Uint8Array
  /** Which example of the row the token belongs to, from 0; -1 at padding. */
  readonly segments: Int32Array
}

/** Things that are made when they are asked for, by index; an array is one. */
export interface Sequence<A> {
  readonly length: number
  readonly at: (index: number) => A | undefined
}

/** Which examples share a row. */
export interface Packing {
  /** How many rows there are. */
  readonly length: number
  /** Of a row: the indices of its examples. */
  readonly row: (index: number) => Uint32Array
}

/** Examples of so many tokens have nothing to predict. */
const tooShort = 1

/**
 * Packs examples, in the order given, into rows of `length`: each goes into the first open row that has room (Llama 2 §3.1: "we concatenate
 * all the prompts and answers" to fill sequences). An example longer than a row keeps its first `length` tokens; one with nothing to predict is left
 * out. At most `openRows` rows are tried, so that packing a million examples stays linear.
 */
export const packRows = (
  order: Uint32Array,
  options: { readonly sizeOf: (example: number) => number; readonly length: number; readonly openRows?: number }
): Packing => {
  const { sizeOf, length, openRows = 32 } = options
  const nowhere = 2 ** 32 - 1
  /** Of each place in the order: its row. */
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
  // Sorted by row, by counting.
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

/** The rows of a packing, each made when it is asked for. */
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

/** How many tokens of these rows carry loss. */
export const lossTokens = (rows: ReadonlyArray<PackedRow>): number =>
  rows.reduce((sum, row) => sum + row.lossMask.reduce((a, b) => a + b, 0), 0)

/** Rows as one array of B x T. */
const concatenate = (rows: ReadonlyArray<ArrayLike<number>>, length: number): Int32Array => {
  const out = new Int32Array(rows.length * length)
  rows.forEach((row, i) => out.set(row, i * length))
  return out
}

/**
 * Summed cross-entropy of the next tokens that carry loss. Tokens of one example never attend to another's, unless `isolate` is false
 * (pretraining on running text). Logits are computed only where there is loss.
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

/** The items of these indices, in their order. */
export const inOrder = <A>(items: Sequence<A>, order: Uint32Array): Sequence<A> => ({
  length: order.length,
  at: (index) => (index < order.length ? items.at(order[index]!) : undefined)
})

/** The items of a sequence, in parts of at most `size`, each made when its turn comes. */
export function* batchesOf<A>(items: Sequence<A>, size: number): Generator<Array<A>> {
  for (let from = 0; from < items.length; from += size)
    yield Array.from({ length: Math.min(size, items.length - from) }, (_, i) => items.at(from + i)!)
}

/** Splits rows into parts of at most `size`. */
export const chunks = <A>(items: ReadonlyArray<A>, size: number): Array<Array<A>> => {
  const out: Array<Array<A>> = []
  for (let i = 0; i < items.length; i += size) out.push(items.slice(i, i + size))
  return out
}
