/** Reward models (Llama 2 §3.2.2, A.3.3): accuracy on held-out pairs, size against data, margins, calibration of score differences, detection of unsafe responses. */
import * as Effect from "effect/Effect"
import { parameterCount } from "../../models/config.ts"
import { type Preference, PairScores, Preferences } from "../../schemas/rows.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import { type RewardAccuracy, RewardAccuracyReport, recallBelow, type SafetyRecall, SafetyRecallReport } from "../reward/evaluate-reward.ts"
import { WorldSummaryReport } from "../world/summary-report.ts"
import { shapeOf } from "./chapter-models.ts"
import type { Section, Table } from "./figure.ts"
import { accuracyFigure } from "./figures.ts"
import type { Result, Results } from "./results.ts"
import {
  accuracyBySourceTable,
  accuracyTable,
  chosenFrequencyFigure,
  marginScoresFigure,
  rewardScalingFigure,
  safetyRecallTable
} from "./reward-model-figures.ts"

/** An evaluation of one reward model: its pairs, and their scores. */
interface Evaluated {
  readonly name: string
  readonly accuracy: RewardAccuracy
  readonly reward: Result
  readonly scores: ReadonlyArray<Result>
  readonly test: string
  /** Whether scores are choices of 1 and 0, which are not on a scale. */
  readonly isJudge: boolean
}

const evaluationsOf = Effect.fnUntraced(function* (run: Results) {
  const reports = yield* run.reports(RewardAccuracyReport)
  return reports.flatMap((report): Array<Evaluated> => {
    const scores = run.inputs(report, "scores")
    // A judge has no checkpoint: it is identified by its choices, combined over sets of pairs with the same config.
    const judges = scores.filter(({ stage }) => stage === "judge-pairs")
    if (judges.length > 0 && judges.length === scores.length)
      return new Set(judges.map(({ config }) => JSON.stringify(config))).size > 1
        ? []
        : [{ name: report.node, accuracy: report.content, reward: judges[0]!, scores, test: "", isJudge: true }]
    const rewards = new Set(scores.map((one) => run.input(one, "reward")))
    const [reward] = rewards
    if (rewards.size !== 1 || reward === undefined) return []
    const test = scores.map((one) => run.input(one, "pairs")?.digest ?? "").join(" ")
    return [{ name: report.node, accuracy: report.content, reward, scores, test, isJudge: false }]
  })
})

/** The largest set of evaluations on the same held-out pairs whose models differ in size or in their amount of training data. */
const scalingOf = Effect.fnUntraced(function* (run: Results, evaluated: ReadonlyArray<Evaluated>) {
  const sized = yield* Effect.forEach(evaluated, (one) =>
    Effect.gen(function* () {
      const pairs = run.input(one.reward, "pairs")
      const [shape, rows] = [
        yield* shapeOf(one.reward),
        pairs === undefined ? undefined : yield* run.fields(pairs, Preferences, ["rating"])
      ]
      return shape === undefined || rows === undefined
        ? []
        : [{ test: one.test, parameters: parameterCount(shape), pairs: rows.length, accuracy: one.accuracy }]
    })
  )
  const groups = [...Map.groupBy(sized.flat(), ({ test }) => test).values()]
  const largest = groups.reduce<(typeof groups)[number]>((best, one) => (one.length > best.length ? one : best), [])
  const [sizes, amounts] = [new Set(largest.map(({ parameters }) => parameters)).size, new Set(largest.map(({ pairs }) => pairs)).size]
  return amounts > 1 && sizes * amounts > 3 && largest.length === sizes * amounts ? largest : []
})

/** Evaluations whose models differ only in the margin. */
const marginsOf = (evaluated: ReadonlyArray<Evaluated>): ReadonlyArray<Evaluated & { readonly margin: string }> => {
  const groups = Map.groupBy(evaluated, ({ reward, test }) => JSON.stringify([test, reward.inputs, { ...reward.config, margin: null }]))
  const found = [...groups.values()].find((some) => new Set(some.map(({ reward }) => reward.config.margin)).size > 1) ?? []
  return found.map((one) => ({ ...one, margin: String(one.reward.config.margin) }))
}

type NamedAccuracy = Pick<Evaluated, "name" | "accuracy">
/** Evaluations over several test sets; those of one model on one other set each become one evaluation with the model's name. */
const acrossSets = (evaluated: ReadonlyArray<Evaluated>): ReadonlyArray<NamedAccuracy> => {
  const models = Map.groupBy(evaluated, ({ isJudge, reward }) => (isJudge ? JSON.stringify(reward.config) : reward.digest))
  return [...models.values()].flatMap((some): ReadonlyArray<NamedAccuracy> => {
    const [first] = some
    const bySource = some.flatMap(({ accuracy }) => accuracy.bySource)
    const sources = new Set(bySource.map(({ source }) => source))
    if (first === undefined || some.length === 1 || bySource.length !== some.length || sources.size !== some.length) return some
    return [{ name: first.reward.node, accuracy: { ...first.accuracy, bySource } }]
  })
}

