/** What the report is made of: figures as Vega-Lite specifications, tables, and sections of them. Colours are Okabe and Ito's, told apart by most eyes. */
import type { ShownId } from "./catalogue.ts"

export type Cell = string | number | boolean | null
export type Rows = ReadonlyArray<Readonly<Record<string, Cell>>>

/** By width where what is drawn depends on it. */
type Spec = Readonly<Record<string, unknown>>

/** A figure: what it shows, in words, and its Vega-Lite specification without the page's theme. */
export interface Figure {
  readonly id: ShownId
  /** Of several figures of one kind: which one, as part of a file's name. */
  readonly part?: string
  readonly title: string
  readonly caption: string
  readonly spec: Spec | ((width: "wide" | "narrow") => Spec)
  /** What is drawn, for the table below the figure. */
  readonly rows: Rows
}

export interface Table {
  readonly id: ShownId
  readonly title: string
  readonly caption: string
  readonly rows: Rows
}

/** A part of the page: what one subject of the paper came to. */
export interface Section {
  readonly title: string
  /** Paragraphs. */
  readonly text?: ReadonlyArray<string>
  readonly figures?: ReadonlyArray<Figure>
  readonly tables?: ReadonlyArray<Table>
}

/** The first is that of versions, of the last one's lines, of what is to be seen first. Black is what stands apart. */
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
/** A colour for each of up to seven, and where there are more from light to dark: they have an order. */
export const series = (field: string, title: string | null, order: ReadonlyArray<string>) => ({
  field,
  type: "nominal",
  title,
  sort: order,
  scale: { domain: order, range: order.map((_, i) => (order.length <= palette.length ? palette[i]! : shade(i / (order.length - 1)))) }
})
/** From sky blue to a dark red, by way of grey. */
const shade = (part: number): string => {
  const [from, to] = [
    [86, 180, 233],
    [178, 60, 20]
  ] as const
  return `rgb(${from.map((value, i) => Math.round(value + part * (to[i]! - value))).join(",")})`
}
