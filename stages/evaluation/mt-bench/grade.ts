/**
 * MT-Bench by single-answer grading (Zheng et al. 2023, §3.1 and §4.2): a judge grades a model's answer to each turn from 1 to 10. The score is the mean over questions; its interval is over questions, as two turns
 * of one question are not independent.
 *
 * A turn without an answer (an empty one, or no room for any) is not shown to the judge and has the lowest grade, 1: without it a model would gain by saying nothing. How many
 * there are is beside the score, as are answers of the judge that are no grade, which count in no mean.
 *
 * Deviations: see wording.ts; and answers are sampled by whoever calls (pipelines/rlhf.ts: greedily; the paper: at 0.7 for writing and roleplay, 0.1 for STEM and humanities).
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

/** §4.2: the lowest. */
const lowest = 1

const GradedTurn = Schema.Struct({
  id: Schema.String,
  category: Schema.String,
  /** From 1. */
  turn: Schema.Number,
  /** Whether there was an answer to show. */
  answered: Schema.Boolean,
  /** Null where the judge's answer is no grade. */
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
  /** Turns on which the judge's answer is no grade: in no mean. */
  unreadable: Schema.Number,
  turns: Schema.Array(GradedTurn)
})
export type MtBenchGrades = typeof MtBenchGrades.Type
export const MtBenchGradesReport = report(MtBenchGrades, "mt-bench-grades/1")

/** Mean over questions of what was graded. */
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

/** Turns with an answer, each with what the judge is asked of it. */
const askedOf = (answered: ReadonlyArray<Answered>) =>
  answered.flatMap(({ answers, question }) =>
    answers.flatMap((text, turn) => (text === undefined ? [] : [{ question, turn, text: gradeQuestion(question, turn, answers) }]))
  )

export const gradeMtBench = Stage.make("grade-mt-bench", {
  description: "MT-Bench: a judge's grades, 1 to 10, of a model's answers to both turns",
  config: Schema.Struct(judgeFields()),
  inputs: { file: External, first: Completions, second: Completions },
  output: MtBenchGradesReport,
  run: Effect.fn("grade-mt-bench")(function* ({ checkpoints, config, inputs, output, progress, seed, skipped }) {
    const { model } = config
    const questions = yield* readQuestions(inputs.file.path)
    const [first, second] = [yield* readRows(inputs.first, Completions), yield* readRows(inputs.second, Completions)]
    const answered = yield* answeredOf(questions, first, second, "Grading answers to MT-Bench")
    const asked = askedOf(answered)
    const judged = yield* askJudge(
      { ...config, environment: process.env, progress, checkpoints },
      asked.map(({ text }) => ({ key: JSON.stringify([model, text]), text })),
      {
        what: { one: "answer", many: "answers" },
        schema: Judgement,
        read: (said) => ({ said, grade: readGrade(said) }),
        isUnreadable: ({ grade }) => grade === null
      }
    )
    const byTurn = new Map(asked.map(({ question, turn }, i) => [JSON.stringify([question.id, turn]), judged[i]!]))
    const turns = answered.flatMap(({ answers, question: { category, id } }) =>
      answers.map((text, turn): GradedTurn => {
        const found = byTurn.get(JSON.stringify([id, turn]))
        return { id, category, turn: turn + 1, answered: text !== undefined, grade: found === undefined ? lowest : found.grade }
      })
    )
    const lines = asked.map(({ question: { category, id }, turn }, i) => ({ id, category, turn: turn + 1, ...judged[i]! }))
    for (const row of lines)
      if (row.grade === null)
        skipped.add({ what: "answers", reason: "on which the judge's answer is no grade", id: `${row.id}, turn ${row.turn}`, row })
    // How many may be is the judge's own limit (maxUnreadable).
    yield* skipped.check("answers", turns.length, anyShare)
    yield* writeJudgements(output.path, lines)
    return yield* writeReport(output, gradesOf(model, turns, seed))
  })
})
