/** One node of a run: its inputs, why it ran, its log and its result. */
import { useEffect, useRef, useState } from "preact/hooks"
import type { LogPart, NodeView } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { Doing, mayControl, tell, token } from "./control.tsx"
import { NodeCurves } from "./curves-panel.tsx"
import { bytes, count, duration, moment, number, plain, short, shortRun, shown } from "./format.ts"
import { Copy, Section, State, Trouble } from "./parts.tsx"
import { go, link } from "./route.ts"
import type { RunStore } from "./run-state.ts"

const Metrics = ({ values }: { readonly values: Readonly<Record<string, number | string>> }) => (
  <dl class="facts">
    {Object.entries(values).map(([name, value]) => (
      <div key={name}>
        <dt>{plain(name)}</dt>
        <dd class="number">{plain(number(value))}</dd>
      </div>
    ))}
  </dl>
)

/** Shortens a reason: abbreviated digests and only the first files. */
const briefly = (line: string): string => {
  const text = plain(line.replaceAll(/\b[0-9a-f]{64}\b/g, (digest) => short(digest)))
  return text.length > 200 ? `${text.slice(0, text.lastIndexOf(" ", 180))} and more` : text
}

const Config = ({ view }: { readonly view: NodeView }) => {
  const differing = view.config.filter(({ differs }) => differs)
  const [all, setAll] = useState(false)
  const rows = all || differing.length === 0 ? view.config : differing
  if (view.config.length === 0 && view.seed === null) return null
  const same = view.config.length - differing.length
  return (
    <Section
      title="Config"
      side={
        differing.length > 0 && same > 0 ? (
          <button type="button" class="plain-button" aria-expanded={all} onClick={() => setAll(!all)}>
            {all ? "hide defaults" : `show ${count(same, "default")}`}
          </button>
        ) : null
      }
    >
      <table class="config">
        <tbody>
          {rows.map((field) => (
            <tr key={field.name} class={field.differs ? "differs" : ""} title={plain(field.description)}>
              <th scope="row">{plain(field.name)}</th>
              <td>{plain(shown(field.value))}</td>
              <td class="quiet">{field.differs ? (field.default === null ? "" : `default ${plain(shown(field.default))}`) : "default"}</td>
            </tr>
          ))}
          {view.seed === null ? null : (
            <tr>
              <th scope="row">seed</th>
              <td>{view.seed}</td>
              <td />
            </tr>
          )}
        </tbody>
      </table>
    </Section>
  )
}

const mostLines = 2000
const Log = ({
  isRunning,
  node,
  run,
  tick
}: {
  readonly run: string
  readonly node: string
  readonly tick: number
  readonly isRunning: boolean
}) => {
  const [part, set] = useState<LogPart>()
  const [error, setError] = useState<unknown>()
  const box = useRef<HTMLPreElement>(null)
  const last = useRef<LogPart | undefined>(undefined)
  last.current = part
  useEffect(() => {
    let gone = false
    const isAtEnd = box.current === null || box.current.scrollTop + box.current.clientHeight >= box.current.scrollHeight - 8
    ask("log", { run, node, from: last.current?.next }).then(
      (more) => {
        if (gone || (last.current !== undefined && more.lines.length === 0)) return
        set({
          ...more,
          omitted: last.current?.omitted ?? more.omitted,
          lines: [...(last.current?.lines ?? []), ...more.lines].slice(-mostLines)
        })
        if (isAtEnd) requestAnimationFrame(() => box.current?.scrollTo(0, box.current.scrollHeight))
      },
      (cause: unknown) => gone || setError(cause)
    )
    return () => {
      gone = true
    }
  }, [run, node, isRunning ? Math.floor(tick / 5) : tick])
  return (
    <Section title="Log">
      {error === undefined ? null : <Trouble error={error} />}
      {part === undefined ? null : (
        <pre class="log" ref={box} tabIndex={0} role="log" aria-label={`Log of ${plain(node)}`}>
          {part.omitted > 0 ? (
            <span class="quiet">
              {bytes(part.omitted)} before this are left out: caravan log has all of it.{"\n"}
            </span>
          ) : null}
          {part.lines.map(({ time, text }, i) => (
            <span key={i}>
              <span class="quiet">{plain(time.slice(11, 19))}</span> {plain(text)}
              {"\n"}
            </span>
          ))}
        </pre>
      )}
    </Section>
  )
}

