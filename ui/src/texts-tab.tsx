/** Answers of several versions to the same prompts, side by side. */
import { useEffect, useMemo, useState } from "preact/hooks"
import type { AnswersPart, OneAnswer, ResultLine } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { Dialogue } from "./dialogue.tsx"
import { newIn } from "./diff.ts"
import { count, number, plain } from "./format.ts"
import { Trouble } from "./parts.tsx"
import { link } from "./route.ts"

const page = 10
const mostSets = 4

const Text = ({ before, text }: { readonly text: string; readonly before: string | undefined }) => {
  const pieces = useMemo(() => (before === undefined ? [{ text, isNew: false }] : newIn(before, text)), [before, text])
  return (
    <p class="text">
      {pieces.map((piece, i) => (piece.isNew ? <mark key={i}>{plain(piece.text)}</mark> : <span key={i}>{plain(piece.text)}</span>))}
    </p>
  )
}

const Score = ({ name, value }: { readonly name: string; readonly value: number | string | null }) =>
  value === null ? null : (
    <span>
      <span class="quiet">{name}</span> {plain(number(value))}
    </span>
  )

const Cell = ({
  answer,
  before,
  name
}: {
  readonly answer: OneAnswer | null
  readonly before: string | undefined
  readonly name: string
}) => (
  <div class="answer-cell" aria-label={plain(name)}>
    <span class="role only-narrow">{plain(name)}</span>
    {answer === null ? (
      <p class="quiet">no answer in this set</p>
    ) : (
      <>
        {answer.text === "" ? <p class="quiet">an empty answer</p> : <Text text={answer.text} before={before} />}
        <p class="scores small">
          {answer.isUnscored ? (
            <span class="quiet" title="Scoring skipped this answer: it is empty, or a reward model can't read it">
              no score
            </span>
          ) : null}
          <Score name="reward" value={answer.reward} />
          <Score name="helpful" value={answer.helpfulness} />
          <Score name="safe" value={answer.safety} />
          {answer.refusal === null ? null : <span title={`Detected by: ${answer.refusal}`}>refuses</span>}
          {answer.finished ? null : <span class="quiet">cut off</span>}
        </p>
      </>
    )}
  </div>
)

/** Selected at first: answers of the held-out evaluation, because every version answers the same prompts there. */
const atFirst = (sets: ReadonlyArray<ResultLine>): ReadonlyArray<string> => {
  const judged = sets.filter(({ node }) => /^(judged|answers|checked)/.test(node))
  const some = judged.length >= 2 ? judged : sets
  const scored = some.filter(({ type }) => type.startsWith("dataset:scored"))
  const from = scored.length >= 2 ? scored : some
  return from.length <= 3 ? from.map(({ node }) => node) : [from[0]!, from[1]!, from.at(-1)!].map(({ node }) => node)
}

