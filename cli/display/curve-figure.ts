/** Draws a curve as a figure: one panel per series, over the steps. */
import type { Figure } from "../../stages/report/figure.ts"

/** Maximum points per panel: a figure with a million points would be too large to open. */
const maxPoints = 500

/** Reduces the values to at most `most`, by averaging consecutive ones. */
export const thinned = (values: ReadonlyArray<number>, most: number): ReadonlyArray<number> => {
  if (values.length <= most) return values
  return Array.from({ length: most }, (_, i) => {
    const part = values.slice(Math.floor((i * values.length) / most), Math.floor(((i + 1) * values.length) / most))
    return part.reduce((sum, value) => sum + value, 0) / part.length
  })
}

/** `series`: each with its steps and values, in panel order. */
export const curveFigure = (
  title: string,
  series: ReadonlyMap<string, { readonly steps: ReadonlyArray<number>; readonly values: ReadonlyArray<number> }>
): Figure => ({
  id: "training-curves",
  title,
  caption: `Each number that the stage reported, by step; averaged if there are more than ${maxPoints} points.`,
  rows: [...series].flatMap(([what, { steps, values }]) => {
    const [at, shown] = [thinned(steps, maxPoints), thinned(values, maxPoints)]
    return shown.map((value, i) => ({ what, step: at[i]!, value: Number.isFinite(value) ? value : null }))
  }),
  spec: {
    title,
    facet: { field: "what", type: "nominal", title: null, sort: [...series.keys()] },
    columns: 3,
    spec: {
      width: 260,
      height: 140,
      mark: { type: "line", color: "#0072B2" },
      encoding: {
        x: { field: "step", type: "quantitative", title: "step" },
        y: { field: "value", type: "quantitative", title: null, scale: { zero: false }, axis: { minExtent: 40, maxExtent: 40 } }
      }
    },
    resolve: { scale: { y: "independent" } }
  }
})