const Pin = ({ digest, isPinned, reload }: { readonly digest: string; readonly isPinned: boolean; readonly reload: () => void }) => (
  <p>
    <Doing act={() => tell("pin", { digest, isPinned: !isPinned, note: "" }).then((done) => (reload(), done))}>
      {isPinned ? "Unpin" : "Pin"}
    </Doing>
  </p>
)

/** Reruns a node and its dependents. */
const Again = ({ node, run }: { readonly run: string; readonly node: string }) => (
  <p>
    <Doing
      sure="Rerun it and everything that depends on it?"
      act={() =>
        tell("begin", { run, node }).then((begun) => {
          if (begun.run !== null) go(link(["run", begun.run, "graph"], { node }))
          return begun
        })
      }
    >
      Rerun from here
    </Doing>
  </p>
)

const Result = ({ reload, view }: { readonly view: NodeView; readonly reload: () => void }) => {
  const { output } = view
  if (output === null) return null
  return (
    <Section title="Result">
      <dl class="facts">
        <div>
          <dt>type</dt>
          <dd>{plain(output.type)}</dd>
        </div>
        <div>
          <dt>digest</dt>
          <dd>
            <Copy text={output.digest} label={short(output.digest)} />
          </dd>
        </div>
        <div>
          <dt>size</dt>
          <dd>{output.bytes === null ? "no longer in the store" : `${bytes(output.bytes)} in ${count(output.files.length, "file")}`}</dd>
        </div>
        {output.pinned === null ? null : (
          <div>
            <dt>pinned</dt>
            <dd>{output.pinned === "" ? "yes" : plain(output.pinned)}</dd>
          </div>
        )}
      </dl>
      <Metrics values={output.metrics} />
      <p>
        <a href={link(["lineage", output.digest])}>Lineage: its origin and uses</a>
      </p>
      {mayControl() && token.value !== "" && output.isThere ? (
        <Pin digest={output.digest} isPinned={output.pinned !== null} reload={reload} />
      ) : null}
      {output.isThere && output.type.startsWith("dataset:") ? (
        <p>
          <a href={link(["rows", output.digest], { run: view.run, node: view.id })}>Rows</a>
        </p>
      ) : null}
      {output.skipped.map((line) => (
        <p key={line} class="warning">
          {plain(line)}
        </p>
      ))}
      {output.isThere ? null : (
        <p class="quiet">gc has deleted it. The journal's record is shown here; a run that needs the result recomputes it.</p>
      )}
      {view.report === null || view.report === undefined ? null : (
        <details>
          <summary>Report</summary>
          <pre class="log">{plain(JSON.stringify(view.report, undefined, 2))}</pre>
        </details>
      )}
    </Section>
  )
}

