/** Attention of one query per head to cached keys on a GPU (native/gpu-attend-kernels.h, gpu-attend-streamed-kernels.h), compared with float64. */
import { describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { atenVoid, type DType, full, scoped, tensor } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"
import { bfloat16Rounding, fused } from "../tolerances.ts"

interface Case {
  readonly headDim: number
  readonly heads: number
  readonly groups: number
  readonly splits: number
  /** 0: none. */
  readonly window: number
  readonly positions: ReadonlyArray<number>
}
/** Places in the cache per row. */
const capacityOf = ({ positions }: Case): number => Math.ceil((Math.max(...positions) + 1) / 64) * 64
/** Rounds to bfloat16: numbers that both dtypes represent exactly. */
const rounded = (data: Float32Array): Float32Array => {
  const bits = new Uint32Array(data.buffer)
  bits.forEach((x, i) => (bits[i] = (x + 0x7fff + ((x >>> 16) & 1)) & 0xffff0000))
  return data
}
const normal = (seed: number, count: number): Float32Array => {
  const random = new Random(seed, "gpu attention")
  return rounded(Float32Array.from({ length: count }, () => random.normal()))
}

/** The attention of each row's queries (rows, H, E) and the newest keys (rows, G, E), in float64. `round` is applied to turned queries and keys. */
const expected = (
  of: Case,
  inputs: Readonly<Record<"qkv" | "cos" | "sin" | "keys" | "values", Float32Array>>,
  round: (x: Float32Array) => Float32Array
) => {
  const { groups, headDim: E, heads, positions, window } = of
  const capacity = capacityOf(of)
  const width = (heads + 2 * groups) * E
  const out = new Float64Array(positions.length * heads * E)
  const newest = new Float64Array(positions.length * groups * E)
  positions.forEach((position, row) => {
    if (position < 0) return
    const turned = (head: number) =>
      round(
        Float32Array.from({ length: E }, (_, e) => {
          const at = (i: number) => inputs.qkv[row * width + head * E + i]!
          return at(e) * inputs.cos[position * E + e]! + at((e + E / 2) % E) * inputs.sin[position * E + e]!
        })
      )
    for (let group = 0; group < groups; group++) newest.set(turned(heads + group), (row * groups + group) * E)
    for (let head = 0; head < heads; head++) {
      const group = Math.floor(head / (heads / groups))
      const query = turned(head)
      const from = window > 0 ? Math.max(0, position + 1 - window) : 0
      const cached = (cache: Float32Array, j: number, e: number) => cache[((row * groups + group) * capacity + j) * E + e]!
      const key = (j: number, e: number) => (j === position ? newest[(row * groups + group) * E + e]! : cached(inputs.keys, j, e))
      const value = (j: number, e: number) =>
        j === position ? inputs.qkv[row * width + (heads + groups + group) * E + e]! : cached(inputs.values, j, e)
      const scores = Array.from(
        { length: position + 1 - from },
        (_, i) => query.reduce((sum, x, e) => sum + x * key(from + i, e), 0) / Math.sqrt(E)
      )
      const most = Math.max(...scores)
      const weights = scores.map((score) => Math.exp(score - most))
      const total = weights.reduce((sum, x) => sum + x, 0)
      for (let e = 0; e < E; e++)
        out[(row * heads + head) * E + e] = weights.reduce((sum, weight, i) => sum + weight * value(from + i, e), 0) / total
    }
  })
  return { out, newest }
}

/** The first places at which the numbers differ; NaN equals NaN. */
const differing = (found: ReadonlyArray<number>, wanted: Float64Array): ReadonlyArray<string> =>
  found.flatMap((x, i) => (Object.is(x, wanted[i]) || x === wanted[i] ? [] : [`number ${i}: ${x}, not ${wanted[i]}`])).slice(0, 3)

const gpu = devices.find(({ device }) => device === "cuda")!
describe.skipIf(gpu.skip)("attention to the cache on a GPU", () => {
  const few = [0, 17, -1, 130, 63, 64, 319]
  const stageEnds = [-1, 1, 7, 8, 9, 15, 16, 17, 47, 48, 49, 96, 97, 383, 384, 385]
  const cases: ReadonlyArray<Case> = [
    ...[64, 128].flatMap((headDim) =>
      [1, 2, 3, 4, 5, 6, 7, 8].map((share) => ({ headDim, heads: 2 * share, groups: 2, splits: 1, window: 0, positions: few }))
    ),
    // Around the ends of a stage of 16 keys and of all stages, for each number of warps per block, and more blocks than a GPU holds.
    ...[64, 128].flatMap((headDim) =>
      [12, 8, 4, 1].map((groups) => ({ headDim, heads: groups, groups, splits: 1, window: 0, positions: stageEnds }))
    ),
    { headDim: 64, heads: 24, groups: 12, splits: 1, window: 0, positions: Array.from({ length: 110 }, (_, i) => ((i * 37) % 90) - 1) },
    { headDim: 128, heads: 32, groups: 4, splits: 2, window: 0, positions: [1087, 600, 511, 512, -1, 40] },
    { headDim: 64, heads: 32, groups: 4, splits: 4, window: 0, positions: [1087, 800, 1023, 3] },
    { headDim: 64, heads: 16, groups: 1, splits: 1, window: 0, positions: few },
    { headDim: 64, heads: 8, groups: 1, splits: 3, window: 0, positions: [5, 300, 640, 511, 1080, -1] },
    { headDim: 128, heads: 2, groups: 2, splits: 4, window: 0, positions: [0, 319, 767, 1087] },
    { headDim: 128, heads: 6, groups: 2, splits: 2, window: 70, positions: [10, 150, 69, 319] },
    { headDim: 64, heads: 8, groups: 2, splits: 1, window: 16, positions: [15, 16, 300] },
    { headDim: 64, heads: 2, groups: 1, splits: 8, window: 5, positions: [0, 3, 4, 5, 300] },
    { headDim: 64, heads: 2, groups: 1, splits: 8, window: 600, positions: [511, 599, 600, 1087, -1] },
    { headDim: 16, heads: 4, groups: 4, splits: 2, window: 0, positions: few },
    { headDim: 32, heads: 6, groups: 2, splits: 1, window: 0, positions: few },
    { headDim: 256, heads: 3, groups: 1, splits: 1, window: 0, positions: few }
  ]
  const named = cases.flatMap((of) =>
    (
      [
        ["bfloat16", true],
        ["bfloat16", false],
        ["float32", false]
      ] as const
    ).map(
      ([dtype, streamed]) =>
        [
          `${of.heads} heads of ${of.headDim} to ${of.groups} key heads, ${of.positions.length} rows, ${of.splits} splits, window ${of.window}, ${dtype}${streamed ? ", streamed" : ""}`,
          of,
          dtype,
          streamed
        ] as const
    )
  )
  it.each(named)("%s", (_, of, dtype: DType, streamed) =>
    scoped(() => {
      const { groups, headDim: E, heads, positions, splits, window } = of
      const [rows, capacity] = [positions.length, capacityOf(of)]
      const cached = rows * groups * capacity * E
      const inputs = {
        qkv: normal(1, rows * (heads + 2 * groups) * E),
        cos: normal(2, capacity * E),
        sin: normal(3, capacity * E),
        keys: normal(4, cached),
        values: normal(5, cached)
      }
      // Places that have not been written must not be read: NaN there would show in the result.
      const unwritten = (i: number) => Math.floor(i / E) % capacity >= Math.max(0, positions[Math.floor(i / (groups * capacity * E))]!)
      const on = (data: Float32Array, shape: ReadonlyArray<number>) => tensor(data, { shape }).to({ device: "cuda", dtype })
      const written = {
        keys: inputs.keys.map((x, i) => (unwritten(i) ? NaN : x)),
        values: inputs.values.map((x, i) => (unwritten(i) ? NaN : x))
      }
      const [keys, values] = [on(written.keys, [rows, groups, capacity, E]), on(written.values, [rows, groups, capacity, E])]
      const out = full([rows, heads * E], 7, { device: "cuda", dtype })
      const partial = splits === 1 ? null : full([rows * heads * splits * (E + 2)], 7, { device: "cuda", dtype: "float32" })
      atenVoid(
        "caravan::decode_attend_",
        on(inputs.qkv, [rows, (heads + 2 * groups) * E]),
        on(inputs.cos, [capacity, E]),
        on(inputs.sin, [capacity, E]),
        keys,
        values,
        tensor(Int32Array.from(positions), { device: "cuda" }),
        out,
        partial,
        heads,
        splits,
        window,
        streamed
      )
      const wanted = expected(of, inputs, dtype === "bfloat16" ? rounded : (x) => x)
      // Per row and head, relative to its size. In bfloat16 the weights and the result are rounded.
      const found = out.toNumbers()
      const norm = (numbers: Float64Array) => Math.hypot(...numbers)
      const allowed = dtype === "bfloat16" ? bfloat16Rounding : fused
      for (let at = 0; at < found.length; at += E) {
        const exact = wanted.out.slice(at, at + E)
        const difference = exact.map((x, e) => x - found[at + e]!)
        expect(norm(difference), `row ${Math.floor(at / (heads * E))}, head ${(at / E) % heads}`).toBeLessThanOrEqual(allowed * norm(exact))
      }
      // The newest key and value are in the cache; everything else is as before.
      const [exactKeys, exactValues] = [Float64Array.from(written.keys), Float64Array.from(written.values)]
      const width = (heads + 2 * groups) * E
      positions.forEach((position, row) => {
        if (position < 0) return
        for (let group = 0; group < groups; group++) {
          const at = ((row * groups + group) * capacity + position) * E
          exactKeys.set(wanted.newest.slice((row * groups + group) * E, (row * groups + group + 1) * E), at)
          exactValues.set(inputs.qkv.slice(row * width + (heads + groups + group) * E, row * width + (heads + groups + group + 1) * E), at)
        }
      })
      expect(differing(keys.toNumbers(), exactKeys)).toEqual([])
      expect(differing(values.toNumbers(), exactValues)).toEqual([])
    })
  )

  const alone: ReadonlyArray<readonly [headDim: number, heads: number, groups: number, splits: number]> = [
    [64, 32, 4, 1],
    [64, 32, 4, 4],
    [64, 12, 12, 1],
    [128, 12, 12, 1],
    [128, 8, 4, 2]
  ]
  it.each(alone)(
    "with heads of %d, %d on %d key heads and %d splits, a row's bits do not depend on the others",
    (E, heads, groups, splits) =>
      scoped(() => {
        const [rows, capacity, row] = [9, 1088, 4]
        const on = (seed: number, shape: ReadonlyArray<number>) =>
          tensor(
            normal(
              seed,
              shape.reduce((a, b) => a * b)
            ),
            { shape }
          ).to({ device: "cuda", dtype: "bfloat16" })
        const qkv = on(1, [rows, (heads + 2 * groups) * E])
        const [cos, sin] = [on(2, [capacity, E]), on(3, [capacity, E])]
        const [keys, values] = [on(4, [rows, groups, capacity, E]), on(5, [rows, groups, capacity, E])]
        const attend = (from: number, to: number, positions: ReadonlyArray<number>) => {
          const out = full([to - from, heads * E], 7, { device: "cuda", dtype: "bfloat16" })
          const [k, v] = [keys.slice(0, from, to), values.slice(0, from, to)]
          const places = tensor(Int32Array.from(positions), { device: "cuda" })
          atenVoid(
            "caravan::decode_attend_",
            qkv.slice(0, from, to),
            cos,
            sin,
            k,
            v,
            places,
            out,
            full([rows * heads * splits * (E + 2)], 7, { device: "cuda" }),
            heads,
            splits,
            0,
            true
          )
          return out.toNumbers()
        }
        for (const position of [0, 16, 200, 700, 1087]) {
          const together = attend(
            0,
            rows,
            Array.from({ length: rows }, (_, i) => (i === row ? position : ((i * 53) % 1088) - 1))
          ).slice(row * heads * E, (row + 1) * heads * E)
          expect(differing(attend(row, row + 1, [position]), Float64Array.from(together))).toEqual([])
        }
      })
  )
})
