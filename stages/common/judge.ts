/**
 * A model behind an OpenAI-compatible endpoint that is asked many questions, each with one verdict. Verdicts are appended to a journal as they come, where one is named, and kept
 * in the stage's checkpoints: a stage that fails late, or is killed, loses none and asks nothing twice. Answers that are no verdict are counted; more than
 * `maxUnreadable` stop the stage.
 */
import { appendFile, readFile, truncate } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Checkpoints, noCheckpoints } from "../../runtime/define/resume-points.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import { refuseSpecial } from "../../runtime/key/file-source.ts"
import { isRetryable } from "../../schemas/explained-error.ts"
import { hyper, hyperSecretVariable, hyperUrl, neutral } from "../../schemas/hyper.ts"
import { redact } from "../../schemas/secrets.ts"
import { openAnswerLog } from "./answer-log.ts"
import { askEndpoint, endpointFault } from "./endpoint.ts"

/** Hyperparameters of every stage that asks a judge; `before` begins each description. */
export const judgeFields = (before = "") => ({
  url: hyperUrl(`${before}address of the endpoint, as https://host/v1`),
  model: hyper("", `${before}name of the model`),
  keyVariable: neutral(
    hyperSecretVariable(`${before}environment variable that holds the key; empty: none is sent`),
    "who may ask changes no answer; after a refused key, those that were given are found again"
  ),
  journal: neutral(
    hyper("", `${before}file to which each verdict is appended as it comes and from which they are read again; empty: none`),
    "it holds the same judge's verdicts on the same questions"
  ),
  maxUnreadable: neutral(
    hyper(0.1, `${before}share of answers that may be no verdict (nonsense, refusals) before the stage stops, one at least; 0: none may`, {
      min: 0,
      max: 1
    }),
    "it decides whether there is a result, not which; raised, verdicts that were given are found again; lowered, a result that is there stays, with its count of those that are missing"
  ),
  concurrency: neutral(hyper(4, `${before}requests at once`, { min: 1 }), "each question is asked by itself, whatever is asked beside it"),
  timeout: neutral(
    hyper(60, `${before}seconds a request may take`, { min: 1 }),
    "a request that takes longer is made again and then stops the stage; when it is raised, verdicts that were given are found again"
  )
})

export interface JudgeSettings {
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
  readonly progress: (progress: Progress) => Effect.Effect<void>
  readonly checkpoints: Checkpoints
  /** Milliseconds before the first of four retries; they double. */
  readonly firstRetry?: number
}

export interface JudgeQuestion {
  /** What the question is of, all that its answer depends on: in the journal. */
  readonly key: string
  readonly text: string
}

/** How answers are read. */
export interface Reading<A> {
  /** What a question is of, in messages: "pair", "pairs". */
  readonly what: { readonly one: string; readonly many: string }
  /** For what is kept of a verdict. */
  readonly schema: Schema.Codec<A, any>
  readonly read: (answer: string, index: number) => A
  /** Whether it is no verdict. */
  readonly isUnreadable: (verdict: A) => boolean
}

/** A judge could not be asked, or gave too much that is no verdict. Retryable where it may answer the next time; not where an address, a key or a file has to be mended. */
export class JudgeError extends Schema.TaggedError<JudgeError>()("JudgeError", { message: Schema.String, isRetryable }) {}

const readJournal = async <A>(file: string): Promise<Map<string, A>> => {
  const known = new Map<string, A>()
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
    const { key, verdict } = JSON.parse(line) as { key: string; verdict: A }
    known.set(key, verdict)
  }
  return known
}

/** A verdict on each question, in their order, those that are none among them. */
export const askJudge = Effect.fn("askJudge")(function* <A>(
  settings: JudgeSettings,
  questions: ReadonlyArray<JudgeQuestion>,
  { isUnreadable, read, schema, what }: Reading<A>
): Effect.fn.Return<ReadonlyArray<A>, JudgeError> {
  const { checkpoints, environment, journal, keyVariable, maxUnreadable, model, url } = settings
  const whereKept =
    journal !== ""
      ? `They are kept in ${journal}`
      : checkpoints === noCheckpoints
        ? "Set journal to a file to keep them"
        : "They are kept for the next run"
  const nothingTwice = journal === "" && checkpoints === noCheckpoints ? "" : ` and run again: no ${what.one} is asked for twice`
  const failed = (message: string, mayPass = false) => new JudgeError({ message, isRetryable: mayPass })
  const fault = endpointFault({ url, model, keyVariable }, environment)
  if (fault !== undefined) return yield* failed(fault)
  const key = keyVariable === "" ? undefined : environment[keyVariable]
  const endpoint = { url, model, key, timeout: settings.timeout, firstRetry: settings.firstRetry }
  const known = yield* Effect.tryPromise({
    try: () => readJournal<A>(journal),
    catch: (cause) =>
      failed(
        `Reading the verdicts in ${journal}: ${cause instanceof Error ? cause.message : String(cause)}. Name another file, or move it away.`
      )
  })
  const log = yield* Effect.mapError(openAnswerLog(checkpoints, schema, { count: questions.length, what: what.many }), (error) =>
    failed(error.message, error.isRetryable)
  )
  if (log.known.size > 0) yield* settings.progress({ note: `resumes after ${log.known.size} of ${questions.length} verdicts` })
  const given = questions.map(({ key: name }, index) => (log.known.has(index) ? log.known.get(index) : known.get(name)))
  // Of a few one may be no verdict, whatever its share; with 0 none may.
  const most = maxUnreadable === 0 ? 0 : Math.max(1, maxUnreadable * questions.length)
  // More than may be: the judge that gave them was at fault, and may have been mended since.
  const askAgain = given.filter((verdict) => verdict !== undefined && isUnreadable(verdict)).length > most
  let [unreadable, done] = [0, 0]
  return yield* Effect.forEach(
    questions,
    Effect.fnUntraced(function* ({ key: name, text }: JudgeQuestion, index: number) {
      let verdict = given[index]
      const isNew = verdict === undefined || (askAgain && isUnreadable(verdict))
      if (isNew || verdict === undefined) {
        const answer = yield* Effect.mapError(askEndpoint(endpoint, text), (error) =>
          failed(
            `Asking the judge ${model} at ${url}: ${redact(error.message, key === undefined ? [] : [key])}, after ${done} of ${questions.length} verdicts. ${whereKept}; check the address and the key, and run again.`,
            error.isRetryable
          )
        )
        verdict = read(answer, index)
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
      if (isUnreadable(verdict)) {
        unreadable++
        if (unreadable > most)
          return yield* failed(
            `The judge ${model} gave ${unreadable} answers of ${done} that are no verdict (nonsense, or a refusal): more than the ${maxUnreadable} of ${questions.length} that maxUnreadable allows. Take a judge that answers as it is asked to, or raise maxUnreadable${nothingTwice}.`
          )
      }
      yield* settings.progress({ step: done, total: questions.length })
      return verdict
    }),
    { concurrency: settings.concurrency }
  ).pipe(Effect.onError(() => log.flush))
})
