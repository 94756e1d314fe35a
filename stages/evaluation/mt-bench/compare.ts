/**
 * MT-Bench with pairwise comparison (Zheng et al. 2023, §3.1 and §3.4): a judge sees two models' answers to each turn in both orders, since judges favour a position. An answer wins if it is preferred in
 * both orders; it is a tie if the two verdicts disagree, or if both say so.
 *
 * A model that did not answer a turn loses it without asking the judge; if neither answered, it is a tie, as for equal dialogues. An unreadable verdict leaves the turn undecided: a tie, also counted
 * separately. The share of decided verdicts for the answer shown first reveals the judge's bias: half without any.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { External } from "../../../schemas/artifact.ts"
import { report } from "../../../schemas/report.ts"
import { Completions } from "../../../schemas/rows.ts"
import { askJudge, judgeFields } from "../../common/judge.ts"
import { anyShare } from "../../common/unfit.ts"
import { Wins, winsOf } from "../win-rate.ts"
import { type Answered, answeredOf, readQuestions, writeJudgements } from "./questions.ts"
import { type Choice, comparisonQuestion, readChoice } from "./wording.ts"

const Outcome = Schema.Literals([
  "ours",
  "opponent",
  "tie",
  "disagreeing",
  "undecided",
  "equal",
  "only ours",
  "only the opponent",
  "neither"
])
type Outcome = typeof Outcome.Type
const ComparedTurn = Schema.Struct({ id: Schema.String, category: Schema.String, turn: Schema.Number, outcome: Outcome })
export type ComparedTurn = typeof ComparedTurn.Type

export const MtBenchWins = Schema.Struct({
  judge: Schema.String,
  /** The two turns of a question count as one prompt. */
  wins: Wins,
  byTurn: Schema.Array(Schema.Struct({ turn: Schema.Number, wins: Wins })),
  /** Ties because the two orders disagree, or because a verdict is unreadable. */
  disagreeing: Schema.Number,
  undecided: Schema.Number,
  /** Equal dialogues, which the judge is not asked about. */
  equal: Schema.Number,
  /** Turns that one or both models did not answer. */
  unanswered: Schema.Number,
  /** Verdicts for one side, and those among them for the answer shown first. */
  decided: Schema.Number,
  forFirst: Schema.Number,
  turns: Schema.Array(ComparedTurn)
})
export type MtBenchWins = typeof MtBenchWins.Type
export const MtBenchWinsReport = report(MtBenchWins, "mt-bench-wins/1")

/** From the verdicts in both orders: in the first, A is ours; in the second, B is. */
export const outcomeOf = (oursFirst: Choice | null, oursSecond: Choice | null): Outcome => {
  if (oursFirst === null || oursSecond === null) return "undecided"
  const [one, two] = [{ A: "ours", B: "opponent", C: "tie" } as const, { A: "opponent", B: "ours", C: "tie" } as const]
  return one[oursFirst] === two[oursSecond] ? one[oursFirst] : "disagreeing"
}

const valueOf = (outcome: Outcome, side: "ours" | "opponent"): number =>
  outcome === side || outcome === (side === "ours" ? "only ours" : "only the opponent") ? 1 : 0

export const winsOfTurns = (
  judge: string,
  turns: ReadonlyArray<ComparedTurn>,
  { decided, forFirst }: { readonly decided: number; readonly forFirst: number }
): MtBenchWins => {
  const wins = (own: ReadonlyArray<ComparedTurn>) =>
    winsOf(own.map(({ id, outcome }) => ({ promptId: id, ours: valueOf(outcome, "ours"), opponent: valueOf(outcome, "opponent") })))
  const count = (...of: ReadonlyArray<Outcome>) => turns.filter(({ outcome }) => of.includes(outcome)).length
  return {
    ...{ judge, wins: wins(turns) },
    byTurn: [...Map.groupBy(turns, ({ turn }) => turn)].map(([turn, own]) => ({ turn, wins: wins(own) })),
    ...{ disagreeing: count("disagreeing"), undecided: count("undecided") },
    equal: count("equal"),
    unanswered: count("only ours", "only the opponent", "neither"),
    ...{ decided, forFirst, turns }
  }
}

