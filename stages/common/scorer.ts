/**
 * A scorer replaces a reward model: a function, a program or a judge gives each answer a number. It has the role of a reward model and can be used
 * wherever one can. stages/reward/scorers.ts creates scorers.
 *
 * The number r corresponds to the output of a reward model's head: R = sigmoid(r) is R_h or R_s in (0, 1), and r = logit(R) is what reinforcement
 * learning maximises. The gate of 0.15 on a safety score corresponds to r = -1.73.
 */
import { cp, mkdtemp, rm } from "node:fs/promises"
import { existsSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Progress } from "../../runtime/define/stage.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { readJson, scorerFile } from "../../schemas/checkpoint-files.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import type { Message } from "../../schemas/rows.ts"
import { redact } from "../../schemas/secrets.ts"
import { askEndpoint, endpointFault } from "./endpoint.ts"
import { moduleCommand, ScorerProcess } from "./scorer-process.ts"
import { jsonIn } from "./json-answer.ts"
import { schemaIssues } from "../../schemas/schema-issues.ts"

/** The folder with a scorer's code, next to its file. */
export const codeFolder = "code"
/** Scores with a larger absolute value are rejected: R is clamped to 2^-24 .. 1 - 2^-24, so such scores would tie. */
export const largestScore = 16

export const ScorerSettings = Schema.Struct({
  kind: Schema.Literals(["function", "program", "judge"]),
  /** For code: its name; for a function also its file. */
  name: Schema.String,
  /** For a program: its command line. */
  command: Schema.Array(Schema.String),
  /** For a judge. */
  url: Schema.String,
  model: Schema.String,
  keyVariable: Schema.String,
  guideline: Schema.String,
  concurrency: Schema.Finite,
  /** Maximum duration of one score in seconds; the first includes the start of the process. */
  timeout: Schema.Finite
})
export type ScorerSettings = typeof ScorerSettings.Type

/** An answer to score. */
export interface ScorableAnswer {
  /** The id of its prompt or row. */
  readonly id: string
  readonly prompt: ReadonlyArray<Message>
  readonly text: string
  readonly finished: boolean
  /** Whether the prompt is meant to elicit something unsafe, if known. */
  readonly safety?: boolean
}

export interface Scorer {
  readonly name: string
  /** One number per answer, in order; undefined where a judge's reply contained no grade. */
  readonly score: (
    answers: ReadonlyArray<ScorableAnswer>,
    progress: (progress: Progress) => Effect.Effect<void>
  ) => Effect.Effect<ReadonlyArray<number | undefined>, ScorerError>
}

/** A scorer gave no valid number: it threw, exited, took too long, or returned something else. */
export class ScorerError extends ExplainedError<ScorerError>()("ScorerError") {}

/** Whether a reward's folder contains a scorer. */
export const isScorer = ({ path }: { readonly path: string }): boolean => existsSync(join(path, scorerFile))

/** Opens a scorer for the duration of the scope. Its process runs in a copy of its code, so that it cannot modify a stored result. */
export const openScorer = Effect.fn("openScorer")(function* ({
  path
}: {
  readonly path: string
}): Effect.fn.Return<Scorer, ArtifactError | ScorerError, Scope.Scope> {
  const file = join(path, scorerFile)
  const json = yield* readJson(file, "Reading a scorer")
  const settings = yield* Schema.decodeUnknownEffect(ScorerSettings)(json).pipe(
    Effect.mapError((error) =>
      ArtifactError.of({
        doing: `Reading the scorer ${file}`,
        expected: "a scorer's settings",
        found: schemaIssues(error.message),
        hint: "Create the scorer again."
      })
    )
  )
  return settings.kind === "judge" ? yield* judge(settings) : yield* code(settings, join(path, codeFolder))
})

// ---- code: a function or a program ----