const namedScores = (run: Results, name: string, { scores }: Evaluated) =>
  Effect.map(
    Effect.forEach(scores, (one) => run.fields(one, PairScores, ["chosenReward", "rejectedReward"])),
    (all) => ({ name, scores: all.flat() })
  )

/** How well a safety model detects the unsafe responses among its held-out pairs, at the threshold of R_c and at table 29's. */
const recallOf = Effect.fnUntraced(function* (run: Results, { scores }: Evaluated) {
  const responses: Array<{ readonly score: number; readonly safe: boolean }> = []
  for (const set of scores) {
    const pairs = run.input(set, "pairs")
    if (pairs === undefined) continue
    const labels = new Map<string, Pick<Preference, "chosenSafe" | "rejectedSafe">>(
      (yield* run.fields(pairs, Preferences, ["id", "chosenSafe", "rejectedSafe"])).map(({ id, ...labels }) => [id, labels])
    )
    for (const { chosenReward, id, rejectedReward } of yield* run.fields(set, PairScores, ["id", "chosenReward", "rejectedReward"])) {
      const found = labels.get(id)
      if (found?.chosenSafe !== null && found?.chosenSafe !== undefined)
        responses.push({ score: scoreOf(chosenReward), safe: found.chosenSafe })
      if (found?.rejectedSafe !== null && found?.rejectedSafe !== undefined)
        responses.push({ score: scoreOf(rejectedReward), safe: found.rejectedSafe })
    }
  }
  if (responses.length === 0) return undefined
  const recall: SafetyRecall = {
    responses: responses.length,
    unsafe: responses.filter(({ safe }) => !safe).length,
    recall: recallBelow(responses, 0.5),
    gate: recallBelow(responses, 0.15)
  }
  return recall
})

const isSafety = ({ reward }: Evaluated): boolean => reward.type.includes("safety")
/** The last evaluation of each kind of model, which is that of the model in use at the end. */
const lastOfEachKind = (evaluated: ReadonlyArray<Evaluated>): ReadonlyArray<Evaluated> => [
  ...new Map(evaluated.map((one) => [one.reward.type, one])).values()
]

export const rewardModelsChapter = Effect.fnUntraced(function* (run: Results) {
  const all = yield* evaluationsOf(run)
  const evaluated = all.filter(({ isJudge }) => !isJudge)
  const summaries = yield* run.reports(WorldSummaryReport)
  const [margins, scaling] = [marginsOf(evaluated), yield* scalingOf(run, evaluated)]
  const compared = margins.length > 0 ? margins.map((one) => ({ ...one, name: `margin ${one.margin}` })) : lastOfEachKind(evaluated)
  const named = yield* Effect.forEach(compared, (one) => namedScores(run, one.name, one))
  const told = (yield* run.reports(SafetyRecallReport)).map(({ content, node }) => ({ name: node, recall: content }))
  const computed =
    told.length > 0
      ? []
      : yield* Effect.forEach(lastOfEachKind(evaluated).filter(isSafety), (one) =>
          Effect.map(recallOf(run, one), (recall) => (recall === undefined ? [] : [{ name: one.reward.node, recall }]))
        )
  const recalls = [...told, ...computed.flat()]
  const tables: ReadonlyArray<Table> = [
    ...(margins.length > 0
      ? [
          accuracyTable(
            "Accuracy by margin",
            margins.map((one) => ({ name: `margin ${one.margin}`, accuracy: one.accuracy })),
            "margins"
          )
        ]
      : []),
    ...(all.length > 0 && margins.length === 0 ? [accuracyTable("Reward models on held-out pairs", all)] : []),
    ...accuracyBySourceTable(acrossSets(all)),
    ...(recalls.length > 0 ? [safetyRecallTable(recalls)] : [])
  ]
  const section: Section = {
    title: "Reward models",
    figures: [
      ...summaries.map(({ content }) => accuracyFigure(content)),
      ...(scaling.length > 0 ? [rewardScalingFigure(scaling)] : []),
      ...(margins.length > 0 ? [marginScoresFigure(yield* Effect.forEach(margins, (one) => namedScores(run, one.margin, one)))] : []),
      ...(named.some(({ scores }) => scores.length > 0) ? [chosenFrequencyFigure(named)] : [])
    ],
    tables
  }
  return [section]
})
