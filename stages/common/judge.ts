/**
 * Asks a model behind an OpenAI-compatible endpoint many questions and reads one verdict from each answer. Verdicts are appended to a journal file, if one is set, and stored
 * in the stage's checkpoints: a stage that fails late or is killed loses none and asks nothing twice. Answers without a readable verdict are counted; more than
 * `maxUnreadable` of them stop the stage.
 */
import { appendFile, readFile, truncate } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Checkpoints, noCheckpoints } from "../../runtime/define/resume-points.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import { rejectSpecial } from "../../runtime/key/file-source.ts"
import { isRetryable, messageOf } from "../../schemas/explained-error.ts"
import { hyper, hyperSecretVariable, hyperUrl, neutral } from "../../schemas/hyper.ts"
import { redact } from "../../schemas/secrets.ts"
import { openAnswerLog } from "./answer-log.ts"
import { askEndpoint, endpointFault } from "./endpoint.ts"

/** Hyperparameters of every stage that asks a judge; `before` is a prefix for each description. */
export const judgeFields = (before = "") => ({
  url: hyperUrl(`${before}URL of the OpenAI-compatible endpoint, for example https://host/v1`),
  model: hyper("", `${before}name of the model at the endpoint`),
  keyVariable: neutral(
    hyperSecretVariable(`${before}name of the environment variable with the API key; empty: no key is sent`),
    "the key does not affect the answers; after a rejected key, earlier verdicts are reused"
  ),
  journal: neutral(
    hyper("", `${before}file to which each verdict is appended and from which verdicts are reused; empty: no file`),
    "it only stores the same judge's verdicts on the same questions"
  ),
  maxUnreadable: neutral(
    hyper(
      0.1,
      `${before}maximum share of answers without a readable verdict (nonsense, refusals), always allowing at least one answer; 0 allows none; above it the stage fails`,
      {
        min: 0,
        max: 1
      }
    ),
    "it decides whether there is a result, not which one; after raising it, earlier verdicts are reused; after lowering it, an existing result is kept, with its count of missing verdicts"
  ),
  concurrency: neutral(
    hyper(4, `${before}maximum number of concurrent requests`, { min: 1 }),
    "each question is a separate request, independent of the others"
  ),
  timeout: neutral(
    hyper(60, `${before}maximum duration of a request in seconds`, { min: 1 }),
    "a request that takes longer is retried and then fails the stage; after raising it, earlier verdicts are reused"
  )
})

export interface JudgeSettings {
  /** For example https://host/v1; `/chat/completions` is appended. */
  readonly url: string
  readonly model: string
  /** Environment variable with the key; empty: no key is sent. */
  readonly keyVariable: string
  readonly environment: Readonly<Record<string, string | undefined>>
  /** File of verdicts; empty: no file. */
  readonly journal: string
  readonly maxUnreadable: number
  readonly concurrency: number
  /** Maximum duration of a request in seconds. */
  readonly timeout: number
  readonly progress: (progress: Progress) => Effect.Effect<void>
  readonly checkpoints: Checkpoints
  /** Milliseconds before the first of four retries; doubles with each retry. */
  readonly firstRetry?: number
}

export interface JudgeQuestion {
  /** Identifies the question by everything that its answer depends on; stored in the journal. Default: the model and the text. */
  readonly key?: string
  readonly text: string
}

/** How to read answers. */
export interface Reading<A> {
  /** The noun for questions in messages: "pair", "pairs". */
  readonly what: { readonly one: string; readonly many: string }
  /** The schema of a stored verdict. */
  readonly schema: Schema.Codec<A, any>
  readonly read: (answer: string, index: number) => A
  /** Whether the answer contains no verdict. */
  readonly isUnreadable: (verdict: A) => boolean
}

/** A judge could not be asked, or too many of its answers were unreadable. Retryable if a later attempt may succeed; not if an address, a key or a file must be corrected. */
export class JudgeError extends Schema.TaggedError<JudgeError>()("JudgeError", { message: Schema.String, isRetryable }) {}

const readJournal = async <A>(file: string): Promise<Map<string, A>> => {
  const known = new Map<string, A>()
  if (file === "") return known
  await rejectSpecial(file)
  let text = ""
  try {
    text = await readFile(file, "utf8")
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
  }
  // A truncated last line is dropped, and its question asked again.
  const whole = text.slice(0, text.lastIndexOf("\n") + 1)
  if (whole.length < text.length) await truncate(file, Buffer.byteLength(whole))
  for (const line of whole.split("\n").slice(0, -1)) {
    const { key, verdict } = JSON.parse(line) as { key: string; verdict: A }
    known.set(key, verdict)
  }
  return known
}