interface Compared {
  readonly question: Answered["question"]
  readonly turn: number
  readonly ours: ReadonlyArray<string | undefined>
  readonly opponent: ReadonlyArray<string | undefined>
  /** Outcomes that need no judge. */
  readonly settled: Outcome | undefined
}

/** Every turn, paired with the other model's. */
const turnsOf = (ours: ReadonlyArray<Answered>, opponent: ReadonlyArray<Answered>): ReadonlyArray<Compared> =>
  ours.flatMap(({ answers, question }, i) => {
    const others = opponent[i]!.answers
    return answers.map((mine, turn) => {
      const theirs = others[turn]
      const alike = answers.slice(0, turn + 1).every((text, at) => text === others[at])
      const settled =
        mine === undefined
          ? theirs === undefined
            ? ("neither" as const)
            : ("only the opponent" as const)
          : theirs === undefined
            ? ("only ours" as const)
            : alike
              ? ("equal" as const)
              : undefined
      return { question, turn, ours: answers, opponent: others, settled }
    })
  })

const Judgement = Schema.Struct({ said: Schema.String, choice: Schema.NullOr(Schema.Literals(["A", "B", "C"])) })

export const compareMtBench = Stage.make("compare-mt-bench", {
  description: "MT-Bench: how often a judge prefers one model's answers to another's, asked in both orders",
  config: Schema.Struct(judgeFields()),
  inputs: { file: External, first: Completions, second: Completions, opponentFirst: Completions, opponentSecond: Completions },
  output: MtBenchWinsReport,
  seeded: false,
  run: Effect.fn("compare-mt-bench")(function* ({ checkpoints, config, inputs, output, progress, skipped }) {
    const { model } = config
    const questions = yield* readQuestions(inputs.file.path)
    const answers = Effect.fnUntraced(function* (first: typeof inputs.first, second: typeof inputs.second) {
      const doing = "Comparing answers to MT-Bench"
      return yield* answeredOf(questions, yield* readRows(first, Completions), yield* readRows(second, Completions), doing)
    })
    const turns = turnsOf(yield* answers(inputs.first, inputs.second), yield* answers(inputs.opponentFirst, inputs.opponentSecond))
    const open = turns.filter(({ settled }) => settled === undefined)
    const toJudge = open.flatMap(({ opponent, ours, question, turn }) => [
      { oursIs: "A" as const, question, turn, text: comparisonQuestion(question, turn, ours, opponent) },
      { oursIs: "B" as const, question, turn, text: comparisonQuestion(question, turn, opponent, ours) }
    ])
    const judged = yield* askJudge({ ...config, environment: process.env, progress, checkpoints }, toJudge, {
      what: { one: "pair", many: "pairs" },
      schema: Judgement,
      read: (said) => ({ said, choice: readChoice(said) }),
      isUnreadable: ({ choice }) => choice === null
    })
    const outcomes = new Map(open.map((one, i) => [one, outcomeOf(judged[2 * i]!.choice, judged[2 * i + 1]!.choice)]))
    const lines = toJudge.map(({ oursIs, question: { category, id }, turn }, i) => ({
      id,
      category,
      turn: turn + 1,
      oursIs,
      ...judged[i]!
    }))
    for (const row of lines)
      if (row.choice === null)
        skipped.add({ what: "verdicts", reason: "that can't be read", id: `${row.id}, turn ${row.turn}, ours is ${row.oursIs}`, row })
    // The judge has its own limit (maxUnreadable).
    yield* skipped.check("verdicts", lines.length, anyShare)
    yield* writeJudgements(output.path, lines)
    const compared = turns.map((one): ComparedTurn => {
      const { category, id } = one.question
      return { id, category, turn: one.turn + 1, outcome: one.settled ?? outcomes.get(one)! }
    })
    const decided = judged.filter(({ choice }) => choice === "A" || choice === "B")
    const forFirst = decided.filter(({ choice }) => choice === "A").length
    return yield* writeReport(output, winsOfTurns(model, compared, { decided: decided.length, forFirst }))
  })
})
