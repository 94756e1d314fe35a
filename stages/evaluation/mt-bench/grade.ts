/**
 * MT-Bench with single-answer grading (Zheng et al. 2023, §3.1 and §4.2): a judge grades a model's answer to each turn from 1 to 10. The score is the mean over questions, and so is its interval, since the two turns
 * of a question are not independent.
 *
 * A turn without an answer (empty, or no space for one) is not shown to the judge and gets the lowest grade, 1; otherwise a model would benefit from not answering. The report includes
 * their number, and the number of judge answers without a grade, which are excluded from all means.
 *
 * Deviations: see wording.ts; and the caller samples the answers (pipelines/rlhf.ts: greedily; the paper: at temperature 0.7 for writing and roleplay, 0.1 for STEM and humanities).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { External } from "../../../schemas/artifact.ts"
import { EstimateSchema } from "../../../schemas/metrics.ts"
import { report } from "../../../schemas/report.ts"
import { Completions } from "../../../schemas/rows.ts"
import { askJudge, judgeFields } from "../../common/judge.ts"
import { meanByPrompt } from "../../common/pairing.ts"
import { bootstrapMean } from "../../common/statistics.ts"
import { anyShare } from "../../common/unfit.ts"
import { type Answered, answeredOf, readQuestions, writeJudgements } from "./questions.ts"
import { gradeQuestion, readGrade } from "./wording.ts"

/** §4.2: the lowest grade. */
const lowest = 1

const GradedTurn = Schema.Struct({
  id: Schema.String,
  category: Schema.String,
  /** From 1. */
  turn: Schema.Number,
  /** Whether there was an answer to grade. */
  answered: Schema.Boolean,
  /** Null if the judge's answer contains no grade. */
  grade: Schema.NullOr(Schema.Number)
})
export type GradedTurn = typeof GradedTurn.Type

const Mean = { graded: Schema.Number, score: Schema.NullOr(EstimateSchema) }
export const MtBenchGrades = Schema.Struct({
  judge: Schema.String,
  questions: Schema.Number,
  ...Mean,
  byTurn: Schema.Array(Schema.Struct({ turn: Schema.Number, ...Mean })),
  byCategory: Schema.Array(Schema.Struct({ category: Schema.String, ...Mean })),
  /** Turns without an answer: grade 1. */
  unanswered: Schema.Number,
  /** Turns for which the judge's answer contains no grade: excluded from all means. */
  unreadable: Schema.Number,
  turns: Schema.Array(GradedTurn)
})
export type MtBenchGrades = typeof MtBenchGrades.Type
export const MtBenchGradesReport = report(MtBenchGrades, "mt-bench-grades/1")

/** Mean over questions of the graded turns. */
const meanOf = (turns: ReadonlyArray<GradedTurn>, seed: number) => {
  const graded = turns.flatMap(({ grade, id }) => (grade === null ? [] : [{ promptId: id, grade }]))
  const values = [...meanByPrompt(graded, ({ grade }) => grade).values()]
  return { graded: graded.length, score: values.length === 0 ? null : bootstrapMean(values, seed) }
}

export const gradesOf = (judge: string, turns: ReadonlyArray<GradedTurn>, seed: number): MtBenchGrades => ({
  judge,
  questions: new Set(turns.map(({ id }) => id)).size,
  ...meanOf(turns, seed),
  byTurn: [...Map.groupBy(turns, ({ turn }) => turn)].map(([turn, own]) => ({ turn, ...meanOf(own, seed) })),
  byCategory: [...Map.groupBy(turns, ({ category }) => category)].map(([category, own]) => ({ category, ...meanOf(own, seed) })),
  unanswered: turns.filter(({ answered }) => !answered).length,
  unreadable: turns.filter(({ grade }) => grade === null).length,
  turns
})

const Judgement = Schema.Struct({ said: Schema.String, grade: Schema.NullOr(Schema.Number) })

/** Turns with an answer, each with its question to the judge. */
const questionsFor = (answered: ReadonlyArray<Answered>) =>
  answered.flatMap(({ answers, question }) =>
    answers.flatMap((text, turn) => (text === undefined ? [] : [{ question, turn, text: gradeQuestion(question, turn, answers) }]))
  )

export const gradeMtBench = Stage.make("grade-mt-bench", {
  description: "MT-Bench: a judge's grades, from 1 to 10, for a model's answers to both turns",
  config: Schema.Struct(judgeFields()),
  inputs: { file: External, first: Completions, second: Completions },
  output: MtBenchGradesReport,
  run: Effect.fn("grade-mt-bench")(function* ({ checkpoints, config, inputs, output, progress, seed, skipped }) {
    const { model } = config
    const questions = yield* readQuestions(inputs.file.path)
    const [first, second] = [yield* readRows(inputs.first, Completions), yield* readRows(inputs.second, Completions)]
    const answered = yield* answeredOf(questions, first, second, "Grading answers to MT-Bench")
    const toJudge = questionsFor(answered)
    const judged = yield* askJudge({ ...config, environment: process.env, progress, checkpoints }, toJudge, {
      what: { one: "answer", many: "answers" },
      schema: Judgement,
      read: (said) => ({ said, grade: readGrade(said) }),
      isUnreadable: ({ grade }) => grade === null
    })
    const byTurn = new Map(toJudge.map(({ question, turn }, i) => [JSON.stringify([question.id, turn]), judged[i]!]))
    const turns = answered.flatMap(({ answers, question: { category, id } }) =>
      answers.map((text, turn): GradedTurn => {
        const found = byTurn.get(JSON.stringify([id, turn]))
        return { id, category, turn: turn + 1, answered: text !== undefined, grade: found === undefined ? lowest : found.grade }
      })
    )
    const lines = toJudge.map(({ question: { category, id }, turn }, i) => ({ id, category, turn: turn + 1, ...judged[i]! }))
    for (const row of lines)
      if (row.grade === null)
        skipped.add({ what: "answers", reason: "on which the judge's answer is not a grade", id: `${row.id}, turn ${row.turn}`, row })
    // The judge has its own limit (maxUnreadable).
    yield* skipped.check("answers", turns.length, anyShare)
    yield* writeJudgements(output.path, lines)
    return yield* writeReport(output, gradesOf(model, turns, seed))
  })
})
