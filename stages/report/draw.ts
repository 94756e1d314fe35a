/** Draws figures as SVG with Vega-Lite, without a browser: for a page, in its colours and at two widths, or for a file, on white. */
import { visible } from "../../schemas/visible.ts"
import { type Figure, palette, type Rows } from "./figure.ts"

/** `wide` for a desktop, `narrow` for a phone: about 700 and 340 pixels. */
export type Width = "wide" | "narrow"
const total = { wide: 700, narrow: 340 } as const
/** Width left for a facet's panels on a phone, without the axis and margins. */
const narrowPanel = 265

type Spec = Readonly<Record<string, unknown>>

/** Panels below one another, or in two columns if they are half as wide. */
const narrowFacets = (spec: Spec): Spec => {
  const { facet, spec: inner } = spec as { readonly facet: Spec; readonly spec: Spec }
  if (facet.row !== undefined && facet.column !== undefined)
    return { ...spec, spec: { ...inner, width: 105 }, spacing: { row: 4, column: 12 } }
  const panel = { ...inner, width: narrowPanel }
  return facet.row === undefined ? { ...spec, facet: facet.column ?? facet, columns: 1, spec: panel } : { ...spec, spec: panel }
}

/** What is drawn of a figure. */
type Drawn = Pick<Figure, "spec" | "rows">

const sized = (figure: Drawn, width: Width): Spec => {
  const spec = typeof figure.spec === "function" ? figure.spec(width) : figure.spec
  if (spec.facet !== undefined) return width === "wide" ? spec : narrowFacets(spec)
  if (typeof figure.spec === "function") return spec
  const wished = typeof spec.width === "number" ? spec.width + 140 : total.wide
  return { ...spec, width: Math.min(wished, total[width]), autosize: { type: "fit-x", contains: "padding" } }
}

/** For a page: replaces black with the page's colour, and palette colours with variables. The enclosing figure has the description, so marks get no roles. */
const themed = (svg: string): string =>
  svg.replaceAll(/<[^>]*>/g, (tag) =>
    tag
      .replaceAll(/ (?:role|aria-[a-z]+)="[^"]*"/g, "")
      .replaceAll(/(fill|stroke)="([^"]+)"/g, (whole, attribute: string, value: string) => {
        const index = palette.findIndex((one) => one.toLowerCase() === value.toLowerCase())
        return index === -1 ? whole : `${attribute}="var(--c${index})"`
      })
  )

const ink = "#333333"
const lines = { grid: "#e6e6e6", axis: "#888888" } as const
const config = (width: Width, isPage: boolean) => {
  const text = isPage ? "currentColor" : ink
  const line = isPage ? "var(--grid)" : lines.grid
  const domain = isPage ? "var(--axis)" : lines.axis
  return {
    aria: !isPage,
    font: "system-ui, sans-serif",
    background: isPage ? "transparent" : "#ffffff",
    axis: {
      grid: true,
      gridColor: line,
      domainColor: domain,
      tickColor: domain,
      labelColor: text,
      titleColor: text,
      titleFontWeight: "normal"
    },
    axisX: { labelLimit: 240 },
    header: { labelColor: text, titleColor: text },
    legend: {
      ...{ labelColor: text, titleColor: text, titleFontWeight: "normal", labelLimit: width === "wide" ? 300 : 290, symbolOpacity: 1 },
      ...{ orient: "bottom", direction: "horizontal", columns: width === "wide" ? 5 : 1, symbolStrokeColor: text }
    },
    rule: { color: text },
    text: { color: text },
    title: { color: text },
    view: { stroke: null }
  }
}

/** Escapes control characters and bidirectional overrides, since names and texts come from users and models. */
const shown = (rows: Rows): Rows =>
  rows.map((row) =>
    Object.fromEntries(Object.entries(row).map(([name, value]) => [name, typeof value === "string" ? visible(value) : value]))
  )

/** Does the same for names in a specification, such as those of a scale, so that they match the names in the rows. */
const written = (spec: unknown, key = ""): unknown => {
  // Expressions are written by Caravan, not by users.
  if (typeof spec === "string") return key === "labelExpr" ? spec : visible(spec)
  if (Array.isArray(spec)) return spec.map((one) => written(one))
  if (typeof spec !== "object" || spec === null) return spec
  return Object.fromEntries(Object.entries(spec).map(([name, value]) => [name, written(value, name)]))
}

/** The libraries are loaded when a figure is drawn, not when a pipeline is defined. */
const libraries = () => Promise.all([import("vega"), import("vega-lite")])

/** A page's wide figure as a separate file: on white, in the palette's colours. */
export const asFile = (svg: string): string =>
  svg
    .replaceAll(/<[^>]*>/g, (tag) =>
      tag
        .replaceAll(/(fill|stroke)="var\(--c(\d)\)"/g, (_, attribute: string, index: string) => `${attribute}="${palette[Number(index)]!}"`)
        .replaceAll(/(fill|stroke)="(currentColor|var\(--grid\)|var\(--axis\))"/g, (_, attribute: string, value: string) => {
          const colour = value === "currentColor" ? ink : value.includes("grid") ? lines.grid : lines.axis
          return `${attribute}="${colour}"`
        })
    )
    .replace(/<svg [^>]*>/, (tag) => `${tag}<rect width="100%" height="100%" fill="#ffffff"/>`)

export const drawFigure = async (figure: Drawn, place: "file" | "page" = "file", width: Width = "wide"): Promise<string> => {
  const [vega, vegaLite] = await libraries()
  const { spec } = vegaLite.compile({
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    data: { values: shown(figure.rows) },
    config: config(width, place === "page"),
    padding: place === "page" ? 2 : 12,
    ...(written(sized(figure, width)) as Spec)
  } as never)
  const view = new vega.View(vega.parse(spec), { renderer: "none" })
  const svg = await view.toSVG()
  view.finalize()
  return place === "page" ? themed(svg) : svg
}
