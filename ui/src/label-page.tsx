/** Labelling pairs: which response is better and by how much, and for safety whether each is safe. All keyboard shortcuts are shown on the page. */
import { useEffect, useRef, useState } from "preact/hooks"
import type { LabelTask, LabelView } from "../../cli/ui/api.ts"
import { Refused } from "./api.ts"
import { askFor, mayControl, tell, Token, token } from "./control.tsx"
import { Dialogue } from "./dialogue.tsx"
import { count, plain } from "./format.ts"
import { Trouble } from "./parts.tsx"
import { go, link } from "./route.ts"

const ratings = ["significantly better", "better", "slightly better", "negligibly better, or unsure"]
const place = "caravan-annotator"

export const LabelPage = ({ annotator, task }: { readonly task: string | undefined; readonly annotator: string | undefined }) => {
  if (!mayControl())
    return (
      <div class="page">
        <h1>Labelling</h1>
        <p class="empty">This page is read-only. Start it with caravan ui --allow-control to label here.</p>
      </div>
    )
  if (token.value === "")
    return (
      <div class="page">
        <h1>Labelling</h1>
        <Token />
      </div>
    )
  return task === undefined || annotator === undefined ? (
    <Tasks />
  ) : (
    <Pairs key={`${task} ${annotator}`} task={task} annotator={annotator} />
  )
}

const Tasks = () => {
  const [tasks, set] = useState<ReadonlyArray<LabelTask>>()
  const [error, setError] = useState<unknown>()
  const [name, setName] = useState(localStorage.getItem(place) ?? "")
  const [said, say] = useState("")
  const load = () => void askFor("tasks").then(set, setError)
  useEffect(load, [])
  const isName = /^[\w-]{1,32}$/.test(name)
  const finish = (task: LabelTask) =>
    tell("finish", { task: task.id, annotators: task.annotators.map((one) => one.name) }).then(
      ({ message }) => (say(message), setError(undefined), load()),
      setError
    )
  return (
    <div class="page">
      <div class="page-head wrap">
        <h1>Labelling</h1>
        <label class="check">
          Your name
          <input
            type="text"
            class="search"
            value={name}
            maxLength={32}
            placeholder="letters, digits, - and _"
            onInput={(event) => {
              setName(event.currentTarget.value)
              localStorage.setItem(place, event.currentTarget.value)
            }}
          />
        </label>
        <span class="quiet">Each annotator's labels are stored separately; nobody sees another's.</span>
      </div>
      {error === undefined ? null : <Trouble error={error} />}
      {said === "" ? null : (
        <p class="told-done" role="status">
          {plain(said)}
        </p>
      )}
      {tasks === undefined ? null : tasks.length === 0 ? (
        <p class="empty">No run is waiting for labels. A run that annotates by file writes its pairs and stops; they then appear here.</p>
      ) : (
        tasks.map((task) => {
          const most = Math.max(0, ...task.annotators.map(({ done }) => done))
          return (
            <article key={task.id} class="row label-task" aria-label={`Labels of ${plain(task.node)}`}>
              <div>
                <strong>{plain(task.node)}</strong>
                <span class="quiet small"> {plain(task.pipeline)}</span>
                <div class="quiet">{task.kind}</div>
              </div>
              <div>
                <p>
                  <progress value={most} max={task.pairs} aria-label="Labelled" /> {count(task.pairs, "pair")}
                  {task.annotators.map(({ done, name: who }) => (
                    <span key={who} class="quiet">
                      , {plain(who)} {done}
                    </span>
                  ))}
                </p>
                <p class="quiet small">labels are written to {plain(task.labelsFile)}</p>
                <p class="label-buttons">
                  <button type="button" class="primary" disabled={!isName} onClick={() => go(link(["label", task.id, name]))}>
                    {task.annotators.some((one) => one.name === name && one.done > 0) ? "Continue" : "Start"}
                  </button>
                  <button
                    type="button"
                    disabled={most < task.pairs && task.annotators.reduce((sum, { done }) => sum + done, 0) < task.pairs}
                    onClick={() => void finish(task)}
                  >
                    Write the label file
                  </button>
                </p>
              </div>
            </article>
          )
        })
      )}
    </div>
  )
}

interface Draft {
  readonly choice: "A" | "B" | null
  readonly rating: number | null
  readonly safeA: boolean | null
  readonly safeB: boolean | null
}
const blank: Draft = { choice: null, rating: null, safeA: null, safeB: null }

const isWhole = (draft: Draft, kind: string): boolean =>
  draft.choice !== null && draft.rating !== null && (kind !== "safety" || (draft.safeA !== null && draft.safeB !== null))

