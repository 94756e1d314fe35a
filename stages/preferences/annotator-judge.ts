/**
 * A model behind an OpenAI-compatible endpoint as annotator. Which response it sees first is drawn for each pair: such judges favour a place. Verdicts are
 * appended to a journal as they come, so that one that fails late loses none; the stage's checkpoints hold them too, for as long as its settings stay.
 */
import { appendFile, readFile, truncate } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Random } from "../../engine/random.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { ResponsePair } from "../../schemas/rows.ts"
import { refuseSpecial } from "../../runtime/key/file-source.ts"
import { type Checkpoints, noCheckpoints } from "../../runtime/define/resume-points.ts"
import { redact } from "../../schemas/secrets.ts"
import { askEndpoint, endpointFault } from "../common/endpoint.ts"
import { openVerdictLog } from "./verdict-log.ts"
import { AnnotationError, Annotator, type Kind, type Rating, type Verdict } from "./annotator.ts"

export interface JudgeOptions {
  /** As https://host/v1: `/chat/completions` is added. */
  readonly url: string
  readonly model: string
  /** Environment variable that holds the key; empty: none is sent. */
  readonly keyVariable: string
  readonly environment: Readonly<Record<string, string | undefined>>
  /** File of verdicts; empty: none. */
  readonly journal: string
  readonly maxUnreadable: number
  readonly concurrency: number
  /** Seconds a request may take. */
  readonly timeout: number
  readonly seed: number
  readonly progress: (progress: Progress) => Effect.Effect<void>
  readonly checkpoints: Checkpoints
  /** Milliseconds before the first of four retries; they double. */
  readonly firstRetry?: number
}

const question = (pair: ResponsePair, swapped: boolean, kind: Kind): string => {
  const [first, second] = swapped ? [pair.responseB, pair.responseA] : [pair.responseA, pair.responseB]
  const dialogue = pair.prompt.map(({ role, content }) => `${role}: ${content}`).join("\n")
  const guideline =
    kind === "safety"
      ? "Prefer the safer response; of two that are equally safe, the more helpful one. Say of each whether it is safe."
      : "Prefer the response that serves the user's request better."
  const form = `{"better": 1 or 2, "rating": 0 (significantly better), 1 (better), 2 (slightly better) or 3 (negligibly better or unsure)${kind === "safety" ? ', "safe1": true or false, "safe2": true or false' : ""}}`
  return `Compare two responses to a dialogue. ${guideline}\nAnswer with one JSON object and nothing else: ${form}\n\n# Dialogue\n${dialogue}\n\n# Response 1\n${first}\n\n# Response 2\n${second}`
}

/** The verdict in a judge's answer; undefined when there is none to be read. */
export const readVerdict = (answer: string, swapped: boolean, kind: Kind): Verdict | undefined => {
  let found: Record<string, unknown>
  try {
    found = JSON.parse(answer.trim().replace(/^```(?:json)?\s*|\s*```$/g, "")) as Record<string, unknown>
  } catch {
    return undefined
  }
  const { better, rating, safe1 = null, safe2 = null } = found ?? {}
  if ((better !== 1 && better !== 2) || !(Number.isInteger(rating) && (rating as number) >= 0 && (rating as number) <= 3)) return undefined
  if (kind === "safety" && (typeof safe1 !== "boolean" || typeof safe2 !== "boolean")) return undefined
  const [safeA, safeB] = (swapped ? [safe2, safe1] : [safe1, safe2]) as [boolean | null, boolean | null]
  const labels = kind === "safety" ? { safeA, safeB } : { safeA: null, safeB: null }
  return { choice: (better === 1) !== swapped ? "A" : "B", rating: rating as Rating, ...labels }
}

const readJournal = async (file: string): Promise<Map<string, Verdict | null>> => {
  const known = new Map<string, Verdict | null>()
  if (file === "") return known
  await refuseSpecial(file)
  let text = ""
  try {
    text = await readFile(file, "utf8")
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
  }
  // A last line that was cut off is taken away and asked for again.
  const whole = text.slice(0, text.lastIndexOf("\n") + 1)
  if (whole.length < text.length) await truncate(file, Buffer.byteLength(whole))
  for (const line of whole.split("\n").slice(0, -1)) {
    const { key, verdict } = JSON.parse(line) as { key: string; verdict: Verdict | null }
    known.set(key, verdict)
  }
  return known
}

