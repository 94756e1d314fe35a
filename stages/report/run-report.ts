/** The final report of a run on your own data: its figures as JSON, as text for the terminal, and as one self-contained HTML page with dialogues. */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactRef, Dataset } from "../../schemas/artifact.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { report } from "../../schemas/report.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { checkNames } from "../common/pairing.ts"
import { pageFile, textFile } from "../common/report-files.ts"
import { BestOfNReport } from "../evaluation/evaluate-policy.ts"
import { conclusionsOf } from "../evaluation/conclusions.ts"
import { figuresOf, gainOver, rewardModelFigures, RunSummary } from "../evaluation/run-summary.ts"
import { summaryText } from "../evaluation/run-summary-text.ts"
import { MtBenchReport } from "../evaluation/mt-bench/summary.ts"
import { XsTestReport } from "../evaluation/xstest.ts"
import { PpoDiagnosticsReport } from "../ppo/diagnostics.ts"
import { RewardAccuracyReport, RewardBaselinesReport, SafetyRecallReport } from "../reward/evaluate-reward.ts"
import type { Section } from "./figure.ts"
import { accuracyFigure, ppoFigure } from "./figures.ts"
import { dialogues } from "./dialogues.ts"
import { pageOf } from "./page.ts"
import { mtBenchCategoriesTable, mtBenchTable, xsTestTable, xsTestTypesTable } from "./published-tables.ts"
import { bestOfKFigure, rewardModelsTable, rewardsFigure, runGainTable, runRows } from "./run-figures.ts"

export const RunReport = report(RunSummary, "run-summary/4")

/** Sets of scored answers by name. */
const namedSets = Effect.fnUntraced(function* (
  sets: ReadonlyArray<ArtifactRef<Dataset<ScoredCompletion>>>,
  names: ReadonlyArray<string>,
  what: string
) {
  yield* checkNames(names, sets.length, `Reporting on ${what}`)
  return yield* Effect.forEach(
    sets,
    Effect.fnUntraced(function* (set, i) {
      const scored = yield* readRows(set, ScoredCompletions)
      if (scored.length === 0) return yield* EmptyDatasetError.of(`report on ${names[i]}`, "answers without any score")
      return { name: names[i]!, scored }
    })
  )
})

export const runReport = Stage.make("run-report", {
  description: "the report of a run on your own data: versions and controls, reward models and their judges, best of K, PPO, dialogues",
  config: Schema.Struct({
    title: hyper("The recipe on your own data", "title of the page"),
    versions: Schema.Array(Schema.String).annotate({
      description: "names of the versions, in the order of the input; the last one is compared with all others"
    }),
    controls: Schema.Array(Schema.String).annotate({ description: "names of the controls, in the order of the input" }),
    dialogues: hyperInt(12, "number of prompts shown with each version's answer", { min: 0 })
  }),
  inputs: {
    versions: Stage.many(ScoredCompletions),
    controls: Stage.many(ScoredCompletions),
    bestOfK: BestOfNReport,
    ppo: PpoDiagnosticsReport,
    helpfulness: RewardAccuracyReport,
    helpfulnessJudge: RewardAccuracyReport,
    helpfulnessBaselines: RewardBaselinesReport,
    safety: Stage.optional(RewardAccuracyReport),
    safetyJudge: Stage.optional(RewardAccuracyReport),
    safetyBaselines: Stage.optional(RewardBaselinesReport),
    safetyRecall: Stage.optional(SafetyRecallReport),
    xsTest: Stage.optional(XsTestReport),
    mtBench: Stage.optional(MtBenchReport)
  },
  output: RunReport,
  run: Effect.fn("run-report")(function* ({ config, inputs, output, seed }) {
    const versions = yield* namedSets(inputs.versions, config.versions, "versions")
    const controls = yield* namedSets(inputs.controls, config.controls, "controls")
    const helpfulness = rewardModelFigures(
      yield* readReport(inputs.helpfulness, RewardAccuracyReport),
      yield* readReport(inputs.helpfulnessJudge, RewardAccuracyReport),
      yield* readReport(inputs.helpfulnessBaselines, RewardBaselinesReport)
    )
    const { safety, safetyBaselines, safetyJudge, safetyRecall } = inputs
    const safetyModel =
      safety === undefined || safetyJudge === undefined || safetyBaselines === undefined
        ? null
        : rewardModelFigures(
            yield* readReport(safety, RewardAccuracyReport),
            yield* readReport(safetyJudge, RewardAccuracyReport),
            yield* readReport(safetyBaselines, RewardBaselinesReport)
          )
    const last = versions.at(-1)!
    const others = [...versions.slice(0, -1), ...controls]
    const figured = {
      versions: versions.map((one) => figuresOf(one, seed)),
      controls: controls.map((one) => figuresOf(one, seed)),
      gain: others.flatMap((one) => gainOver(last.scored, one, seed) ?? []),
      rewardModels: { helpfulness, safety: safetyModel },
      safetyRecall: safetyRecall === undefined ? null : yield* readReport(safetyRecall, SafetyRecallReport),
      bestOfK: yield* readReport(inputs.bestOfK, BestOfNReport),
      xsTest: inputs.xsTest === undefined ? null : yield* readReport(inputs.xsTest, XsTestReport),
      mtBench: inputs.mtBench === undefined ? null : yield* readReport(inputs.mtBench, MtBenchReport)
    }
    const ppo = yield* readReport(inputs.ppo, PpoDiagnosticsReport)
    const summary: RunSummary = { ...figured, conclusions: conclusionsOf(figured, ppo) }
    const { mtBench, xsTest } = summary
    const sections: ReadonlyArray<Section> = [
      { title: "Reward models", figures: [accuracyFigure(summary)], tables: [rewardModelsTable(summary)] },
      { title: "Choosing the best of K", figures: [bestOfKFigure(summary.bestOfK)] },
      { title: "PPO", figures: [ppoFigure(ppo)] },
      { title: "How the versions compare", figures: [rewardsFigure(summary)], tables: [runGainTable(summary)] },
      { title: "XSTest", tables: xsTest === null ? [] : [xsTestTable(xsTest), xsTestTypesTable(xsTest)] },
      { title: "MT-Bench", tables: mtBench === null ? [] : [mtBenchTable(mtBench), mtBenchCategoriesTable(mtBench)] }
    ]
    const page = yield* Effect.promise(() =>
      pageOf({
        title: config.title,
        about: [
          `Seed ${seed}. Held-out prompts, answered by every version and scored by the judges, which are reward models not used for tuning: means with 95% intervals over all answers that have a score (empty answers, and those with tags of the chat format, have none).`
        ],
        versions: runRows(summary),
        conclusions: summary.conclusions,
        sections,
        dialogues: dialogues([...versions, ...controls], config.dialogues)
      })
    )
    yield* Effect.promise(() => writeFile(join(output.path, textFile), `${summaryText(summary)}\n`))
    yield* Effect.promise(() => writeFile(join(output.path, pageFile), page))
    return yield* writeReport(output, summary)
  })
})
