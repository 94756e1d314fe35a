/**
 * A scorer in a reward model's place: a function, a program or a judge that gives each answer a number. It has a reward model's role and goes wherever one goes;
 * stages/reward/scorers.ts makes them.
 *
 * Its number is what a reward model's head would give: R = sigmoid(r) is R_h or R_s in (0, 1), and logit(R) = r is what is maximised. A safety scorer's gate of 0.15 is
 * at r = -1.73.
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

/** The folder of a scorer's code, beside its file. */
export const codeFolder = "code"
/** Numbers beyond are refused: scores are kept within 2^-24 of 0 and 1, where they would tie. */
export const largestScore = 16

export const ScorerSettings = Schema.Struct({
  kind: Schema.Literals(["function", "program", "judge"]),
  /** Of code: what it is called, and of a function its file. */
  name: Schema.String,
  /** Of a program: its words. */
  command: Schema.Array(Schema.String),
  /** Of a judge. */
  url: Schema.String,
  model: Schema.String,
  keyVariable: Schema.String,
  guideline: Schema.String,
  concurrency: Schema.Finite,
  /** Seconds that a score may take; of the first, the start included. */
  timeout: Schema.Finite
})
export type ScorerSettings = typeof ScorerSettings.Type

/** An answer to be scored. */
export interface ScorableAnswer {
  /** Of its prompt, or of the row. */
  readonly id: string
  readonly prompt: ReadonlyArray<Message>
  readonly text: string
  readonly finished: boolean
  /** Whether the prompt is meant to draw out something unsafe, where that is known. */
  readonly safety?: boolean
}

export interface Scorer {
  readonly name: string
  /** A number for each answer, in their order; undefined where a judge's words were no grade. */
  readonly score: (
    answers: ReadonlyArray<ScorableAnswer>,
    progress: (progress: Progress) => Effect.Effect<void>
  ) => Effect.Effect<ReadonlyArray<number | undefined>, ScorerError>
}

/** A scorer gave no number: it threw, ended, took too long, or gave something else. */
export class ScorerError extends ExplainedError<ScorerError>()("ScorerError") {}

/** Whether a reward's folder holds a scorer. */
export const isScorer = ({ path }: { readonly path: string }): boolean => existsSync(join(path, scorerFile))

/** Opens a scorer for as long as the scope lasts: its process runs in a copy of its code, so that whatever it writes harms no result. */
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
        found: error.message,
        hint: "Make it again."
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
    const doing = `Scoring answer ${number} of ${of} (to prompt ${id}) by the ${kind} ${name}`
    const failed = (found: string, hint: string) =>
      ScorerError.of({ doing, expected: `a number from -${largestScore} to ${largestScore}`, found, hint })
    const request = { prompt, answer: text, id, finished, ...(safety === undefined ? {} : { safety }) }
    const scored = yield* Effect.promise(() => process.ask(JSON.stringify(request), timeout))
    if (scored.is === "late")
      return yield* failed(
        `nothing within ${timeout} seconds`,
        kind === "function"
          ? "It never ends on this answer, or needs longer: mend it, or raise timeout."
          : "It must write a line for each that it reads, at once (flush its output). Mend it, or raise timeout."
      )
    if (scored.is === "ended") {
      const said = scored.said === "" ? "" : ` after saying: ${scored.said}`
      return yield* failed(`that ${scored.how}${said}`, "Mend it and run again.")
    }
    if (scored.is === "more")
      return yield* failed(
        `a line more than there were answers: ${JSON.stringify(scored.line)}`,
        "It must write one line for each that it reads, and nothing else."
      )
    const value = parsed(scored.line)
    if (typeof value === "object" && value !== null && "threw" in value)
      return yield* failed(`that it threw ${String(value.threw)}`, "Mend it and run again.")
    if (typeof value !== "number" || Math.abs(value) > largestScore) {
      const found = typeof value === "object" && value !== null && "got" in value ? String(value.got) : JSON.stringify(value)
      return yield* failed(found, "Give each answer a number of that size: 1 for right and 0 for wrong, for example.")
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

/** JSON, or the line as it is. */
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
    ScorerError.of({ doing: `Asking the judge ${model} at ${url} for a grade`, expected: "one", found, hint, isRetryable })
  const fault = endpointFault(settings, environment)
  if (fault !== undefined) return yield* failed("no way to ask", fault)
  const key = keyVariable === "" ? undefined : environment[keyVariable]
  const scorer: Scorer = {
    name: model,
    score: (answers, progress) =>
      Effect.forEach(
        answers,
        Effect.fnUntraced(function* (answer) {
          const said = yield* askEndpoint({ url, model, key, timeout }, gradeQuestion(answer, guideline)).pipe(
            Effect.catch((error) =>
              Effect.fail(
                failed(
                  redact(error.message, key === undefined ? [] : [key]),
                  "Check the address and the key, and run again.",
                  error.isRetryable
                )
              )
            )
          )
          yield* progress({ message: "scoring" })
          return readGrade(said)
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

/** A grade g of 0 to 10 as the scalar of R = (g + 1/2) / 11; undefined where there is none to be read. */
export const readGrade = (said: string): number | undefined => {
  const { grade } = (parsed(said.trim().replace(/^```(?:json)?\s*|\s*```$/g, "")) ?? {}) as { readonly grade?: unknown }
  if (!Number.isInteger(grade) || (grade as number) < 0 || (grade as number) > 10) return undefined
  const share = ((grade as number) + 0.5) / 11
  return Math.log(share / (1 - share))
}