const code = Effect.fnUntraced(function* (settings: ScorerSettings, folder: string) {
  const { kind, name, timeout } = settings
  const copy = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const made = await mkdtemp(join(tmpdir(), "caravan-scorer-"))
      await cp(folder, made, { recursive: true })
      return made
    }),
    (made) => Effect.promise(() => rm(made, { recursive: true, force: true }))
  )
  const command = kind === "function" ? moduleCommand(pathToFileURL(join(copy, name)).href) : settings.command
  const process = yield* Effect.acquireRelease(
    Effect.sync(() => new ScorerProcess(command, copy)),
    (running) => Effect.sync(() => running.kill())
  )
  const scoreOne = Effect.fnUntraced(function* (answer: ScorableAnswer, number: number, of: number) {
    const { finished, id, prompt, safety, text } = answer
    const doing = `Scoring answer ${number} of ${of} (to prompt ${id}) with the ${kind} ${name}`
    const failed = (found: string, hint: string) =>
      ScorerError.of({ doing, expected: `a number from -${largestScore} to ${largestScore}`, found, hint })
    const request = { prompt, answer: text, id, finished, ...(safety === undefined ? {} : { safety }) }
    const scored = yield* Effect.promise(() => process.ask(JSON.stringify(request), timeout))
    if (scored.is === "late")
      return yield* failed(
        `nothing within ${timeout} seconds`,
        kind === "function"
          ? "It does not finish for this answer, or needs longer: fix it, or raise timeout."
          : "It must write one line for each line that it reads, immediately (flush the output). Fix it, or raise timeout."
      )
    if (scored.is === "ended") {
      const said = scored.said === "" ? "" : ` after printing: ${scored.said}`
      return yield* failed(`that ${scored.how}${said}`, "Fix it and run again.")
    }
    if (scored.is === "more")
      return yield* failed(`an extra line: ${JSON.stringify(scored.line)}`, "It must write exactly one line for each line that it reads.")
    const value = parsed(scored.line)
    if (typeof value === "object" && value !== null && "threw" in value)
      return yield* failed(`that it threw ${String(value.threw)}`, "Fix it and run again.")
    if (typeof value !== "number" || Math.abs(value) > largestScore) {
      const found = typeof value === "object" && value !== null && "got" in value ? String(value.got) : JSON.stringify(value)
      return yield* failed(found, "Return a number in that range for each answer, for example 1 for correct and 0 for wrong.")
    }
    return value
  })
  const scorer: Scorer = {
    name,
    score: Effect.fnUntraced(function* (answers, progress) {
      const out: Array<number> = []
      for (const [i, answer] of answers.entries()) {
        out.push(yield* scoreOne(answer, i + 1, answers.length))
        if ((i + 1) % 64 === 0) yield* progress({ message: "scoring" })
      }
      return out
    })
  }
  return scorer
})

/** The parsed JSON, or the line itself if it is not JSON. */
const parsed = (line: string): unknown => {
  try {
    return JSON.parse(line)
  } catch {
    return line
  }
}

// ---- judge ----

const judge = Effect.fnUntraced(function* (settings: ScorerSettings) {
  const { concurrency, guideline, keyVariable, model, timeout, url } = settings
  const environment = globalThis.process.env
  const failed = (found: string, hint: string, isRetryable = false) =>
    ScorerError.of({ doing: `Asking the judge ${model} at ${url} for a grade`, expected: "a grade", found, hint, isRetryable })
  const fault = endpointFault(settings, environment)
  if (fault !== undefined) return yield* failed("that it cannot be asked", fault)
  const key = keyVariable === "" ? undefined : environment[keyVariable]
  const scorer: Scorer = {
    name: model,
    score: (answers, progress) =>
      Effect.forEach(
        answers,
        Effect.fnUntraced(function* (answer) {
          const reply = yield* askEndpoint({ url, model, key, timeout }, gradeQuestion(answer, guideline)).pipe(
            Effect.catch((error) =>
              Effect.fail(
                failed(
                  redact(error.message, key === undefined ? [] : [key]),
                  "Check the URL and the key, and run again.",
                  error.isRetryable
                )
              )
            )
          )
          yield* progress({ message: "scoring" })
          return readGrade(reply)
        }),
        { concurrency }
      )
  }
  return scorer
})

const gradeQuestion = ({ prompt, text }: ScorableAnswer, guideline: string): string => {
  const dialogue = prompt.map(({ content, role }) => `${role}: ${content}`).join("\n")
  return `Grade the answer to a dialogue. ${guideline}\nAnswer with one JSON object and nothing else: {"grade": a whole number from 0 (worst) to 10 (best)}\n\n# Dialogue\n${dialogue}\n\n# Answer\n${text}`
}

/** Converts a grade g from 0 to 10 to the logit of R = (g + 1/2) / 11; undefined if the text contains no grade. */
export const readGrade = (reply: string): number | undefined => {
  const { grade } = jsonIn(reply)
  if (!Number.isInteger(grade) || (grade as number) < 0 || (grade as number) > 10) return undefined
  const share = ((grade as number) + 0.5) / 11
  return Math.log(share / (1 - share))
}