const Pairs = ({ annotator, task }: { readonly task: string; readonly annotator: string }) => {
  const [view, set] = useState<LabelView>()
  const [draft, setDraft] = useState<Draft>(blank)
  const [error, setError] = useState<unknown>()
  const [busy, setBusy] = useState(false)
  const head = useRef<HTMLHeadingElement>(null)
  const load = (at: number | undefined) =>
    askFor("labelling", { task, annotator, at }).then((next) => {
      set(next)
      setDraft(next.label ?? blank)
      head.current?.focus({ preventScroll: true })
      scrollTo(0, 0)
    }, setError)
  useEffect(() => void load(undefined), [])
  const kind = view?.task.kind ?? "helpfulness"
  const keep = async (whole: Draft) => {
    if (view?.pair == null || busy) return
    setBusy(true)
    try {
      await tell("label", {
        task,
        annotator,
        pair: view.pair.id,
        choice: whole.choice,
        rating: whole.rating,
        safeA: whole.safeA,
        safeB: whole.safeB,
        revision: view.label?.revision ?? 0
      })
      setError(undefined)
      await load(view.next ?? (view.index + 1 < view.task.pairs ? view.index + 1 : view.index))
    } catch (cause) {
      // Another page labelled it first: show the current label, so that the user can decide.
      if (cause instanceof Refused && cause.status === 409) await load(view.index)
      setError(cause)
    } finally {
      setBusy(false)
    }
  }
  const change = (part: Partial<Draft>) => {
    const next = { ...draft, ...part }
    setDraft(next)
    // For helpfulness, a complete label is saved as soon as the rating is chosen.
    if (kind !== "safety" && part.rating !== undefined && isWhole(next, kind)) void keep(next)
  }
  const safety = (value: boolean | null): boolean => value !== true
  const keys: Readonly<Record<string, () => void>> = {
    a: () => change({ choice: "A" }),
    b: () => change({ choice: "B" }),
    "1": () => change({ rating: 0 }),
    "2": () => change({ rating: 1 }),
    "3": () => change({ rating: 2 }),
    "4": () => change({ rating: 3 }),
    ...(kind === "safety" ? { s: () => change({ safeA: safety(draft.safeA) }), d: () => change({ safeB: safety(draft.safeB) }) } : {}),
    p: () => view !== undefined && view.index > 0 && void load(view.index - 1),
    n: () => view !== undefined && view.index + 1 < view.task.pairs && void load(view.index + 1)
  }
  const latest = useRef({ keys, draft, keep, kind })
  latest.current = { keys, draft, keep, kind }
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || (event.target as HTMLElement).matches("input[type=text], textarea, select"))
        return
      const { draft: now, keep: write, keys: known, kind: of } = latest.current
      if (event.key === "Enter" && !(event.target as HTMLElement).matches("button, a")) {
        if (isWhole(now, of)) void write(now)
      } else known[event.key.toLowerCase()]?.()
    }
    addEventListener("keydown", press)
    return () => removeEventListener("keydown", press)
  }, [])
  if (view === undefined) return <div class="page">{error === undefined ? <p class="quiet">Loading …</p> : <Trouble error={error} />}</div>
  const { pair } = view
  const isDone = view.done >= view.task.pairs
  return (
    <div class="page label-page">
      <div class="page-head wrap">
        <h1 ref={head} tabIndex={-1}>
          Pair {view.index + 1} of {view.task.pairs}
        </h1>
        <progress value={view.done} max={view.task.pairs} aria-label="Labelled" />
        <span>{view.done} labelled</span>
        <span class="quiet">
          {plain(view.task.node)}, as {plain(annotator)}
        </span>
        <span class="grow" />
        <a href={link(["label"])}>all tasks</a>
      </div>
      {error === undefined ? null : <Trouble error={error} />}
      {isDone ? (
        <p class="told-done" role="status">
          All pairs are labelled. Go back to <a href={link(["label"])}>all tasks</a> to write the label file; labels can still be changed
          here.
        </p>
      ) : null}
      {pair === null ? (
        <p class="empty">This pair does not exist.</p>
      ) : (
        <>
          <Dialogue messages={pair.prompt} />
          <fieldset class="pair choose">
            <legend class="hidden">Which response is better?</legend>
            {(["A", "B"] as const).map((side) => (
              <label key={side} class={`side ${draft.choice === side ? "picked" : ""}`}>
                <span class="side-head">
                  <input type="radio" name="choice" checked={draft.choice === side} onChange={() => change({ choice: side })} /> {side} is
                  better <kbd>{side.toLowerCase()}</kbd>
                </span>
                <span class="text">{plain(side === "A" ? pair.responseA : pair.responseB)}</span>
              </label>
            ))}
          </fieldset>
          {kind === "safety" ? (
            <div class="pair">
              {(["safeA", "safeB"] as const).map((field, i) => (
                <fieldset key={field} class="safe">
                  <legend>
                    Is {i === 0 ? "A" : "B"} safe? <kbd>{i === 0 ? "s" : "d"}</kbd>
                  </legend>
                  {[true, false].map((value) => (
                    <label key={String(value)}>
                      <input type="radio" name={field} checked={draft[field] === value} onChange={() => change({ [field]: value })} />{" "}
                      {value ? "safe" : "unsafe"}
                    </label>
                  ))}
                </fieldset>
              ))}
            </div>
          ) : null}
          <fieldset class="ratings">
            <legend>By how much?</legend>
            {ratings.map((name, rating) => (
              <label key={name} class={draft.rating === rating ? "picked" : ""}>
                <input type="radio" name="rating" checked={draft.rating === rating} onChange={() => change({ rating })} /> {name}{" "}
                <kbd>{rating + 1}</kbd>
              </label>
            ))}
          </fieldset>
          <div class="page-head wrap">
            <button type="button" disabled={view.index === 0} onClick={() => void load(view.index - 1)}>
              Previous <kbd>p</kbd>
            </button>
            <button type="button" class="primary" disabled={busy || !isWhole(draft, kind)} onClick={() => void keep(draft)}>
              Save and continue <kbd>Enter</kbd>
            </button>
            <button type="button" disabled={view.index + 1 >= view.task.pairs} onClick={() => void load(view.index + 1)}>
              Next <kbd>n</kbd>
            </button>
            {view.label === null ? null : (
              <span class="quiet">
                labelled: {view.label.choice}, {ratings[view.label.rating]}
              </span>
            )}
          </div>
        </>
      )}
    </div>
  )
}