/** A verdict on each question, in order, including unreadable ones. */
export const askJudge = Effect.fn("askJudge")(function* <A>(
  settings: JudgeSettings,
  questions: ReadonlyArray<JudgeQuestion>,
  { isUnreadable, read, schema, what }: Reading<A>
): Effect.fn.Return<ReadonlyArray<A>, JudgeError> {
  const { checkpoints, environment, journal, keyVariable, maxUnreadable, model, url } = settings
  const whereKept =
    journal !== ""
      ? `They are stored in ${journal}`
      : checkpoints === noCheckpoints
        ? "Set journal to a file to keep them"
        : "They are stored for the next run"
  const nothingTwice = journal === "" && checkpoints === noCheckpoints ? "" : ` and run again: no ${what.one} is asked for twice`
  const failed = (message: string, mayPass = false) => new JudgeError({ message, isRetryable: mayPass })
  const fault = endpointFault({ url, model, keyVariable }, environment)
  if (fault !== undefined) return yield* failed(fault)
  const key = keyVariable === "" ? undefined : environment[keyVariable]
  const endpoint = { url, model, key, timeout: settings.timeout, firstRetry: settings.firstRetry }
  const known = yield* Effect.tryPromise({
    try: () => readJournal<A>(journal),
    catch: (cause) => failed(`Reading the verdicts in ${journal}: ${messageOf(cause)}. Name another file, or move it away.`)
  })
  const log = yield* Effect.mapError(openAnswerLog(checkpoints, schema, { count: questions.length, what: what.many }), (error) =>
    failed(error.message, error.isRetryable)
  )
  if (log.known.size > 0) yield* settings.progress({ note: `resumes after ${log.known.size} of ${questions.length} verdicts` })
  const names = questions.map(({ key: name, text }) => name ?? JSON.stringify([model, text]))
  const given = names.map((name, index) => (log.known.has(index) ? log.known.get(index) : known.get(name)))
  // At least one answer may be unreadable, however few there are; none if the share is 0.
  const most = maxUnreadable === 0 ? 0 : Math.max(1, maxUnreadable * questions.length)
  // More than allowed: the judge that gave these answers was faulty, and may have been fixed since.
  const askAgain = given.filter((verdict) => verdict !== undefined && isUnreadable(verdict)).length > most
  let [unreadable, done] = [0, 0]
  return yield* Effect.forEach(
    questions,
    Effect.fnUntraced(function* ({ text }: JudgeQuestion, index: number) {
      let verdict = given[index]
      const isNew = verdict === undefined || (askAgain && isUnreadable(verdict))
      if (isNew || verdict === undefined) {
        const answer = yield* Effect.mapError(askEndpoint(endpoint, text), (error) =>
          failed(
            `Asking the judge ${model} at ${url}: ${redact(error.message, key === undefined ? [] : [key])}, after ${done} of ${questions.length} verdicts. ${whereKept}; check the URL and the key, and run again.`,
            error.isRetryable
          )
        )
        verdict = read(answer, index)
        if (journal !== "") {
          const line = `${JSON.stringify({ key: names[index], verdict })}\n`
          yield* Effect.tryPromise({
            // A new file is readable only by its owner: it quotes the dialogues.
            try: () => appendFile(journal, line, { mode: 0o600 }),
            catch: (cause) => failed(`Writing a verdict to ${journal}: ${messageOf(cause)}. Free some space or name another file.`)
          })
        }
      }
      done++
      if (isNew || !log.known.has(index)) yield* log.add(index, verdict)
      if (isUnreadable(verdict)) {
        unreadable++
        if (unreadable > most)
          return yield* failed(
            `The judge ${model} gave ${unreadable} of ${done} answers without a readable verdict (nonsense or a refusal), more than the share ${maxUnreadable} of ${questions.length} that maxUnreadable allows. Use a judge that answers in the requested format, or raise maxUnreadable${nothingTwice}.`
          )
      }
      yield* settings.progress({ step: done, total: questions.length })
      return verdict
    }),
    { concurrency: settings.concurrency }
  ).pipe(Effect.onError(() => log.flush))
})
