/** Several runs, such as a sweep's: each run's options and metrics, and their curves, overlaid or separately. */
import { useEffect, useMemo, useState } from "preact/hooks"
import type { RunTable } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { Chart, colourOf } from "./chart.tsx"
import { type Curve, drawnOf, loadCurve } from "./curve.ts"
import { asItIs, type Drawing, DrawingTools, linesOf } from "./curves-panel.tsx"
import { number, plain, shortRun, shown } from "./format.ts"
import { State, Trouble } from "./parts.tsx"
import { link } from "./route.ts"

type Run = RunTable["runs"][number]
const columnsAtFirst = 8

/** What distinguishes a run from the others, in brief. */
const nameOf = (run: Run, asked: ReadonlyArray<string>): string => {
  const told = asked.slice(0, 3).map((name) => `${name.split(".").at(-1)}=${run.asked[name] === undefined ? "–" : shown(run.asked[name])}`)
  return told.length === 0 ? shortRun(run.line.id) : told.join(" ")
}

const Measured = ({ table }: { readonly table: RunTable }) => {
  const [sort, setSort] = useState<{ readonly name: string; readonly down: boolean }>()
  const [all, setAll] = useState(false)
  const differing = table.measures.filter(({ differs }) => differs).map(({ name }) => name)
  const names = all ? table.measures.map(({ name }) => name) : differing.slice(0, columnsAtFirst)
  const runs = useMemo(() => {
    if (sort === undefined) return table.runs
    const value = (run: Run) => run.measures[sort.name] ?? run.asked[sort.name]
    const sign = sort.down ? -1 : 1
    return table.runs.toSorted((a, b) => {
      const [x, y] = [value(a), value(b)]
      if (x === undefined || y === undefined) return x === y ? 0 : x === undefined ? 1 : -1
      return sign * (Number.isFinite(Number(x)) && Number.isFinite(Number(y)) ? Number(x) - Number(y) : String(x).localeCompare(String(y)))
    })
  }, [table, sort])
  const Head = ({ name, numeric }: { readonly name: string; readonly numeric?: boolean }) => (
    <th class={numeric === true ? "number" : ""} aria-sort={sort?.name === name ? (sort.down ? "descending" : "ascending") : "none"}>
      <button type="button" class="plain-button" onClick={() => setSort({ name, down: sort?.name === name ? !sort.down : true })}>
        {plain(name)}
        {sort?.name === name ? (sort.down ? " ↓" : " ↑") : ""}
      </button>
    </th>
  )
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label="Runs and their metrics">
        <table class="measured">
          <thead>
            <tr>
              <th>Run</th>
              {table.asked.map((name) => (
                <Head key={name} name={name} />
              ))}
              {names.map((name) => (
                <Head key={name} name={name} numeric />
              ))}
            </tr>
          </thead>
          <tbody>
            {runs.map((run) => (
              <tr key={run.line.id}>
                <td>
                  <i class="swatch" style={{ background: `var(${colourOf(table.runs.indexOf(run))})` }} />{" "}
                  <State state={run.line.status} quiet />{" "}
                  <a class="mono" href={link(["run", run.line.id])}>
                    {shortRun(run.line.id)}
                  </a>
                </td>
                {table.asked.map((name) => (
                  <td key={name}>{run.asked[name] === undefined ? <span class="quiet">–</span> : plain(shown(run.asked[name]))}</td>
                ))}
                {names.map((name) => {
                  const value = run.measures[name]
                  return (
                    <td key={name} class="number">
                      {value === undefined ? (
                        <span class="quiet">–</span>
                      ) : typeof value === "number" ? (
                        number(value)
                      ) : (
                        plain(String(value))
                      )}
                    </td>
                  )
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {table.measures.length > names.length || all ? (
        <button type="button" class="plain-button" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "only differing metrics" : `all ${table.measures.length} metrics (${differing.length} differ)`}
        </button>
      ) : null}
    </>
  )
}

const Curves = ({ node, table }: { readonly node: string; readonly table: RunTable }) => {
  const [curves, setCurves] = useState<ReadonlyMap<string, Curve>>(new Map())
  const [error, setError] = useState<unknown>()
  const [drawing, setDrawing] = useState<Drawing>(asItIs)
  const [apart, setApart] = useState(false)
  useEffect(() => {
    let gone = false
    setCurves(new Map())
    for (const { line } of table.runs)
      loadCurve(line.id, node).then(
        (curve) => gone || setCurves((before) => new Map([...before, [line.id, curve]])),
        (cause: unknown) => gone || setError(cause)
      )
    return () => {
      gone = true
    }
  }, [node, table])
  const names = useMemo(() => [...new Set([...curves.values()].flatMap(drawnOf))], [curves])
  const linesFor = (name: string, ids: ReadonlyArray<string>) =>
    table.runs.flatMap((run, i) => {
      const curve = curves.get(run.line.id)
      return curve === undefined || !curve.columns.has(name) || !ids.includes(run.line.id)
        ? []
        : linesOf(curve, name, nameOf(run, table.asked), i, drawing)
    })
  const all = table.runs.map(({ line }) => line.id)
  if (error !== undefined) return <Trouble error={error} />
  return (
    <>
      <div class="tools">
        <DrawingTools drawing={drawing} set={setDrawing} />
        <label>
          <input type="checkbox" checked={apart} onChange={(event) => setApart(event.currentTarget.checked)} /> separate charts
        </label>
      </div>
      {names.map((name) =>
        apart ? (
          <section key={name} class="block">
            <h3>{plain(name)}</h3>
            <div class="charts small-multiples">
              {table.runs.map((run) => (
                <Chart
                  key={run.line.id}
                  lines={linesFor(name, [run.line.id])}
                  title={nameOf(run, table.asked)}
                  over={drawing.over}
                  logX={drawing.logX}
                  logY={drawing.logY}
                  height={120}
                />
              ))}
            </div>
          </section>
        ) : (
          <Chart
            key={name}
            lines={linesFor(name, all)}
            title={name}
            over={drawing.over}
            logX={drawing.logX}
            logY={drawing.logY}
            height={220}
          />
        )
      )}
    </>
  )
}

export const TablePage = ({ ids }: { readonly ids: string }) => {
  const [table, set] = useState<RunTable>()
  const [error, setError] = useState<unknown>()
  const [node, setNode] = useState<string>()
  useEffect(() => {
    ask("table", { runs: ids }).then((answer) => {
      set(answer)
      setNode(answer.curves[0])
    }, setError)
  }, [ids])
  if (table === undefined) return <div class="page">{error === undefined ? <p class="quiet">Loading …</p> : <Trouble error={error} />}</div>
  return (
    <div class="page">
      <div class="page-head">
        <h1>{table.runs.length} runs</h1>
      </div>
      <Measured table={table} />
      <section class="block">
        <div class="block-head">
          <h3>Curves</h3>
          {table.curves.length === 0 ? (
            <span class="quiet">No node has a curve in all of these runs.</span>
          ) : (
            <select aria-label="Node" value={node} onChange={(event) => setNode(event.currentTarget.value)}>
              {table.curves.map((one) => (
                <option key={one} value={one}>
                  {plain(one)}
                </option>
              ))}
            </select>
          )}
        </div>
        {node === undefined ? null : <Curves node={node} table={table} />}
      </section>
    </div>
  )
}
