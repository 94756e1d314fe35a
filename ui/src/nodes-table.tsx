/** All nodes of a run, in graph order. Only visible rows are in the DOM, so that thousands stay fast. */
import { useMemo, useRef, useState } from "preact/hooks"
import { duration, number, plain } from "./format.ts"
import { State, stateWord } from "./parts.tsx"
import { link } from "./route.ts"
import type { RunStore } from "./run-state.ts"

const rowHeight = 28
const viewRows = 22

const Row = ({
  id,
  index,
  stage,
  store,
  chosen
}: {
  readonly id: string
  readonly index: number
  readonly stage: string | null
  readonly store: RunStore
  readonly chosen: boolean
}) => {
  const state = store.nodes.get(id)?.value
  const progress = state?.progress
  const told =
    state?.error ??
    (state?.state === "running" && typeof progress?.step === "number"
      ? `step ${number(progress.step)}${progress.total === undefined ? "" : ` of ${number(progress.total)}`}${typeof progress.loss === "number" ? `, loss ${number(progress.loss)}` : ""}`
      : "")
  return (
    <tr aria-rowindex={index + 2} class={chosen ? "chosen" : ""}>
      <td>
        <State state={state?.state ?? "waiting"} />
      </td>
      <td class="main-cell">
        <a href={link(["run", store.view.id, "nodes"], { node: id })}>{plain(id)}</a>
      </td>
      <td class="quiet">{plain(stage ?? "")}</td>
      <td class="number">
        {state?.milliseconds === null || state === undefined || state.state === "hit" ? "" : duration(state.milliseconds)}
      </td>
      <td class="told" title={plain(told)}>
        {plain(told.split("\n", 1)[0]!)}
      </td>
    </tr>
  )
}

export const NodesTable = ({ chosen, store }: { readonly store: RunStore; readonly chosen: string | undefined }) => {
  const [search, setSearch] = useState("")
  const [only, setOnly] = useState("")
  const [top, setTop] = useState(0)
  const box = useRef<HTMLDivElement>(null)
  // State changes affect the set of rows only when filtering by state.
  const tick = only === "" ? 0 : store.tick.value
  const rows = useMemo(() => {
    const text = search.toLowerCase()
    return store.view.graph.filter(
      ({ id, stage }) =>
        stage !== null &&
        (text === "" || id.toLowerCase().includes(text) || stage.toLowerCase().includes(text)) &&
        (only === "" || (store.nodes.get(id)?.peek().state ?? "waiting") === only)
    )
  }, [store, search, only, tick])
  const from = Math.max(0, Math.min(Math.floor(top / rowHeight) - 6, rows.length - viewRows - 12))
  const seen = rows.slice(from, from + viewRows + 12)
  return (
    <div class="nodes">
      <div class="page-head">
        <input
          type="search"
          class="search"
          placeholder="Name or stage"
          aria-label="Search nodes"
          value={search}
          onInput={(event) => (setSearch(event.currentTarget.value), box.current?.scrollTo(0, 0))}
        />
        <select aria-label="State" value={only} onChange={(event) => setOnly(event.currentTarget.value)}>
          <option value="">any state</option>
          {["running", "failed", "waiting", "ran", "hit", "skipped", "stopped"].map((state) => (
            <option key={state} value={state}>
              {stateWord(state)}
            </option>
          ))}
        </select>
        <span class="quiet">
          {rows.length} of {store.nodes.size}
        </span>
      </div>
      <div
        class="scroll tall"
        ref={box}
        onScroll={(event) => setTop(event.currentTarget.scrollTop)}
        tabIndex={0}
        role="region"
        aria-label="Nodes"
      >
        <table class="virtual" aria-rowcount={rows.length + 1}>
          <thead>
            <tr>
              <th>State</th>
              <th>Node</th>
              <th>Stage</th>
              <th class="number">Duration</th>
              <th>Status</th>
            </tr>
          </thead>
          <tbody>
            {from > 0 ? <tr class="space" style={{ height: `${from * rowHeight}px` }} aria-hidden="true" /> : null}
            {seen.map(({ id, stage }, i) => (
              <Row key={id} id={id} index={from + i} stage={stage} store={store} chosen={id === chosen} />
            ))}
            {from + seen.length < rows.length ? (
              <tr class="space" style={{ height: `${(rows.length - from - seen.length) * rowHeight}px` }} aria-hidden="true" />
            ) : null}
          </tbody>
        </table>
      </div>
    </div>
  )
}
