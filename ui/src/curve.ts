/** Decodes the server's curves (cli/ui/curve.ts) and prepares them for drawing. */
import type { CurveHeader } from "../../cli/ui/curve.ts"
import { askBytes } from "./api.ts"

export interface Curve {
  readonly source: CurveHeader["source"]
  readonly next: number
  readonly rows: number
  readonly columns: ReadonlyMap<string, Float64Array>
  /** Column -> how many of its values are NaN or infinite, and the step of the first. */
  readonly notNumbers: ReadonlyMap<string, { readonly count: number; readonly firstAt: number | null }>
}

export const decode = (buffer: ArrayBuffer): Curve => {
  const length = new DataView(buffer).getUint32(0, true)
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as CurveHeader
  let at = Math.ceil((4 + length) / 8) * 8
  const columns = new Map<string, Float64Array>()
  const notNumbers = new Map<string, { readonly count: number; readonly firstAt: number | null }>()
  for (const { name, firstAt, notNumbers: count } of header.columns) {
    columns.set(name, new Float64Array(buffer, at, header.rows))
    if (count > 0) notNumbers.set(name, { count, firstAt })
    at += 8 * header.rows
  }
  return { source: header.source, next: header.next, rows: header.rows, columns, notNumbers }
}

export const loadCurve = async (run: string, node: string, from = 0): Promise<Curve> => decode(await askBytes("curve", { run, node, from }))

/** Appends newly reported rows to a curve. */
export const extended = (curve: Curve, more: Curve): Curve => {
  if (more.source === "kept" || more.rows === 0) return more.source === "kept" ? more : { ...curve, next: more.next }
  const columns = new Map<string, Float64Array>()
  for (const name of new Set([...curve.columns.keys(), ...more.columns.keys()])) {
    const values = new Float64Array(curve.rows + more.rows).fill(NaN)
    const [before, after] = [curve.columns.get(name), more.columns.get(name)]
    if (before !== undefined) values.set(before)
    if (after !== undefined) values.set(after, curve.rows)
    columns.set(name, values)
  }
  return {
    source: "live",
    next: more.next,
    rows: curve.rows + more.rows,
    columns,
    notNumbers: new Map([...more.notNumbers, ...curve.notNumbers])
  }
}

/** The columns to draw, loss first; excludes the x axes and columns that do not describe the training. */
const notDrawn = new Set(["step", "seconds", "tokens"])
const first = ["loss", "heldOutLoss", "reward", "meanReward", "kl"]
const last = ["learningRate", "gradientNorm", "tokensPerSecond", "memory", "gpuMemory"]
export const drawnOf = (curve: Curve): ReadonlyArray<string> => {
  const names = [...curve.columns.keys()].filter((name) => !notDrawn.has(name))
  const rank = (name: string) => (first.includes(name) ? first.indexOf(name) : last.includes(name) ? 100 + last.indexOf(name) : 50)
  return names.sort((a, b) => rank(a) - rank(b))
}

/** Exponential moving average with bias correction (Kingma & Ba 2015, section 3). Weight 0: unchanged. Gaps stay gaps. */
export const smoothed = (values: Float64Array, weight: number): Float64Array => {
  if (weight === 0) return values
  const out = new Float64Array(values.length)
  let [mean, correction] = [0, 1]
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (Number.isNaN(value)) {
      out[i] = NaN
      continue
    }
    mean = weight * mean + (1 - weight) * value
    correction *= weight
    out[i] = mean / (1 - correction)
  }
  return out
}

/** The rows where a column has a value. */
export const pointsOf = (curve: Curve, name: string, over: "step" | "seconds"): readonly [x: Float64Array, y: Float64Array] => {
  const [xs, ys] = [curve.columns.get(over) ?? curve.columns.get("step"), curve.columns.get(name)]
  if (xs === undefined || ys === undefined) return [new Float64Array(), new Float64Array()]
  const begin = over === "seconds" && curve.source === "live" ? (xs[0] ?? 0) : 0
  let count = 0
  for (let i = 0; i < ys.length; i++) if (!Number.isNaN(ys[i]!) && !Number.isNaN(xs[i]!)) count++
  const [x, y] = [new Float64Array(count), new Float64Array(count)]
  let at = 0
  for (let i = 0; i < ys.length; i++) {
    if (Number.isNaN(ys[i]!) || Number.isNaN(xs[i]!)) continue
    x[at] = xs[i]! - begin
    y[at++] = ys[i]!
  }
  return [x, y]
}
