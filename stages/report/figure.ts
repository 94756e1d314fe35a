/** The elements of the report: figures as Vega-Lite specifications, tables, and sections. Colours are Okabe and Ito's, which are distinguishable with most colour vision deficiencies. */
import type { ShownId } from "./catalogue.ts"

export type Cell = string | number | boolean | null
export type Rows = ReadonlyArray<Readonly<Record<string, Cell>>>

/** Varies with the width if the drawing depends on it. */
type Spec = Readonly<Record<string, unknown>>

/** A figure: its title and caption, and its Vega-Lite specification without the page's theme. */
export interface Figure {
  readonly id: ShownId
  /** If there are several figures of one kind: which one, as part of the file name. */
  readonly part?: string
  readonly title: string
  readonly caption: string
  readonly spec: Spec | ((width: "wide" | "narrow") => Spec)
  /** The drawn data, for the table below the figure. */
  readonly rows: Rows
}

export interface Table {
  readonly id: ShownId
  readonly title: string
  readonly caption: string
  readonly rows: Rows
}

/** A section of the page, on one subject of the paper. */
export interface Section {
  readonly title: string
  /** Paragraphs. */
  readonly text?: ReadonlyArray<string>
  readonly figures?: ReadonlyArray<Figure>
  readonly tables?: ReadonlyArray<Table>
}

/** The first colour is for versions, for the last line and for the most important series; black is for what should stand out. */
export const palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

export const axis = (field: string, title: string | null, over: object = {}) => ({ field, type: "quantitative", title, ...over })
export const free = { scale: { zero: false } }
export const unit = { scale: { domain: [0, 1] } }
export const colour = (field: string, title: string | null, order?: ReadonlyArray<string>) => ({
  field,
  type: "nominal",
  title,
  scale: { range: palette, ...(order === undefined ? {} : { domain: order }) }
})

/** Layers of a line with intervals: the intervals from `low` to `high`, drawn with `mark`, and the line, which has the field of `y`. */
export const withIntervals = (
  mark: object,
  { y, ...encoding }: { readonly x: object; readonly y: object; readonly color?: object },
  line: object = { point: true }
) => [
  { mark, encoding: { ...encoding, y: { ...y, field: "low" }, y2: { field: "high" } } },
  { mark: { type: "line", ...line }, encoding: { ...encoding, y } }
]
/** The style of a single line. */
export const singleLine = { point: { color: palette[0]! }, color: palette[0]! }
/** One panel per value of a field. */
export const panelsBy = (field: string, spec: object) => ({ facet: { column: { field, type: "nominal", title: null } }, spec })

/** The figures that exist. */
export const existing = (...figures: ReadonlyArray<Figure | undefined>): ReadonlyArray<Figure> =>
  figures.filter((figure) => figure !== undefined)

/** Colours of a gradient, for values that have an order. */
export const ordered = (field: string, title: string | null, order: ReadonlyArray<string>) => ({
  ...{ field, type: "nominal", title, sort: order },
  scale: { domain: order, range: order.map((_, i) => shade(i / Math.max(1, order.length - 1))) }
})
/** Distinct colours for up to seven values; for more a gradient. */
export const series = (field: string, title: string | null, order: ReadonlyArray<string>) =>
  order.length > palette.length
    ? ordered(field, title, order)
    : { field, type: "nominal", title, sort: order, scale: { domain: order, range: order.map((_, i) => palette[i]!) } }
/** A gradient from sky blue through grey to dark red. */
const shade = (part: number): string => {
  const [from, to] = [
    [86, 180, 233],
    [178, 60, 20]
  ] as const
  return `rgb(${from.map((value, i) => Math.round(value + part * (to[i]! - value))).join(",")})`
}
