/** A chart of one or several curves, drawn by uPlot. Dragging zooms in; a double click (or Escape) resets. */
import { useEffect, useRef } from "preact/hooks"
import uPlot from "uplot"
import "uplot/dist/uPlot.min.css"
import { duration, number, plain } from "./format.ts"

export interface Line {
  readonly label: string
  readonly x: Float64Array
  readonly y: Float64Array
  /** Index of the colour; `faint` marks the raw line behind a smoothed one. */
  readonly colour: number
  readonly faint?: boolean
}

const colours = ["--line-0", "--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6", "--line-7"]
export const colourOf = (index: number): string => colours[index % colours.length]!
const style = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/** uPlot needs one x axis for all lines: the union of their steps, with gaps where a line has no value. */
const joined = (lines: ReadonlyArray<Line>): uPlot.AlignedData => {
  if (lines.length === 0) return [[]]
  const same = lines.every(
    ({ x }) => x === lines[0]!.x || (x.length === lines[0]!.x.length && x.every((value, i) => value === lines[0]!.x[i]))
  )
  if (same) return [lines[0]!.x, ...lines.map(({ y }) => y)] as unknown as uPlot.AlignedData
  return uPlot.join(lines.map(({ x, y }) => [x, y] as unknown as uPlot.AlignedData))
}

export const Chart = ({
  lines,
  title,
  over,
  logX,
  logY,
  height = 150
}: {
  readonly lines: ReadonlyArray<Line>
  readonly title: string
  readonly over: "step" | "seconds"
  readonly logX?: boolean
  readonly logY?: boolean
  readonly height?: number
}) => {
  const place = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | undefined>(undefined)
  const shape = `${lines.map(({ label, colour, faint }) => `${label} ${colour} ${faint}`).join("|")} ${over} ${logX} ${logY}`
  const isPositive = (values: "x" | "y") => lines.every((line) => line[values].every((value) => value > 0))
  useEffect(() => {
    const [grid, text] = [style("--grid"), style("--quiet")]
    const axis: uPlot.Axis = {
      stroke: text,
      grid: { stroke: grid, width: 1 },
      ticks: { stroke: grid, width: 1, size: 4 },
      font: "11px system-ui",
      gap: 4
    }
    const make = () =>
      new uPlot(
        {
          width: place.current!.clientWidth,
          height,
          cursor: { drag: { x: true, y: false }, sync: { key: `curves-${over}` }, points: { size: 6 } },
          legend: { live: true },
          scales: {
            x: { time: false, distr: logX === true && isPositive("x") ? 3 : 1 },
            y: { distr: logY === true && isPositive("y") ? 3 : 1 }
          },
          axes: [
            {
              ...axis,
              size: 28,
              values: (_, splits) =>
                splits.map((value) => (value === null ? "" : over === "seconds" ? duration(1000 * value) : number(value)))
            },
            { ...axis, size: 56, values: (_, splits) => splits.map((value) => (value === null ? "" : number(value))) }
          ],
          series: [
            {
              label: over,
              value: (_, value: number | null) => (value === null ? "–" : over === "seconds" ? duration(1000 * value) : number(value))
            },
            ...lines.map(({ colour, faint, label }) => ({
              label: plain(label),
              stroke: style(colourOf(colour)),
              width: faint === true ? 1 : 1.5,
              alpha: faint === true ? 0.25 : 1,
              spanGaps: true,
              points: { show: false },
              value: (_: uPlot, value: number | null) => (value === null || value === undefined ? "–" : number(value))
            }))
          ]
        },
        joined(lines),
        place.current!
      )
    plot.current = make()
    const box = place.current!
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height }))
    sized.observe(box)
    const scheme = matchMedia("(prefers-color-scheme: dark)")
    const redrawn = () => {
      plot.current?.destroy()
      plot.current = make()
    }
    scheme.addEventListener("change", redrawn)
    return () => {
      scheme.removeEventListener("change", redrawn)
      sized.disconnect()
      plot.current?.destroy()
      plot.current = undefined
    }
  }, [shape, height])
  const last = useRef(lines)
  useEffect(() => {
    if (last.current !== lines) plot.current?.setData(joined(lines))
    last.current = lines
  }, [lines])
  const says = lines
    .map(({ label, y }) => (y.length === 0 ? `${label}: none` : `${label}: from ${number(y[0]!)} to ${number(y.at(-1)!)}`))
    .join("; ")
  return (
    <figure class="chart">
      <figcaption>{plain(title)}</figcaption>
      <div
        ref={place}
        role="img"
        aria-label={plain(`${title}, ${says}`)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return
          const data = plot.current!.data[0]
          plot.current!.setScale("x", { min: data[0]!, max: data.at(-1)! })
        }}
      />
    </figure>
  )
}
