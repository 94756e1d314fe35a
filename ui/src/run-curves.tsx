/** The curves of a whole run: the nodes that have curves, and a selection of them side by side. */
import { useEffect, useMemo, useState } from "preact/hooks"
import type { CurveLine } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { Chart, colourOf, type Line } from "./chart.tsx"
import { type Curve, drawnOf, loadCurve } from "./curve.ts"
import { asItIs, DrawingTools, linesOf } from "./curves-panel.tsx"
import { plain } from "./format.ts"
import { Trouble } from "./parts.tsx"
import type { RunStore } from "./run-state.ts"

const mostAtOnce = 8

export const RunCurves = ({ store }: { readonly store: RunStore }) => {
  const run = store.view.id
  const [lines, setLines] = useState<ReadonlyArray<CurveLine>>()
  const [chosen, setChosen] = useState<ReadonlyArray<string>>([])
  const [curves, setCurves] = useState<ReadonlyMap<string, Curve>>(new Map())
  const [error, setError] = useState<unknown>()
  const [drawing, setDrawing] = useState(asItIs)
  const ended = (store.counts.value.ran ?? 0) + (store.counts.value.failed ?? 0) + (store.counts.value.running ?? 0)
  const pulse = Math.floor(store.tick.value / 10)
  useEffect(() => {
    ask("curves", { run }).then((found) => {
      setLines(found)
      if (chosen.length === 0 && found[0] !== undefined) setChosen([found[0].node])
    }, setError)
  }, [run, ended])
  useEffect(() => {
    for (const node of chosen) {
      const isLive = store.nodes.get(node)?.peek().state === "running"
      if (curves.has(node) && !isLive && curves.get(node)!.source === "kept") continue
      loadCurve(run, node).then((curve) => setCurves((before) => new Map([...before, [node, curve]])), setError)
    }
  }, [run, chosen, pulse])
  const names = useMemo(
    () => [...new Set(chosen.flatMap((node) => (curves.has(node) ? drawnOf(curves.get(node)!) : [])))],
    [chosen, curves]
  )
  if (error !== undefined) return <Trouble error={error} />
  if (lines === undefined) return <p class="quiet">Loading …</p>
  if (lines.length === 0) return <p class="empty">No node of this run has reported numbers yet.</p>
  return (
    <div class="run-curves">
      <fieldset class="pick">
        <legend>Nodes</legend>
        {lines.map(({ node }) => {
          const index = chosen.indexOf(node)
          return (
            <label key={node}>
              <input
                type="checkbox"
                checked={index !== -1}
                disabled={index === -1 && chosen.length >= mostAtOnce}
                onChange={() => setChosen(index === -1 ? [...chosen, node] : chosen.filter((one) => one !== node))}
              />
              <i class="swatch" style={{ background: index === -1 ? "transparent" : `var(${colourOf(index)})` }} />
              {plain(node)}
            </label>
          )
        })}
      </fieldset>
      <div>
        <DrawingTools drawing={drawing} set={setDrawing} />
        <div class="charts wide">
          {names.map((name) => (
            <Overlay key={name} name={name} chosen={chosen} curves={curves} drawing={drawing} />
          ))}
        </div>
      </div>
    </div>
  )
}

const Overlay = ({
  chosen,
  curves,
  drawing,
  name
}: {
  readonly name: string
  readonly chosen: ReadonlyArray<string>
  readonly curves: ReadonlyMap<string, Curve>
  readonly drawing: typeof asItIs
}) => {
  const lines = useMemo(
    () =>
      chosen.flatMap((node, i): ReadonlyArray<Line> => {
        const curve = curves.get(node)
        return curve === undefined || !curve.columns.has(name) ? [] : linesOf(curve, name, node, i, drawing)
      }),
    [name, chosen, curves, drawing]
  )
  return lines.length === 0 ? null : (
    <Chart lines={lines} title={name} over={drawing.over} logX={drawing.logX} logY={drawing.logY} height={190} />
  )
}
