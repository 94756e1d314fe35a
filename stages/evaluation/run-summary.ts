/** The figures of a run in one place: reward-model accuracy, what choosing the best is worth, rewards before and after tuning on the best. */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { BestOfN, BestOfNReport, RewardSummary, RewardSummaryReport } from "./evaluate-policy.ts"
import { RewardAccuracy, RewardAccuracyReport } from "../reward/evaluate-reward.ts"
import { textFile } from "../common/report-files.ts"
import { columns, within } from "../common/text-table.ts"

const RunSummary = Schema.Struct({
  /** On pairs that the model did not see. */
  rewardModel: RewardAccuracy,
  /** Chosen by one reward model, evaluated by one trained on other pairs. */
  bestOfK: BestOfN,
  /** Rewards by the evaluator, of the chat model and of the one tuned on the best samples. */
  before: RewardSummary,
  after: RewardSummary
})
type RunSummary = typeof RunSummary.Type
const RunSummaryReport = report(RunSummary, "run-summary/2")

/** The reward model, what choosing the best is worth, and rewards before and after tuning on the best. */
const runSummaryText = ({ rewardModel, bestOfK, before, after }: RunSummary): string => {
  const { preferShorter, shuffledLabels } = rewardModel.controls
  return [
    ...columns([
      [`of ${rewardModel.pairs} held-out pairs`, "right (95%)"],
      ["reward model", within(rewardModel.accuracy)],
      ["the shorter response", within(preferShorter)],
      ["labels shuffled", within(shuffledLabels)]
    ]),
    "",
    ...columns([
      ["reward by another model", "mean (95%)", "median", "greatest", "prompts", "samples", "ended"],
      ...Object.entries({ before, after }).map(([name, one]) => [
        ...[name, within(one.mean), within(one.median), within(one.max)],
        ...[one.prompts, one.completions, one.finished].map(String)
      ])
    ]),
    "",
    ...columns([["best of", "reward by another model (95%)"], ...bestOfK.byN.map(({ n, reward }) => [`${n}`, within(reward)])]),
    `The best of all is ${within(bestOfK.gain)} above the mean, ${within(bestOfK.mean)}.`
  ].join("\n")
}

export const summary = Stage.make("summary", {
  description: "the figures of a run in one report",
  config: Schema.Struct({}),
  inputs: { accuracy: RewardAccuracyReport, bestOfK: BestOfNReport, before: RewardSummaryReport, after: RewardSummaryReport },
  output: RunSummaryReport,
  seeded: false,
  run: Effect.fn("summary")(function* ({ inputs, output }) {
    const content: RunSummary = {
      rewardModel: yield* readReport(inputs.accuracy, RewardAccuracyReport),
      bestOfK: yield* readReport(inputs.bestOfK, BestOfNReport),
      before: yield* readReport(inputs.before, RewardSummaryReport),
      after: yield* readReport(inputs.after, RewardSummaryReport)
    }
    yield* Effect.promise(() => writeFile(join(output.path, textFile), `${runSummaryText(content)}\n`))
    return yield* writeReport(output, content)
  })
})
