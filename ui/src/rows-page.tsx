/** The rows of a dataset, page by page, and each row's tokens. */
import { useEffect, useState } from "preact/hooks"
import type { ResultLine, RowsPart } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { Dialogue, Value } from "./dialogue.tsx"
import { count, plain, short } from "./format.ts"
import { Trouble } from "./parts.tsx"
import { link } from "./route.ts"
import { sidesOf, Tokens } from "./tokens.tsx"

const page = 25

type Row = Readonly<Record<string, unknown>>
const Pair = ({ left, names, right }: { readonly left: string; readonly right: string; readonly names: readonly [string, string] }) => (
  <div class="pair">
    {[left, right].map((text, i) => (
      <div key={i} class="side">
        <span class="role">{names[i]}</span>
        <p class="text">{plain(text)}</p>
      </div>
    ))}
  </div>
)

const fieldsShown = (row: Row, left: ReadonlyArray<string>) => (
  <dl class="row-fields">
    {Object.entries(row).map(([name, value]) =>
      left.includes(name) ? null : (
        <div key={name}>
          <dt>{plain(name)}</dt>
          <dd>
            <Value value={value} />
          </dd>
        </div>
      )
    )}
  </dl>
)

const Body = ({ row, type }: { readonly row: Row; readonly type: string }) => {
  const kind = type.split("/")[0]
  const isPair = kind === "preference" || kind === "response-pair"
  if (isPair && Array.isArray(row.prompt)) {
    const names = kind === "preference" ? (["chosen", "rejected"] as const) : (["responseA", "responseB"] as const)
    return (
      <>
        <Dialogue messages={row.prompt as ReadonlyArray<{ role: string; content: string }>} />
        <Pair left={String(row[names[0]])} right={String(row[names[1]])} names={names} />
        {fieldsShown(row, ["prompt", ...names])}
      </>
    )
  }
  return fieldsShown(row, [])
}

/** Equal results are one object: `node` says which result is meant. */
export const RowsPage = ({
  digest,
  node,
  run
}: {
  readonly digest: string
  readonly run: string | undefined
  readonly node: string | undefined
}) => {
  const [search, setSearch] = useState("")
  const [starts, setStarts] = useState<ReadonlyArray<number>>([0])
  const [part, set] = useState<RowsPart>()
  const [error, setError] = useState<unknown>()
  const [models, setModels] = useState<ReadonlyArray<ResultLine>>([])
  const [opened, setOpened] = useState<number>()
  const from = starts.at(-1)!
  useEffect(() => {
    const stop = new AbortController()
    const timer = setTimeout(
      () =>
        void ask("rows", { digest, from, limit: page, search: search === "" ? undefined : search }, stop.signal).then(
          (answer) => (set(answer), setError(undefined)),
          (cause: unknown) => stop.signal.aborted || setError(cause)
        ),
      part === undefined ? 0 : 150
    )
    return () => (clearTimeout(timer), stop.abort())
  }, [digest, from, search])
  useEffect(() => {
    if (run === undefined) return
    ask("results", { run }).then((all) => {
      const rank = (type: string) => (type === "tokenizer" ? 1 : 0)
      const usable = all.filter(({ isThere, type }) => isThere && (type === "tokenizer" || type === "checkpoint:policy"))
      setModels(usable.toSorted((a, b) => rank(a.type) - rank(b.type)))
    }, setError)
  }, [run])
  const sides = part === undefined ? undefined : sidesOf(part.type)
  const last = part?.rows.at(-1)?.index
  return (
    <div class="page">
      <div class="page-head wrap">
        <h1>
          {plain(node ?? part?.name ?? short(digest))} <span class="mono quiet">{part === undefined ? "" : plain(part.type)}</span>
        </h1>
        {run === undefined ? null : (
          <a class="quiet" href={link(["run", run, "graph"], { node: node ?? part?.name })}>
            back to the run
          </a>
        )}
        <span class="grow" />
        <input
          type="search"
          class="search"
          placeholder="Words in any field"
          aria-label="Search rows"
          value={search}
          onInput={(event) => (setSearch(event.currentTarget.value), setStarts([0]), setOpened(undefined))}
        />
        <span class="quiet">{part === undefined ? "" : count(part.total, "row")}</span>
      </div>
      {error === undefined ? null : <Trouble error={error} />}
      {part === undefined ? null : (
        <>
          {part.rows.length === 0 ? (
            <p class="empty">
              {part.next === null ? (part.total === 0 ? "No rows." : "No matching rows.") : `No match in the first ${part.next} rows.`}
            </p>
          ) : null}
          {part.rows.map(({ index, row }) => (
            <article key={index} class="row" aria-label={`Row ${index + 1}`}>
              <div class="row-head">
                <span class="number quiet">{index + 1}</span>
                {sides === undefined || run === undefined ? null : (
                  <button
                    type="button"
                    class="plain-button"
                    aria-expanded={opened === index}
                    onClick={() => setOpened(opened === index ? undefined : index)}
                  >
                    {opened === index ? "hide tokens" : "tokens and loss mask"}
                  </button>
                )}
              </div>
              <div class="row-body">
                <Body row={row} type={part.type} />
                {opened === index ? <Tokens digest={digest} row={index} models={models} sides={sides!} /> : null}
              </div>
            </article>
          ))}
          <div class="page-head">
            <button type="button" disabled={starts.length === 1} onClick={() => (setStarts(starts.slice(0, -1)), scrollTo(0, 0))}>
              Previous
            </button>
            <button type="button" disabled={part.next === null} onClick={() => (setStarts([...starts, part.next!]), scrollTo(0, 0))}>
              {search !== "" && part.rows.length === 0 ? "Continue searching" : "Next"}
            </button>
            {last === undefined ? null : (
              <span class="quiet">
                rows {part.rows[0]!.index + 1} to {last + 1}
              </span>
            )}
          </div>
        </>
      )}
    </div>
  )
}
