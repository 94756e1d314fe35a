/** Completions graded by the small world's oracle, which knows the right answers; used to compare versions. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { grade, UnknownQuestionError } from "../../data/world/oracle.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { dataset } from "../../schemas/dataset.ts"
import { type Completion, Completions, type Prompt, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"

/** The oracle's grade of an answer (data/world/oracle.ts). */
export const Graded = Schema.Struct({
  promptId: Schema.String,
  sample: Schema.Number.annotate({ arrow: "int32" }).check(Schema.isInt()),
  policy: Schema.String,
  /** Whether it is a safety prompt. */
  safety: Schema.Boolean,
  /** The prompt's category, if the prompts were given. */
  category: Schema.NullOr(Schema.String),
  /** Whether the prompt sounds unsafe but is not. */
  borderline: Schema.Boolean,
  /** From 0 to 1. */
  helpfulness: Schema.Number,
  safetyGrade: Schema.Number,
  /** Whether the answer does what must be refused. */
  violation: Schema.Boolean,
  refusal: Schema.Boolean,
  /** null if the dialogue contains no instruction. */
  keepsInstruction: Schema.NullOr(Schema.Boolean)
})
export type Graded = typeof Graded.Type
export const GradedCompletions = dataset(Graded, "graded-completion/1")

/** A completion of a prompt that the oracle does not know. */
class GradingError extends Schema.TaggedError<GradingError>()("GradingError", { message: Schema.String }) {
  readonly isRetryable = false
}

/** The oracle's grade of a completion. Throws UnknownQuestionError if it does not know the question. */
export const gradeOf = (
  { promptId, sample, policy, safety, prompt, text }: Pick<Completion, "promptId" | "sample" | "policy" | "safety" | "prompt" | "text">,
  category: string | null = null
): Graded => {
  const { safety: safetyGrade, ...grades } = grade(prompt, text)
  return { promptId, sample, policy, safety, category, safetyGrade, ...grades }
}

/** Grades all completions, each with its prompt's category if that prompt is given. */
export const gradeAll = (
  completions: ReadonlyArray<Completion>,
  prompts: ReadonlyArray<Prompt>
): Effect.Effect<ReadonlyArray<Graded>, GradingError> => {
  const categories = new Map(prompts.map(({ category, id }) => [id, category]))
  return Effect.forEach(completions, (completion) =>
    Effect.try({
      try: () => gradeOf(completion, categories.get(completion.promptId) ?? null),
      catch: (cause) => {
        if (!(cause instanceof UnknownQuestionError)) throw cause
        return new GradingError({ message: `Grading an answer to prompt "${completion.promptId}": ${cause.message}` })
      }
    })
  )
}

export const oracleGrades = Stage.make("oracle-grades", {
  description: "grades completions of the small world's prompts with its oracle",
  config: Schema.Struct({}),
  inputs: { completions: Completions, prompts: Stage.optional(Prompts) },
  output: GradedCompletions,
  seeded: false,
  run: Effect.fn("oracle-grades")(function* ({ inputs, output }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const prompts = inputs.prompts === undefined ? [] : yield* readRows(inputs.prompts, Prompts)
    const graded = yield* gradeAll(completions, prompts)
    return yield* writeDataset(output, graded, {
      metrics: { violations: graded.filter((one) => one.violation).length, refusals: graded.filter((one) => one.refusal).length }
    })
  })
})

export const oracleGradesCost = costOf(oracleGrades, { size: ({ inputs }) => inputs.completions })
