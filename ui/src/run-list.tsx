/** All runs of the store, latest first. */
import { useEffect, useRef, useState } from "preact/hooks"
import type { RunLine } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { ago, count, duration, moment, plain, shortRun, shown } from "./format.ts"
import { listen } from "./live.ts"
import { CountBar, State, Trouble, useNow } from "./parts.tsx"
import { link } from "./route.ts"

/** Rows per page. */
const page = 50

/** Options that changed since the previous run, in brief. */
const Changes = ({ run }: { readonly run: RunLine }) => {
  const all = run.changes
  if (all === null) return <span class="quiet">first run</span>
  if (all.length === 0) return <span class="quiet">no change</span>
  const some = all
    .slice(0, 2)
    .map(({ what, after, before }) => (after === null ? `${what} removed (${shown(before)})` : `${what}=${shown(after)}`))
  const title = all.map(({ what, before, after }) => `${what}: ${shown(before)} → ${shown(after)}`).join("\n")
  return (
    <span title={plain(title)}>
      {plain(some.join(", "))}
      {all.length > 2 ? <span class="quiet"> and {all.length - 2} more</span> : null}
    </span>
  )
}

const settled = (run: RunLine): number => ["ran", "hit", "failed", "skipped"].reduce((sum, state) => sum + (run.counts[state] ?? 0), 0)

const Line = ({
  isChosen,
  now,
  pick,
  run
}: {
  readonly run: RunLine
  readonly now: number
  readonly isChosen: boolean
  readonly pick: () => void
}) => (
  <tr>
    <td class="pick-cell">
      <input type="checkbox" aria-label={`Choose ${plain(run.pipeline)} ${shortRun(run.id)}`} checked={isChosen} onChange={pick} />
    </td>
    <td>
      <State state={run.status} />
    </td>
    <td class="main-cell">
      <a href={link(["run", run.id])}>
        <strong>{plain(run.pipeline)}</strong> <span class="mono quiet">{shortRun(run.id)}</span>
      </a>
      {run.tags.map((tag) => (
        <span key={tag} class="tag">
          {plain(tag)}
        </span>
      ))}
      {run.note === "" ? null : <div class="note">{plain(run.note)}</div>}
    </td>
    <td title={moment(run.started)}>{ago(run.started, now)}</td>
    <td class="number">{duration((run.finished ?? (run.status === "running" ? now : run.started)) - run.started)}</td>
    <td class="nodes-cell">
      <CountBar counts={run.counts} total={run.total ?? settled(run)} />
      <span class="quiet">
        {settled(run)}
        {run.total === null ? "" : ` of ${run.total}`}
      </span>
    </td>
    <td class="changes">
      <Changes run={run} />
    </td>
  </tr>
)

export const RunList = () => {
  const [search, setSearch] = useState("")
  const [limit, setLimit] = useState(page)
  const [found, setFound] = useState<{ readonly runs: ReadonlyArray<RunLine>; readonly total: number }>()
  const [error, setError] = useState<unknown>()
  const [chosen, setChosen] = useState<ReadonlyArray<string>>([])
  // Compares the newer run with the older one.
  const inOrder = found?.runs.flatMap(({ id }) => (chosen.includes(id) ? [id] : [])).toReversed() ?? []
  const now = useNow(5000)
  const asking = useRef<AbortController | undefined>(undefined)
  const load = () => {
    asking.current?.abort()
    const stop = (asking.current = new AbortController())
    ask("runs", { search: search === "" ? undefined : search, limit }, stop.signal).then(
      (answer) => {
        setFound(answer)
        setError(undefined)
      },
      (cause: unknown) => stop.signal.aborted || setError(cause)
    )
  }
  const latest = useRef(load)
  latest.current = load
  useEffect(() => {
    const timer = setTimeout(load, found === undefined ? 0 : 120)
    return () => clearTimeout(timer)
  }, [search, limit])
  useEffect(() => {
    let timer: number | undefined
    let isFirst = true
    const soon = () => (timer ??= window.setTimeout(() => ((timer = undefined), latest.current()), 200))
    const close = listen(
      undefined,
      () => (isFirst ? (isFirst = false) : soon()),
      (event) => (event.type === "trouble" ? setError(new Error(event.message)) : event.type === "runs" ? soon() : undefined)
    )
    return () => (clearTimeout(timer), close())
  }, [])
  return (
    <div class="page">
      <div class="page-head">
        <h1>Runs</h1>
        <input
          type="search"
          class="search"
          placeholder="Pipeline, id, state, tag or note"
          aria-label="Search runs"
          value={search}
          onInput={(event) => (setSearch(event.currentTarget.value), setLimit(page))}
        />
        {found === undefined ? null : <span class="quiet">{count(found.total, "run")}</span>}
      </div>
      {error === undefined ? null : <Trouble error={error} />}
      {found === undefined ? null : found.runs.length === 0 ? (
        <p class="empty">{search === "" ? "Nothing has run here yet. New runs appear automatically." : "No matching runs."}</p>
      ) : (
        <div class="scroll">
          <table class="runs">
            <thead>
              <tr>
                <th>
                  <span class="hidden">Selected</span>
                </th>
                <th>State</th>
                <th>Pipeline</th>
                <th>Started</th>
                <th class="number">Duration</th>
                <th>Nodes</th>
                <th>Changes since the previous run</th>
              </tr>
            </thead>
            <tbody>
              {found.runs.map((run) => (
                <Line
                  key={run.id}
                  run={run}
                  now={now}
                  isChosen={chosen.includes(run.id)}
                  pick={() => setChosen(chosen.includes(run.id) ? chosen.filter((id) => id !== run.id) : [...chosen, run.id])}
                />
              ))}
            </tbody>
          </table>
          {found.total > found.runs.length ? (
            <button type="button" onClick={() => setLimit(limit + page)}>
              Show {Math.min(page, found.total - found.runs.length)} more
            </button>
          ) : null}
        </div>
      )}
      {chosen.length === 0 ? null : (
        <div class="chosen-bar">
          <span>{count(chosen.length, "run")} selected</span>
          {inOrder.length === 2 ? (
            <a class="button" href={link(["compare", ...inOrder])}>
              Compare
            </a>
          ) : null}
          {inOrder.length >= 2 ? (
            <a class="button" href={link(["table", inOrder.join(",")])}>
              Table and curves
            </a>
          ) : null}
          <button type="button" class="plain-button" onClick={() => setChosen([])}>
            clear selection
          </button>
        </div>
      )}
    </div>
  )
}