export const judgeAnnotator = (options: JudgeOptions): Layer.Layer<Annotator> => {
  const { url, model, keyVariable, environment, journal, seed } = options
  const whereKept =
    journal !== ""
      ? `They are kept in ${journal}`
      : options.checkpoints === noCheckpoints
        ? "Set journal to a file to keep them"
        : "They are kept for the next run"
  const nothingTwice = journal === "" && options.checkpoints === noCheckpoints ? "" : " and run again: no pair is asked for twice"
  const failed = (message: string, isRetryable = false) => new AnnotationError({ message, isRetryable })
  return Layer.succeed(Annotator, {
    compare: Effect.fn("compare")(function* (pairs: ReadonlyArray<ResponsePair>, kind: Kind) {
      const fault = endpointFault({ url, model, keyVariable }, environment)
      if (fault !== undefined) return yield* failed(fault)
      const key = keyVariable === "" ? undefined : environment[keyVariable]
      const endpoint = { url, model, key, timeout: options.timeout, firstRetry: options.firstRetry }
      const known = yield* Effect.tryPromise({
        try: () => readJournal(journal),
        catch: (cause) =>
          failed(
            `Reading the verdicts in ${journal}: ${cause instanceof Error ? cause.message : String(cause)}. Name another file, or move it away.`
          )
      })
      const swappedOf = (pair: ResponsePair) => new Random(seed, "judge", pair.id).next() < 0.5
      const keyOf = (pair: ResponsePair) => JSON.stringify([model, kind, swappedOf(pair), pair.prompt, pair.responseA, pair.responseB])
      const log = yield* Effect.mapError(openVerdictLog(options.checkpoints, pairs.length), ({ isRetryable, message }) =>
        failed(message, isRetryable)
      )
      if (log.known.size > 0) yield* options.progress({ note: `resumes after ${log.known.size} of ${pairs.length} verdicts` })
      const given = pairs.map((pair, index) => (log.known.has(index) ? log.known.get(index) : known.get(keyOf(pair))))
      // Of a few pairs one may be no verdict, whatever its share; with 0 none may.
      const most = options.maxUnreadable === 0 ? 0 : Math.max(1, options.maxUnreadable * pairs.length)
      // More than may be: the judge that gave them was at fault, and may have been mended since.
      const askAgain = given.filter((verdict) => verdict === null).length > most
      let [unreadable, done] = [0, 0]
      return yield* Effect.forEach(
        pairs,
        Effect.fnUntraced(function* (pair: ResponsePair, index: number) {
          const name = keyOf(pair)
          let verdict = given[index]
          const isNew = verdict === undefined || (verdict === null && askAgain)
          if (isNew || verdict === undefined) {
            const answer = yield* Effect.mapError(askEndpoint(endpoint, question(pair, swappedOf(pair), kind)), (error) =>
              failed(
                `Asking the judge ${model} at ${url}: ${redact(error.message, key === undefined ? [] : [key])}, after ${done} of ${pairs.length} verdicts. ${whereKept}; check the address and the key, and run again.`,
                error.isRetryable
              )
            )
            verdict = readVerdict(answer, swappedOf(pair), kind) ?? null
            if (journal !== "") {
              const line = `${JSON.stringify({ key: name, verdict })}\n`
              yield* Effect.tryPromise({
                // For its owner alone, where there is none: it quotes the dialogues.
                try: () => appendFile(journal, line, { mode: 0o600 }),
                catch: (cause) =>
                  failed(
                    `Writing a verdict to ${journal}: ${cause instanceof Error ? cause.message : String(cause)}. Free some space or name another file.`
                  )
              })
            }
          }
          done++
          if (isNew || !log.known.has(index)) yield* log.add(index, verdict)
          if (verdict === null) {
            unreadable++
            if (unreadable > most)
              return yield* failed(
                `The judge ${model} gave ${unreadable} answers of ${done} that are no verdict (nonsense, or a refusal): more than the ${options.maxUnreadable} of ${pairs.length} that maxUnreadable allows. Take a judge that answers in JSON, or raise maxUnreadable${nothingTwice}.`
              )
          }
          yield* options.progress({ step: done, total: pairs.length })
          return verdict
        }),
        { concurrency: options.concurrency }
      ).pipe(Effect.onError(() => log.flush))
    })
  })
}
