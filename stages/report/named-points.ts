/** Points with error bars on both axes, a line through the versions, and a name at each point that covers no other. */
import { axis, colour, type Rows } from "./figure.ts"
import { placeLabels } from "./label-places.ts"

/** Size of the plot in pixels. */
const sizes = { wide: [600, 400], narrow: [280, 330] } as const

/** The range of the error bars, with a small margin. */
const domainOf = (lows: ReadonlyArray<number>, highs: ReadonlyArray<number>): readonly [number, number] => {
  const [low, high] = [Math.min(...lows), Math.max(...highs)]
  const room = high > low ? (high - low) * 0.06 : 0.05
  return [low - room, high + room]
}

/**
 * `rows`: name, kind ("version" or "control"), and for each of `x` and `y` its value and, as `<field>Low` and `<field>High`, the ends of its error bar. `what` follows
 * the fields' names in the axis titles.
 */
export const namedPoints = (
  rows: Rows,
  width: "wide" | "narrow",
  { x: across, y: up }: { readonly x: string; readonly y: string },
  what: string
): Readonly<Record<string, unknown>> => {
  const [pixelsX, pixelsY] = sizes[width]
  const numbers = (field: string) => rows.map((row) => row[field] as number)
  const [domainX, domainY] = [across, up].map((field) => domainOf(numbers(`${field}Low`), numbers(`${field}High`))) as [
    readonly [number, number],
    readonly [number, number]
  ]
  const atX = (value: number) => ((value - domainX[0]) / (domainX[1] - domainX[0])) * pixelsX
  const atY = (value: number) => pixelsY - ((value - domainY[0]) / (domainY[1] - domainY[0])) * pixelsY
  const labels = placeLabels(
    rows.map((row) => ({
      name: String(row.name),
      ...{ x: atX(row[across] as number), left: atX(row[`${across}Low`] as number), right: atX(row[`${across}High`] as number) },
      ...{ y: atY(row[up] as number), top: atY(row[`${up}High`] as number), bottom: atY(row[`${up}Low`] as number) }
    })),
    [pixelsX, pixelsY]
  )
  const x = axis(across, `${across} ${what}`, { scale: { domain: domainX, nice: false, zero: false } })
  const y = axis(up, `${up} ${what}`, { scale: { domain: domainY, nice: false, zero: false } })
  const kinds = colour("kind", null, ["version", "control"])
  const pixel = (name: string) => ({ value: { expr: `datum.${name}` } })
  return {
    width: pixelsX,
    height: pixelsY,
    layer: [
      {
        transform: [{ filter: "datum.kind == 'version'" }],
        mark: { type: "line", color: kinds.scale.range[0], opacity: 0.4 },
        encoding: { x, y, order: { field: "index", type: "quantitative" } }
      },
      { mark: "rule", encoding: { x: { ...x, field: `${across}Low` }, x2: { field: `${across}High` }, y, color: kinds } },
      { mark: "rule", encoding: { x, y: { ...y, field: `${up}Low` }, y2: { field: `${up}High` }, color: kinds } },
      {
        mark: { type: "point", filled: true, size: 70, opacity: 1 },
        encoding: { x, y, color: kinds, shape: { field: "kind", type: "nominal", title: null, scale: { domain: kinds.scale.domain } } }
      },
      {
        data: { values: labels },
        mark: { type: "rule", opacity: 0.35 },
        encoding: { x: pixel("x"), y: pixel("y"), x2: pixel("labelX"), y2: pixel("labelY") }
      },
      {
        data: { values: labels },
        mark: { type: "text", align: { expr: "datum.align" }, baseline: "middle" },
        encoding: { x: pixel("labelX"), y: pixel("labelY"), text: { field: "name" } }
      }
    ],
    transform: [{ window: [{ op: "row_number", as: "index" }] }]
  }
}
