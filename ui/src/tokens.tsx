/** A row as a model sees it: which tokens contribute to the loss, and how likely each token is. */
import { useEffect, useState } from "preact/hooks"
import type { ResultLine, TokensView } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { number, plain } from "./format.ts"
import { Trouble } from "./parts.tsx"

const nats = (value: number | string | null): number | undefined => (typeof value === "number" ? value : undefined)

/** The shade of a token, as a class: by its probability, or relative to the reference. */
const shadeOf = (token: TokensView["tokens"][number], by: "likely" | "reference"): string => {
  const own = nats(token.logProbability)
  if (own === undefined) return ""
  if (by === "likely") return `unlikely-${Math.min(5, Math.floor(-own))}`
  const other = nats(token.reference)
  if (other === undefined) return ""
  const difference = own - other
  const step = Math.min(5, Math.floor(Math.abs(difference) * 2))
  return step === 0 ? "" : difference > 0 ? `more-${step}` : `less-${step}`
}

const saidOf = ({ logProbability, reference, text, trained }: TokensView["tokens"][number]): string => {
  const [own, other] = [nats(logProbability), nats(reference)]
  return [
    JSON.stringify(text),
    trained ? "in the loss" : "not in the loss",
    ...(own === undefined ? [] : [`log-probability ${number(own)}`]),
    ...(own === undefined || other === undefined ? [] : [`reference ${number(other)}, difference ${number(own - other)}`])
  ].join("; ")
}

export const Tokens = ({
  digest,
  models,
  row,
  sides
}: {
  readonly digest: string
  readonly row: number
  readonly models: ReadonlyArray<ResultLine>
  readonly sides: ReadonlyArray<string>
}) => {
  const [model, setModel] = useState(models[0]?.digest)
  const [reference, setReference] = useState("")
  const [side, setSide] = useState(sides[0])
  const [score, setScore] = useState(false)
  const [view, set] = useState<TokensView>()
  const [error, setError] = useState<unknown>()
  const [busy, setBusy] = useState(false)
  useEffect(() => {
    if (model === undefined) return
    const stop = new AbortController()
    setBusy(true)
    ask(
      "tokens",
      { digest, row, model, side, score: score ? "yes" : undefined, reference: score && reference !== "" ? reference : undefined },
      stop.signal
    ).then(
      (answer) => (set(answer), setError(undefined), setBusy(false)),
      (cause: unknown) => stop.signal.aborted || (setError(cause), setBusy(false))
    )
    return () => stop.abort()
  }, [digest, row, model, side, score, reference])
  if (model === undefined) return <p class="quiet">The store has no model or tokenizer of this run, so the row can't be tokenized.</p>
  const policies = models.filter(({ type }) => type === "checkpoint:policy")
  const isPolicy = policies.some((one) => one.digest === model)
  const tokens = view?.tokens ?? []
  const trained = tokens.filter((token) => token.trained)
  const rated = trained.filter((token) => nats(token.logProbability) !== undefined)
  const mean = rated.reduce((sum, token) => sum + nats(token.logProbability)!, 0) / rated.length
  const compared = rated.filter((token) => nats(token.reference) !== undefined)
  const kl = compared.reduce((sum, token) => sum + nats(token.logProbability)! - nats(token.reference)!, 0)
  return (
    <div class="tokens-view">
      <div class="tools">
        <label>
          model
          <select value={model} onChange={(event) => setModel(event.currentTarget.value)}>
            {models.map((one) => (
              <option key={`${one.node} ${one.digest}`} value={one.digest}>
                {plain(one.node)}
              </option>
            ))}
          </select>
        </label>
        {sides.length === 0 ? null : (
          <label>
            answer
            <select value={side} onChange={(event) => setSide(event.currentTarget.value)}>
              {sides.map((one) => (
                <option key={one}>{one}</option>
              ))}
            </select>
          </label>
        )}
        <label>
          <input type="checkbox" checked={score} disabled={!isPolicy} onChange={(event) => setScore(event.currentTarget.checked)} /> compute
          log-probabilities
        </label>
        {score ? (
          <label>
            reference
            <select value={reference} onChange={(event) => setReference(event.currentTarget.value)}>
              <option value="">none</option>
              {policies.map((one) => (
                <option key={`${one.node} ${one.digest}`} value={one.digest}>
                  {plain(one.node)}
                </option>
              ))}
            </select>
          </label>
        ) : null}
        {busy ? <span role="status">{score ? "Computing log-probabilities …" : "Loading …"}</span> : null}
      </div>
      {error === undefined ? null : <Trouble error={error} />}
      {view === undefined ? null : (
        <>
          <p class="quiet small">
            {tokens.length} tokens, {trained.length} with loss (underlined).
            {rated.length === 0
              ? ""
              : ` Their mean log-probability: ${number(mean)}${compared.length === 0 ? "." : `; sum of log p − log reference (the KL of this sample): ${number(kl)}.`}`}
            {rated.length === 0
              ? ""
              : compared.length > 0
                ? " Shading: more or less likely than under the reference."
                : " Shading: less likely tokens are darker."}{" "}
            {plain(view.note)}
          </p>
          <p class="tokens" tabIndex={0} aria-label="Tokens">
            {tokens.map((token, i) => (
              <span
                key={i}
                class={`${token.trained ? "trained" : "untrained"} ${shadeOf(token, reference !== "" && score ? "reference" : "likely")}`}
                title={saidOf(token)}
              >
                {plain(token.text).replaceAll("\n", "↵\n")}
              </span>
            ))}
          </p>
        </>
      )}
    </div>
  )
}

/** Whether rows of this type are dialogues, and which answers they contain. */
export const sidesOf = (type: string): ReadonlyArray<string> | undefined => {
  const kind = type.split("/")[0]
  if (kind === "preference") return ["chosen", "rejected"]
  if (kind === "response-pair") return ["responseA", "responseB"]
  return kind === "demonstration" || kind === "completion" || kind === "scored-completion" || kind === "token-sequence" ? [] : undefined
}