export const NodePanel = ({ id, store, close }: { readonly id: string; readonly store: RunStore; readonly close: string }) => {
  const run = store.view.id
  const live = store.nodes.get(id)
  const state = live?.value
  const [view, set] = useState<NodeView>()
  const [error, setError] = useState<unknown>()
  const [reloads, setReloads] = useState(0)
  const title = useRef<HTMLHeadingElement>(null)
  useEffect(() => {
    let gone = false
    ask("node", { run, node: id }).then(
      (answer) => gone || (set(answer), setError(undefined)),
      (cause: unknown) => gone || setError(cause)
    )
    return () => {
      gone = true
    }
  }, [run, id, state?.state, reloads])
  useEffect(() => title.current?.focus({ preventScroll: true }), [id])
  const shownState = state ?? view?.state
  const progress = shownState?.progress ?? {}
  const isRunning = shownState?.state === "running"
  const tick = state === undefined ? 0 : Math.floor((Number(progress.step ?? 0) * 1e6) % 1e9) + (isRunning ? 1 : 2)
  const steps = useRef(0)
  const lastTick = useRef(0)
  if (lastTick.current !== tick) {
    lastTick.current = tick
    steps.current++
  }
  return (
    <aside class="panel" aria-label={`Node ${plain(id)}`}>
      <div class="panel-head">
        <h2 tabIndex={-1} ref={title}>
          {plain(id)}
        </h2>
        <a class="close" href={close} aria-label="Close">
          ×
        </a>
      </div>
      {view === undefined && error === undefined ? <p class="quiet">Loading …</p> : null}
      {error === undefined ? null : <Trouble error={error} />}
      {view === undefined || shownState === undefined || view.id !== id ? null : (
        <>
          <p class="summary">
            <State state={shownState.state} />
            {shownState.milliseconds === null ? null : shownState.state === "hit" ? null : (
              <span>in {duration(shownState.milliseconds)}</span>
            )}
            {shownState.started === null ? null : <span class="quiet">started {moment(shownState.started)}</span>}
          </p>
          <p class="quiet">
            {plain(view.stage ?? "a file")}
            {view.description === "" ? "" : `: ${plain(view.description)}`}
          </p>
          {isRunning && typeof progress.step === "number" ? (
            <div class="progress-line">
              <progress value={progress.step} max={Number(progress.total ?? progress.step)} aria-label="Steps" />
              <span class="number">
                {number(progress.step)}
                {progress.total === undefined ? "" : ` of ${number(progress.total)}`}
              </span>
              {shownState.left === null ? null : <span class="quiet">{duration(shownState.left)} left</span>}
            </div>
          ) : null}
          {isRunning ? (
            <Metrics
              values={Object.fromEntries(Object.entries(progress).filter(([name]) => !["step", "total", "message"].includes(name)))}
            />
          ) : null}
          {shownState.error === null ? null : <Trouble error={shownState.error} />}
          {view.why.length === 0 ? null : (
            <Section title={shownState.state === "hit" ? "Why it did not run" : "Why it ran"}>
              <ul class="plain-list">
                {view.why.map((line) => (
                  <li key={line} title={plain(line)}>
                    {briefly(line)}
                  </li>
                ))}
                {view.madeBy === null ? null : (
                  <li>
                    made by run{" "}
                    <a class="mono" href={link(["run", view.madeBy, "graph"], { node: id })}>
                      {shortRun(view.madeBy)}
                    </a>
                  </li>
                )}
              </ul>
            </Section>
          )}
          {view.retries.length === 0 ? null : (
            <Section title="Retries">
              <ul class="plain-list">
                {view.retries.map((line) => (
                  <li key={line}>{plain(line)}</li>
                ))}
              </ul>
            </Section>
          )}
          <NodeCurves run={run} node={id} state={shownState.state} tick={steps.current} />
          <Result view={view} reload={() => setReloads((before) => before + 1)} />
          {mayControl() && token.value !== "" && store.status.value !== "running" && store.view.resume === null ? (
            <Again run={run} node={id} />
          ) : null}
          <Config view={view} />
          {view.inputs.length === 0 ? null : (
            <Section title="Inputs">
              <table class="config">
                <tbody>
                  {view.inputs.map((input, i) => (
                    <tr key={i}>
                      <th scope="row">{plain(input.port)}</th>
                      <td>
                        {input.node === null ? (
                          plain(input.name)
                        ) : (
                          <a href={link(["run", run, "graph"], { node: input.node })}>{plain(input.name)}</a>
                        )}
                      </td>
                      <td class="quiet mono">{input.digest === null ? "" : short(input.digest)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </Section>
          )}
          {view.usedBy.length === 0 ? null : (
            <Section title="Used by">
              <p class="names">
                {view.usedBy.map((name) => (
                  <a key={name} href={link(["run", run, "graph"], { node: name })}>
                    {plain(name)}
                  </a>
                ))}
              </p>
            </Section>
          )}
          {view.hasLog || isRunning ? <Log key={`${run} ${id}`} run={run} node={id} tick={steps.current} isRunning={isRunning} /> : null}
          {view.key === null ? null : (
            <details>
              <summary>Key, code and numerics</summary>
              <dl class="facts">
                <div>
                  <dt>key</dt>
                  <dd>
                    <Copy text={view.key} label={short(view.key)} />
                  </dd>
                </div>
                {Object.entries(view.numerics).map(([name, value]) => (
                  <div key={name}>
                    <dt>{plain(name)}</dt>
                    <dd class="mono">{plain(value.length === 64 ? short(value) : value)}</dd>
                  </div>
                ))}
              </dl>
              <p class="quiet small">{view.code.map(plain).join(", ")}</p>
            </details>
          )}
        </>
      )}
    </aside>
  )
}
