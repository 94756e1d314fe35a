/**
 * A run of the recipe as one self-contained HTML page: versions by helpfulness and safety, distributions of rewards, reward models by rating, best of N, PPO's
 * curves, Ghost Attention, distillation, and dialogues side by side. `caravan report` makes a more complete page for any run.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { ScoredCompletions } from "../../schemas/rows.ts"
import { DistillationGainReport } from "../safety/distillation-gain.ts"
import { PpoDiagnosticsReport } from "../ppo/diagnostics.ts"
import { PreferenceStatisticsReport } from "../preferences/preference-statistics.ts"
import { RewardHackingReport } from "../evaluation/reward-hacking.ts"
import { SelfBleuReport } from "../evaluation/self-bleu.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import {
  accuracyFigure,
  bestOfNFigure,
  distillationFigure,
  distributionsFigure,
  ghostFigure,
  ppoFigure,
  versionsFigure
} from "./figures.ts"
import { pageFile } from "../common/report-files.ts"
import { dialogues } from "./dialogues.ts"
import type { Section } from "./figure.ts"
import { pageOf } from "./page.ts"
import { diversityTable, gainTable, guardTable, statisticsTable, versionRows, winRatesTable } from "./tables.ts"
import { TemperatureSweepReport } from "../rejection-sampling/temperature-sweep.ts"
import { worldConclusions } from "../world/conclusions.ts"
import { WorldSummaryReport } from "../world/summary-report.ts"

/** The contents of the page `report.html` stored with the report. */
const HtmlReportContent = Schema.Struct({ title: Schema.String, page: Schema.String, figures: Schema.Array(Schema.String) })
export const HtmlReport = report(HtmlReportContent, "html-report/1")

export const htmlReport = Stage.make("html-report", {
  description: "one self-contained HTML page of the run, with figures, tables and dialogues",
  config: Schema.Struct({
    title: hyper("The recipe on the small world", "title of the page"),
    versions: Schema.Array(Schema.String).annotate({ description: "names of the versions, in the order of the input" }),
    dialogues: hyperInt(8, "number of prompts shown with each version's answer", { min: 0 })
  }),
  inputs: {
    summary: WorldSummaryReport,
    versions: Stage.many(ScoredCompletions),
    sweep: Stage.optional(TemperatureSweepReport),
    ppo: Stage.optional(PpoDiagnosticsReport),
    distillation: Stage.optional(DistillationGainReport),
    statistics: Stage.optional(PreferenceStatisticsReport),
    diversity: Stage.optional(SelfBleuReport),
    guard: Stage.optional(RewardHackingReport)
  },
  output: HtmlReport,
  run: Effect.fn("html-report")(function* ({ config, inputs, output, seed }) {
    const summary = yield* readReport(inputs.summary, WorldSummaryReport)
    if (config.versions.length !== inputs.versions.length)
      return yield* EmptyDatasetError.of(`show ${config.versions.length} versions`, `${inputs.versions.length} sets of answers`)
    const sets = yield* Effect.forEach(inputs.versions, (set, i) =>
      Effect.map(readRows(set, ScoredCompletions), (scored) => ({ name: config.versions[i]!, scored }))
    )
    const sweep = inputs.sweep === undefined ? undefined : yield* readReport(inputs.sweep, TemperatureSweepReport)
    const ppo = inputs.ppo === undefined ? undefined : yield* readReport(inputs.ppo, PpoDiagnosticsReport)
    const gain = inputs.distillation === undefined ? undefined : yield* readReport(inputs.distillation, DistillationGainReport)
    const statistics = inputs.statistics === undefined ? undefined : yield* readReport(inputs.statistics, PreferenceStatisticsReport)
    const diversity = inputs.diversity === undefined ? undefined : yield* readReport(inputs.diversity, SelfBleuReport)
    const guard = inputs.guard === undefined ? undefined : yield* readReport(inputs.guard, RewardHackingReport)
    const ghost = ghostFigure(summary)
    const sections: ReadonlyArray<Section> = [
      { title: "Preference data", tables: statistics === undefined ? [] : [statisticsTable(statistics)] },
      { title: "Reward models", figures: [accuracyFigure(summary)] },
      { title: "Rejection sampling", figures: sweep === undefined ? [] : [bestOfNFigure(sweep)] },
      { title: "PPO", figures: ppo === undefined ? [] : [ppoFigure(ppo)] },
      { title: "Ghost Attention", figures: ghost === undefined ? [] : [ghost] },
      { title: "Safety context distillation", figures: gain === undefined ? [] : [distillationFigure(gain)] },
      {
        title: "How the versions compare",
        figures: [versionsFigure(summary), distributionsFigure(sets)],
        tables: [
          gainTable(summary),
          winRatesTable(summary),
          ...(diversity === undefined ? [] : [diversityTable(diversity)]),
          ...(guard === undefined ? [] : [guardTable(guard)])
        ]
      }
    ]
    const { helpfulness, safety } = summary.prompts
    const page = yield* Effect.promise(() =>
      pageOf({
        title: config.title,
        about: [
          `Seed ${seed}. ${helpfulness} held-out prompts to help with and ${safety} to refuse, graded by the world's oracle; ± one standard error. R_h and R_s are the reward models' scores, over all answers that have a score (empty answers, and those with tags of the chat format, have none).`
        ],
        versions: versionRows(summary),
        conclusions: worldConclusions(summary),
        sections,
        dialogues: dialogues(sets, config.dialogues)
      })
    )
    const figures = sections.flatMap((section) => section.figures ?? [])
    yield* Effect.promise(() => writeFile(join(output.path, pageFile), page))
    return yield* writeReport(output, { title: config.title, page: pageFile, figures: figures.map(({ title }) => title) })
  })
})
