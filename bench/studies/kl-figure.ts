/** A study's arms by their KL to the initial policy: the reward that was optimised beside the grades of the oracle, so that over-optimisation is seen. */
import type { RunResult } from "../../runtime/run/events.ts"
import { mean } from "../../stages/common/statistics.ts"
import { drawFigure } from "../../stages/report/draw.ts"
import { axis, type Rows, series } from "../../stages/report/figure.ts"
import { judgedIn, type Measure, UsageError } from "./runs.ts"

/** A line: its name and its arms in order, such as a method's rounds. */
type Line = readonly [name: string, arms: ReadonlyArray<string>]

const ticks = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
const panels: ReadonlyArray<readonly [measure: Measure, title: string]> = [
  ["R_c", "R_c, of the reward models"],
  ["helpfulness", "helpfulness, by the oracle"],
  ["safety", "safety, by the oracle"]
]

/** An SVG with a panel per measure: a point per arm, the mean over the runs' seeds, on a logarithmic axis of the KL. Throws a UsageError for a KL of 0 or less. */
export const klFigure = (runs: ReadonlyArray<RunResult>, lines: ReadonlyArray<Line>): Promise<string> => {
  const rows: Rows = lines.flatMap(([line, arms]) =>
    arms.flatMap((arm, index) => {
      const judged = runs.map((run) => judgedIn(run, arm))
      const kl = mean(judged.map((one) => one.kl))
      if (!(kl > 0)) throw new UsageError(`The arm "${arm}" has a mean KL of ${kl}, which has no place on a logarithmic axis.`)
      return panels.map(([measure, panel]) => ({ line, index, kl, panel, value: mean(judged.map((one) => one[measure])) }))
    })
  )
  const kls = rows.map(({ kl }) => kl as number)
  const [low, high] = [0.9 * Math.min(...kls), 1.1 * Math.max(...kls)]
  return drawFigure({
    rows,
    spec: {
      facet: { column: { field: "panel", type: "nominal", title: null, sort: panels.map(([, title]) => title) } },
      spec: {
        width: 220,
        height: 260,
        mark: { type: "line", point: true },
        encoding: {
          x: axis("kl", "KL, nats per response", {
            scale: { type: "log", nice: false, domain: [low, high] },
            axis: { format: "~g", values: ticks.filter((tick) => low <= tick && tick <= high) }
          }),
          y: axis("value", null, { scale: { zero: false } }),
          order: { field: "index", type: "quantitative" },
          color: series(
            "line",
            null,
            lines.map(([name]) => name)
          )
        }
      },
      resolve: { scale: { y: "independent" } }
    }
  })
}
