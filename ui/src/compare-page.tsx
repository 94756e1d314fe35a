/** Compares two runs: options, and per node config, code, inputs, metrics and outputs; their reports' figures side by side. */
import { useEffect, useState } from "preact/hooks"
import type { Comparison } from "../../cli/ui/api.ts"
import { addressOf, ask } from "./api.ts"
import { count, moment, number, plain, short, shortRun, shown } from "./format.ts"
import { State, Trouble } from "./parts.tsx"
import { link } from "./route.ts"

type Change = Comparison["nodes"][number]["changes"][number]

/** Abbreviates digests. */
const brief = (value: unknown): string => {
  if (value === null || value === undefined) return "–"
  if (Array.isArray(value)) return value.map(brief).join(", ")
  if (typeof value === "string")
    return /^[0-9a-f]{64}$/.test(value) ? short(value) : plain(value.length > 160 ? `${value.slice(0, 160)}…` : value)
  return typeof value === "number" ? number(value) : plain(shown(value))
}

/** How much a metric changed, in its own unit. */
const moved = ({ after, before, kind }: Change): string => {
  if (kind !== "metrics" || typeof before !== "number" || typeof after !== "number") return ""
  const difference = after - before
  return `${difference > 0 ? "+" : ""}${number(Number(difference.toPrecision(3)))}`
}

const Changes = ({ changes }: { readonly changes: ReadonlyArray<Change> }) => (
  <table class="changes-table">
    <tbody>
      {changes.map((change, i) => (
        <tr key={i}>
          <th scope="row">
            <span class="quiet">{change.kind === change.what ? "" : change.kind}</span>{" "}
            {plain(change.what.replace(/^.*node_modules\//, ""))}
          </th>
          <td>{brief(change.before)}</td>
          <td>{brief(change.after)}</td>
          <td class="number quiet">{moved(change)}</td>
        </tr>
      ))}
    </tbody>
  </table>
)

const kinds = ["config", "code", "inputs", "metrics", "output", "status", "seed", "numerics", "stage"]

export const ComparePage = ({ after, before }: { readonly before: string; readonly after: string }) => {
  const [found, set] = useState<Comparison>()
  const [error, setError] = useState<unknown>()
  const [only, setOnly] = useState("")
  useEffect(() => {
    ask("compare", { before, after }).then(set, setError)
  }, [before, after])
  if (found === undefined)
    return <div class="page">{error === undefined ? <p class="quiet">Comparing …</p> : <Trouble error={error} />}</div>
  const nodes = found.nodes.flatMap((node) => {
    const changes = only === "" ? node.changes : node.changes.filter(({ kind }) => kind === only)
    return changes.length > 0 || (only === "" && (node.only !== null || node.report.length > 0)) ? [{ ...node, changes }] : []
  })
  return (
    <div class="page">
      <div class="page-head wrap">
        <h1>Comparison</h1>
        <span class="grow" />
        <a href={link(["compare", after, before])}>swap</a>
      </div>
      <div class="two">
        {[found.before, found.after].map((run, i) => (
          <div key={i}>
            <span class="quiet">{i === 0 ? "before" : "after"}</span>{" "}
            <a href={link(["run", run.id])}>
              <strong>{plain(run.pipeline)}</strong> <span class="mono">{shortRun(run.id)}</span>
            </a>{" "}
            <State state={run.status} /> <span class="quiet">{moment(run.started)}</span>
          </div>
        ))}
      </div>
      <section class="block">
        <h3>Options</h3>
        {found.asked.length === 0 ? (
          <p class="quiet">No difference.</p>
        ) : (
          <Changes changes={found.asked.map((change) => ({ kind: change.what, ...change }))} />
        )}
      </section>
      <section class="block">
        <div class="block-head">
          <h3>
            {count(found.nodes.length, "node")} differ{found.nodes.length === 1 ? "s" : ""}, {found.same} {found.same === 1 ? "is" : "are"}{" "}
            the same
          </h3>
          <select aria-label="Kind of difference" value={only} onChange={(event) => setOnly(event.currentTarget.value)}>
            <option value="">anything</option>
            {kinds.map((kind) => (
              <option key={kind}>{kind}</option>
            ))}
          </select>
        </div>
        {nodes.map((node) => (
          <details key={node.node} class="node-change" open={nodes.length <= 6}>
            <summary>
              <strong>{plain(node.node)}</strong>{" "}
              {node.only === null ? [...new Set(node.changes.map(({ kind }) => kind))].join(", ") : `only in the run ${node.only}`}
            </summary>
            <Changes changes={node.changes} />
            {node.report.length === 0 ? null : (
              <ul class="plain-list">
                {node.report.map((line) => (
                  <li key={line}>report {plain(line)}</li>
                ))}
              </ul>
            )}
          </details>
        ))}
      </section>
      {found.figures.map((figures) => (
        <section key={figures.node} class="block">
          <h3>Figures of {plain(figures.node)}</h3>
          {Array.from({ length: figures.count }, (_, i) => (
            <div key={i} class="two figures">
              {[figures.before, figures.after].map((digest, side) => (
                <img
                  key={side}
                  loading="lazy"
                  src={addressOf("figure", { digest, index: i })}
                  alt={`${plain(figures.titles[i] ?? `Figure ${i + 1}`)}, ${side === 0 ? "before" : "after"}`}
                />
              ))}
            </div>
          ))}
        </section>
      ))}
    </div>
  )
}
