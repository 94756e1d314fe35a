/**
 * Judges whether answers keep their dialogue's instruction (Llama 2 §3.3, table 30 and figure 28, where people did): for instructions that cannot be checked by text, such as "Answer with a haiku.".
 * If an instruction has texts to check, the report compares the judge with that check.
 *
 * At every turn, all dialogues with a question at that turn count: one that ended earlier counts as not keeping its instruction, so that a model cannot benefit from ending early.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { costOf } from "../common/cost/estimator.ts"
import { unknownSize } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { askJudge, judgeFields } from "../common/judge.ts"
import { proportion } from "../common/statistics.ts"
import { anyShare } from "../common/unfit.ts"
import { keepsByText } from "./evaluate.ts"
import { endingsOf, type GhostSample, GhostSamples } from "./sample.ts"
import { jsonIn } from "../common/json-answer.ts"

const JudgedGhostAttention = Schema.Struct({
  judge: Schema.String,
  dialogues: Schema.Number,
  byTurn: Schema.Array(
    Schema.Struct({
      /** From 1. */
      turn: Schema.Number,
      /** Dialogues with a question at this turn, except those with an unreadable verdict; and those among them that reached it. */
      dialogues: Schema.Number,
      answered: Schema.Number,
      /** As a share of `dialogues`. */
      kept: EstimateSchema
    })
  ),
  endedEarly: Schema.Struct({ tooLong: Schema.Number, unfinished: Schema.Number, empty: Schema.Number, format: Schema.Number }),
  /** Answers with an unreadable verdict. */
  noVerdict: Schema.Number,
  /** Answers with both checks: how many keep the instruction according to both, to neither, and to only one; null if no instruction has a text. */
  besideText: Schema.NullOr(
    Schema.Struct({ both: Schema.Number, neither: Schema.Number, judgeAlone: Schema.Number, textAlone: Schema.Number })
  ),
  examples: Schema.Array(
    Schema.Struct({
      instruction: Schema.String,
      questions: Schema.Array(Schema.String),
      answers: Schema.Array(Schema.String),
      /** Null: no verdict. */
      kept: Schema.Array(Schema.NullOr(Schema.Boolean))
    })
  )
})
export type JudgedGhostAttention = typeof JudgedGhostAttention.Type
export const JudgedGhostAttentionReport = report(JudgedGhostAttention, "judged-ghost-attention/1")

const keptQuestion = ({ instruction, questions }: GhostSample, answer: string, turn: number): string =>
  `A user gave an instruction that holds for every answer of a dialogue. Say whether this answer keeps it, whatever else you think of it.\nAnswer with one JSON object and nothing else: {"kept": true or false}\n\n# Instruction\n${instruction}\n\n# Question ${turn + 1}\n${questions[turn]!}\n\n# Answer\n${answer}`

/** The verdict in a judge's answer; null if there is none. */
export const readKept = (said: string): boolean | null => {
  const { kept } = jsonIn(said)
  return typeof kept === "boolean" ? kept : null
}

/** The verdicts on each answer of each dialogue, as figures. */
export const judgedOf = (
  judge: string,
  samples: ReadonlyArray<GhostSample>,
  kept: ReadonlyArray<ReadonlyArray<boolean | null>>,
  examples: number
): JudgedGhostAttention => {
  const turns = Math.max(...samples.map(({ questions }) => questions.length))
  const both = samples.flatMap(({ answers, mustContain }, i) =>
    mustContain.length === 0
      ? []
      : answers.flatMap((answer, turn) => {
          const judged = kept[i]![turn] ?? null
          return judged === null ? [] : [{ judged, text: keepsByText(mustContain, answer) }]
        })
  )
  const count = (judged: boolean, text: boolean) => both.filter((one) => one.judged === judged && one.text === text).length
  return {
    judge,
    dialogues: samples.length,
    byTurn: Array.from({ length: turns }, (_, turn) => {
      const due = samples.flatMap(({ answers, questions }, i) =>
        turn < questions.length ? [turn < answers.length ? kept[i]![turn]! : "ended"] : []
      )
      const told = due.filter((one) => one !== null)
      return {
        ...{ turn: turn + 1, dialogues: told.length, answered: told.filter((one) => one !== "ended").length },
        kept: proportion(told.filter((one) => one === true).length, told.length)
      }
    }).filter(({ dialogues }) => dialogues > 0),
    endedEarly: endingsOf(samples),
    noVerdict: kept.flat().filter((one) => one === null).length,
    besideText:
      both.length === 0
        ? null
        : { both: count(true, true), neither: count(false, false), judgeAlone: count(true, false), textAlone: count(false, true) },
    examples: samples
      .slice(0, examples)
      .map(({ answers, instruction, questions }, i) => ({ instruction, questions, answers, kept: kept[i]! }))
  }
}

export const judgeGhostAttention = Stage.make("judge-ghost-attention", {
  description: "§3.3, table 30, figure 28: how often answers keep the instruction of the first turn, by turn, according to a judge",
  config: Schema.Struct({ ...judgeFields(), examples: hyperInt(3, "number of dialogues quoted in the report", { min: 0 }) }),
  inputs: { samples: GhostSamples },
  output: JudgedGhostAttentionReport,
  seeded: false,
  run: Effect.fn("judge-ghost-attention")(function* ({ checkpoints, config, inputs, output, progress, skipped }) {
    const samples = yield* readRows(inputs.samples, GhostSamples)
    const questions = samples.flatMap((sample, i) =>
      sample.answers.map((answer, turn) => ({ i, turn, id: sample.id, answer, text: keptQuestion(sample, answer, turn) }))
    )
    if (questions.length === 0) return yield* EmptyDatasetError.of("judge instructions in", `${samples.length} dialogues without answers`)
    const said = yield* askJudge({ ...config, environment: process.env, progress, checkpoints }, questions, {
      what: { one: "answer", many: "answers" },
      schema: Schema.NullOr(Schema.Boolean),
      read: readKept,
      isUnreadable: (kept) => kept === null
    })
    const kept: Array<Array<boolean | null>> = samples.map(() => [])
    questions.forEach(({ answer, i, id, turn }, at) => {
      kept[i]![turn] = said[at]!
      if (said[at] === null)
        skipped.add({ what: "answers", reason: "on which the judge's answer is not a verdict", id: `${id}, turn ${turn + 1}`, row: answer })
    })
    // The judge has its own limit (maxUnreadable).
    yield* skipped.check("answers", questions.length, anyShare)
    return yield* writeReport(output, judgedOf(config.model, samples, kept, config.examples))
  })
})

export const judgeGhostAttentionCost = costOf(judgeGhostAttention, { size: () => unknownSize })
