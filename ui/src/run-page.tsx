/** A run: its status, graph, nodes, curves and options. */
import { signal } from "@preact/signals"
import { useEffect, useMemo, useState } from "preact/hooks"
import { ask } from "./api.ts"
import { Doing, mayControl, tell, Token, token } from "./control.tsx"
import { duration, moment, number, plain, shortRun, shown } from "./format.ts"
import { Graph } from "./graph.tsx"
import { lazy } from "./lazy.tsx"
import { Lock } from "./lock.tsx"
import { listen } from "./live.ts"
import { NodePanel } from "./node-panel.tsx"
import { Note } from "./note-form.tsx"
import { NodesTable } from "./nodes-table.tsx"
import { CountBar, State, stateWord, Trouble, useNow } from "./parts.tsx"
import { go, link } from "./route.ts"
import { RunCurves } from "./run-curves.tsx"
import { applyEvent, type RunStore, storeOf } from "./run-state.ts"

const tabs = ["graph", "nodes", "curves", "texts", "settings"] as const
const withPanel = ["graph", "nodes"]
const TextsTab = lazy(() => import("./texts-tab.tsx").then((module) => module.TextsTab))

const Running = ({ store }: { readonly store: RunStore }) => {
  void store.tick.value
  const running = [...store.nodes.values()].filter((node) => node.peek().state === "running").slice(0, 6)
  if (running.length === 0) return null
  return (
    <ul class="running" aria-label="Running now">
      {running.map((node) => {
        const { id, left, progress, started } = node.peek()
        const told = progress ?? {}
        return (
          <li key={id}>
            <a href={link(["run", store.view.id, "graph"], { node: id })}>{plain(id)}</a>
            {typeof told.step === "number" && typeof told.total === "number" ? (
              <>
                <progress value={told.step} max={told.total} aria-label={`Steps of ${plain(id)}`} />
                <span class="number">
                  {number(told.step)} of {number(told.total)}
                </span>
              </>
            ) : null}
            {typeof told.loss === "number" ? <span class="number">loss {number(told.loss)}</span> : null}
            {typeof told.tokensPerSecond === "number" ? (
              <span class="number quiet">{number(Math.round(told.tokensPerSecond))} tokens/s</span>
            ) : null}
            {typeof told.gpuMemory === "number" ? (
              <span class="number quiet">{number(Math.round(told.gpuMemory / 102.4) / 10)} GiB of GPU memory</span>
            ) : null}
            <span class="quiet">{left === null ? (started === null ? "" : duration(Date.now() - started)) : `${duration(left)} left`}</span>
          </li>
        )
      })}
    </ul>
  )
}

const Summary = ({ store }: { readonly store: RunStore }) => {
  const { view } = store
  const isRunning = store.status.value === "running"
  const now = useNow(isRunning ? 1000 : 60_000)
  const counts = store.counts.value
  const total = store.nodes.size
  const settled = ["ran", "hit", "failed", "skipped"].reduce((sum, state) => sum + (counts[state] ?? 0), 0)
  const end = store.finished.value ?? (isRunning ? now : null)
  return (
    <div class="run-head">
      <div class="run-title">
        <h1>
          {plain(view.pipeline)} <span class="mono quiet">{shortRun(view.id)}</span>
        </h1>
        <State state={store.status.value} />
        <span title={moment(view.started)}>started {moment(view.started)}</span>
        {end === null ? null : <span>{isRunning ? `${duration(end - view.started)} so far` : `took ${duration(end - view.started)}`}</span>}
        {isRunning && store.left.value !== null ? (
          <span title="Estimated from the nodes' earlier durations">about {duration(store.left.value)} left</span>
        ) : null}
        {view.previous === null ? null : (
          <a href={link(["compare", view.previous, view.id])} class="quiet">
            compare with the previous run
          </a>
        )}
      </div>
      <div class="run-counts">
        <CountBar counts={counts} total={total} />
        <span>
          {settled} of {total} nodes
        </span>
        {["failed", "running", "ran", "hit", "skipped", "stopped", "waiting"].map((state) =>
          (counts[state] ?? 0) === 0 ? null : (
            <span key={state} class={state === "failed" ? "bad" : "quiet"}>
              {counts[state]} {stateWord(state)}
            </span>
          )
        )}
      </div>
      <Running store={store} />
      <Actions store={store} />
    </div>
  )
}

