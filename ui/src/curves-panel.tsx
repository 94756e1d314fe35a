/** A node's curves, updated live. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks"
import { Refused } from "./api.ts"
import { Chart, type Line } from "./chart.tsx"
import { type Curve, drawnOf, extended, loadCurve, pointsOf, smoothed } from "./curve.ts"
import { count, number, plain } from "./format.ts"
import { Section, Trouble } from "./parts.tsx"

export interface Drawing {
  readonly over: "step" | "seconds"
  readonly smoothing: number
  readonly logX: boolean
  readonly logY: boolean
}
export const asItIs: Drawing = { over: "step", smoothing: 0, logX: false, logY: false }

export const DrawingTools = ({ drawing, set }: { readonly drawing: Drawing; readonly set: (drawing: Drawing) => void }) => (
  <div class="tools">
    <label>
      smoothing
      <input
        type="range"
        min="0"
        max="0.99"
        step="0.01"
        value={drawing.smoothing}
        onInput={(event) => set({ ...drawing, smoothing: Number(event.currentTarget.value) })}
      />
      <output class="number">{drawing.smoothing.toFixed(2)}</output>
    </label>
    <label>
      <input type="checkbox" checked={drawing.logY} onChange={(event) => set({ ...drawing, logY: event.currentTarget.checked })} /> log y
    </label>
    <label>
      <input type="checkbox" checked={drawing.logX} onChange={(event) => set({ ...drawing, logX: event.currentTarget.checked })} /> log x
    </label>
    <label>
      <input
        type="checkbox"
        checked={drawing.over === "seconds"}
        onChange={(event) => set({ ...drawing, over: event.currentTarget.checked ? "seconds" : "step" })}
      />{" "}
      over time
    </label>
  </div>
)

/** A curve's lines: the smoothed one, and the raw one behind it. */
export const linesOf = (curve: Curve, name: string, label: string, colour: number, { over, smoothing }: Drawing): ReadonlyArray<Line> => {
  const [x, y] = pointsOf(curve, name, over)
  if (smoothing === 0) return [{ label, x, y, colour }]
  return [
    { label: `${label}, as reported`, x, y, colour, faint: true },
    { label, x, y: smoothed(y, smoothing), colour }
  ]
}

/** Number of columns drawn at first if there are many. */
const shownAtFirst = 4

export const NodeCurves = ({
  node,
  run,
  state,
  tick
}: {
  readonly run: string
  readonly node: string
  readonly state: string
  readonly tick: number
}) => {
  const [curve, set] = useState<Curve>()
  const [none, setNone] = useState(false)
  const [error, setError] = useState<unknown>()
  const [drawing, setDrawing] = useState(asItIs)
  const [all, setAll] = useState(false)
  const latest = useRef<Curve | undefined>(undefined)
  latest.current = curve
  const busy = useRef(false)
  const isRunning = state === "running"
  useEffect(() => {
    set(undefined)
    latest.current = undefined
    setNone(false)
  }, [run, node])
  useEffect(() => {
    if (state === "waiting" || busy.current) return
    let gone = false
    busy.current = true
    const before = isRunning && latest.current?.source === "live" ? latest.current : undefined
    loadCurve(run, node, before?.next ?? 0)
      .then(
        (more) => {
          if (gone) return
          setNone(false)
          set(before === undefined ? more : extended(before, more))
        },
        (cause: unknown) => {
          if (gone) return
          if (cause instanceof Refused && cause.status === 404) setNone(latest.current === undefined)
          else setError(cause)
        }
      )
      .finally(() => {
        busy.current = false
      })
    return () => {
      gone = true
    }
  }, [run, node, state, isRunning ? Math.floor(tick / 2) : 0])
  const names = useMemo(() => (curve === undefined ? [] : drawnOf(curve)), [curve])
  if (error !== undefined) return <Trouble error={error} />
  if (none || curve === undefined || names.length === 0) return null
  const shownNames = all ? names : names.slice(0, shownAtFirst)
  return (
    <Section title="Curves" side={<span class="quiet">{count(curve.rows, "report")}</span>}>
      <DrawingTools drawing={drawing} set={setDrawing} />
      {[...curve.notNumbers].map(([name, { count: times, firstAt }]) => (
        <p key={name} class="warning">
          {plain(name)} is NaN or infinite {times === 1 ? "once" : `${times} times`}
          {firstAt === null ? "" : `, first at step ${number(firstAt)}`}.
        </p>
      ))}
      <div class="charts">
        {shownNames.map((name) => (
          <OneChart key={name} curve={curve} name={name} drawing={drawing} />
        ))}
      </div>
      {names.length > shownAtFirst ? (
        <button type="button" class="plain-button" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "fewer" : `${names.length - shownAtFirst} more: ${names.slice(shownAtFirst).map(plain).join(", ")}`}
        </button>
      ) : null}
    </Section>
  )
}

const OneChart = ({ curve, drawing, name }: { readonly curve: Curve; readonly name: string; readonly drawing: Drawing }) => {
  const lines = useMemo(() => linesOf(curve, name, name, 0, drawing), [curve, name, drawing])
  return <Chart lines={lines} title={name} over={drawing.over} logX={drawing.logX} logY={drawing.logY} />
}