export const TextsTab = ({ ended, run }: { readonly run: string; readonly ended: number }) => {
  const [sets, setSets] = useState<ReadonlyArray<ResultLine>>()
  const [chosen, setChosen] = useState<ReadonlyArray<string>>([])
  const [search, setSearch] = useState("")
  const [category, setCategory] = useState("")
  const [refusal, setRefusal] = useState("")
  const [marks, setMarks] = useState(true)
  const [from, setFrom] = useState(0)
  const [part, set] = useState<AnswersPart>()
  const [error, setError] = useState<unknown>()
  useEffect(() => {
    ask("results", { run }).then((all) => {
      const found = all.filter(({ isThere, type }) => isThere && /^dataset:(scored-)?completion\//.test(type))
      setSets(found)
      setChosen((before) => (before.length === 0 ? atFirst(found) : before))
    }, setError)
  }, [run, ended])
  const digests = chosen.flatMap((node) => sets?.find((one) => one.node === node)?.digest ?? [])
  const list = digests.join(",")
  useEffect(() => {
    if (list === "") return set(undefined)
    const stop = new AbortController()
    const timer = setTimeout(
      () =>
        void ask(
          "answers",
          {
            run,
            sets: list,
            search: search || undefined,
            category: category || undefined,
            refusal: refusal || undefined,
            from,
            limit: page
          },
          stop.signal
        ).then(
          (answer) => (set(answer), setError(undefined)),
          (cause: unknown) => stop.signal.aborted || setError(cause)
        ),
      part === undefined ? 0 : 150
    )
    return () => (clearTimeout(timer), stop.abort())
  }, [run, list, search, category, refusal, from])
  if (sets === undefined) return error === undefined ? <p class="quiet">Loading …</p> : <Trouble error={error} />
  if (sets.length === 0) return <p class="empty">The store has no sampled answers of this run yet.</p>
  const pick = (node: string) => {
    setFrom(0)
    setChosen(chosen.includes(node) ? chosen.filter((one) => one !== node) : [...chosen, node])
  }
  const partly = part?.read.filter(({ rows, total }) => rows < total) ?? []
  return (
    <div class="texts">
      {error === undefined ? null : <Trouble error={error} />}
      <details class="sets">
        <summary>
          Versions: {chosen.map(plain).join(", ") || "none"}{" "}
          <span class="quiet">
            (up to {mostSets} of {sets.length})
          </span>
        </summary>
        <fieldset class="pick across">
          <legend class="hidden">Versions</legend>
          {sets.map(({ node }) => (
            <label key={node}>
              <input
                type="checkbox"
                checked={chosen.includes(node)}
                disabled={!chosen.includes(node) && chosen.length >= mostSets}
                onChange={() => pick(node)}
              />
              {plain(node)}
            </label>
          ))}
        </fieldset>
      </details>
      <div class="page-head wrap">
        <input
          type="search"
          class="search"
          placeholder="Words in a prompt or answer"
          aria-label="Search texts"
          value={search}
          onInput={(event) => (setSearch(event.currentTarget.value), setFrom(0))}
        />
        {part === undefined || part.categories.length === 0 ? null : (
          <select aria-label="Category" value={category} onChange={(event) => (setCategory(event.currentTarget.value), setFrom(0))}>
            <option value="">any category</option>
            {part.categories.map((one) => (
              <option key={one} value={one}>
                {plain(one)}
              </option>
            ))}
          </select>
        )}
        <select aria-label="Refusals" value={refusal} onChange={(event) => (setRefusal(event.currentTarget.value), setFrom(0))}>
          <option value="">refused or not</option>
          <option value="refused">some refuse</option>
          <option value="answered">none refuses</option>
          <option value="differing">some refuse, some don't</option>
        </select>
        <label class="check">
          <input type="checkbox" checked={marks} onChange={(event) => setMarks(event.currentTarget.checked)} /> highlight differences
        </label>
        <span class="quiet">{part === undefined ? "" : count(part.total, "answer")}</span>
      </div>
      {partly.length === 0 ? null : <p class="warning">Only the first {number(partly[0]!.rows)} answers of larger sets are compared.</p>}
      {part === undefined ? null : (
        <>
          <div class="answers-head" style={{ "--columns": chosen.length }}>
            {chosen.map((node, i) => (
              <a key={node} href={link(["rows", digests[i] ?? ""], { run, node })}>
                {plain(node)}
              </a>
            ))}
          </div>
          {part.prompts.map((one) => (
            <article key={`${one.id} ${one.sample}`} class="answers" aria-label={`Prompt ${plain(one.id)}`}>
              <div class="asked">
                <Dialogue messages={one.prompt} />
                <span class="quiet small">
                  {plain(one.id)}
                  {one.sample > 0 ? `, sample ${one.sample + 1}` : ""}
                  {one.isSafety ? ", safety prompt" : ""}
                  {one.category === null ? "" : `, ${plain(one.category)}`}
                </span>
              </div>
              <div class="answer-cells" style={{ "--columns": chosen.length }}>
                {one.answers.map((answer, i) => (
                  <Cell key={i} name={chosen[i] ?? ""} answer={answer} before={marks && i > 0 ? one.answers[i - 1]?.text : undefined} />
                ))}
              </div>
            </article>
          ))}
          {part.prompts.length === 0 ? <p class="empty">No matching answers.</p> : null}
          <div class="page-head">
            <button type="button" disabled={from === 0} onClick={() => (setFrom(Math.max(0, from - page)), scrollTo(0, 0))}>
              Previous
            </button>
            <button type="button" disabled={from + page >= part.total} onClick={() => (setFrom(from + page), scrollTo(0, 0))}>
              Next
            </button>
          </div>
        </>
      )}
    </div>
  )
}