/** Buttons to stop, resume and rerun, if allowed. */
const Actions = ({ store }: { readonly store: RunStore }) => {
  if (!mayControl()) return null
  if (token.value === "")
    return (
      <details>
        <summary>Enter the token to stop, resume and add notes</summary>
        <Token />
      </details>
    )
  const { id, resume } = store.view
  const isRunning = store.status.value === "running"
  const begin = () =>
    tell("begin", { run: id }).then((begun) => {
      if (begun.run !== null) go(link(["run", begun.run]))
      return begun
    })
  return (
    <div class="run-actions">
      {isRunning ? (
        <Doing act={() => tell("stop", { run: id })} sure="Stop the run?">
          Stop
        </Doing>
      ) : resume === null ? (
        <Doing act={begin}>{store.status.value === "succeeded" ? "Run again" : "Resume"}</Doing>
      ) : (
        <span class="quiet small">{plain(resume)}</span>
      )}
    </div>
  )
}

const Settings = ({ store }: { readonly store: RunStore }) => {
  const { asked, changes, outputs, selection } = store.view
  const changed = new Map((changes ?? []).map(({ what, before }) => [what, before]))
  return (
    <div class="settings">
      <section class="block">
        <h3>Options</h3>
        <table class="config">
          <tbody>
            {Object.entries({ ...asked, ...selection }).map(([name, value]) => (
              <tr key={name} class={changed.has(name) ? "differs" : ""}>
                <th scope="row">{plain(name)}</th>
                <td>{plain(shown(value))}</td>
                <td class="quiet">
                  {changed.has(name) ? `previously: ${changed.get(name) === null ? "not set" : plain(shown(changed.get(name)))}` : ""}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <section class="block">
        <h3>Outputs</h3>
        <table class="config">
          <tbody>
            {Object.entries(outputs).map(([name, node]) => (
              <tr key={name}>
                <th scope="row">{plain(name)}</th>
                <td>
                  <a href={link(["run", store.view.id, "graph"], { node })}>{plain(node)}</a>
                </td>
                <td>
                  <State state={store.nodes.get(node)?.value.state ?? "waiting"} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <Note store={store} />
      <Lock run={store.view.id} />
    </div>
  )
}

export const RunPage = ({ id, node, tab }: { readonly id: string; readonly tab: string; readonly node: string | undefined }) => {
  const [store, setStore] = useState<RunStore>()
  const [error, setError] = useState<unknown>()
  const graphState = useMemo(() => ({ scale: signal(1), unfolded: signal<ReadonlySet<string>>(new Set()) }), [id])
  useEffect(() => {
    let current: RunStore | undefined
    let gone = false
    const load = () => {
      ask("run", { run: id }).then(
        (view) => {
          if (gone) return
          current = storeOf(view)
          setStore(current)
          setError(undefined)
        },
        (cause: unknown) => gone || setError(cause)
      )
    }
    let isFirst = true
    load()
    const close = listen(
      id,
      () => (isFirst ? (isFirst = false) : load()),
      (event) => {
        if (event.type === "trouble") setError(new Error(event.message))
        else if (event.type === "run" && current !== undefined) applyEvent(current, event)
      }
    )
    return () => {
      gone = true
      close()
    }
  }, [id])
  useEffect(() => {
    if (store !== undefined) document.title = `${store.view.pipeline} ${shortRun(id)} · Caravan`
    return () => {
      document.title = "Caravan"
    }
  }, [store])
  if (store === undefined) return <div class="page">{error === undefined ? <p class="quiet">Loading …</p> : <Trouble error={error} />}</div>
  const shownTab = (tabs as ReadonlyArray<string>).includes(tab) ? tab : "graph"
  return (
    <div class="page">
      <Summary store={store} />
      {error === undefined ? null : <Trouble error={error} />}
      <nav class="tabs" aria-label="Parts of the run">
        {tabs.map((name) => (
          <a
            key={name}
            href={link(["run", id, name], { node: withPanel.includes(name) ? node : undefined })}
            aria-current={name === shownTab ? "page" : undefined}
          >
            {name[0]!.toUpperCase() + name.slice(1)}
          </a>
        ))}
      </nav>
      <div class={node === undefined || !withPanel.includes(shownTab) ? "body" : "body with-panel"}>
        <div class="body-main">
          {shownTab === "graph" ? (
            <Graph store={store} chosen={node} scale={graphState.scale} unfoldedSignal={graphState.unfolded} />
          ) : null}
          {shownTab === "nodes" ? <NodesTable store={store} chosen={node} /> : null}
          {shownTab === "curves" ? <RunCurves store={store} /> : null}
          {shownTab === "texts" ? <TextsTab run={id} ended={(store.counts.value.ran ?? 0) + (store.counts.value.hit ?? 0)} /> : null}
          {shownTab === "settings" ? <Settings store={store} /> : null}
        </div>
        {node === undefined || !withPanel.includes(shownTab) ? null : (
          <NodePanel id={node} store={store} close={link(["run", id, shownTab])} />
        )}
      </div>
    </div>
  )
}
