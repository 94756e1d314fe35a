/**
 * A run of the recipe as one self-contained HTML page: the figures of its reports (world-sections.ts), and dialogues side by side. `caravan report` makes a more complete
 * page for any run.
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
import type { ArtifactRef, Report, ReportType } from "../../schemas/artifact.ts"
import { BatchRewardsReport } from "../evaluation/batch-rewards.ts"
import { CalibrationReport } from "../evaluation/calibration.ts"
import { AttentionMapReport } from "../ghost-attention/attention-map.ts"
import { RoundWinsReport } from "../preferences/round-wins.ts"
import { RedTeamReport } from "../safety/red-team.ts"
import { DistillationGainReport } from "../safety/distillation-gain.ts"
import { PpoDiagnosticsReport } from "../ppo/diagnostics.ts"
import { PreferenceStatisticsReport } from "../preferences/preference-statistics.ts"
import { RewardHackingReport } from "../evaluation/reward-hacking.ts"
import { SelfBleuReport } from "../evaluation/self-bleu.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { pageFile } from "../common/report-files.ts"
import { dialogues } from "./dialogues.ts"
import { pageOf } from "./page.ts"
import { versionRows } from "./tables.ts"
import { worldSections } from "./world-sections.ts"
import { TemperatureSweepReport } from "../rejection-sampling/temperature-sweep.ts"
import { worldConclusions } from "../world/conclusions.ts"
import { WorldSummaryReport } from "../world/summary-report.ts"

/** The contents of the page `report.html` stored with the report. */
const HtmlReportContent = Schema.Struct({ title: Schema.String, page: Schema.String, figures: Schema.Array(Schema.String) })
export const HtmlReport = report(HtmlReportContent, "html-report/1")

const readOptional = <Content>(ref: ArtifactRef<Report<Content>> | undefined, type: ReportType<Content>) =>
  ref === undefined ? Effect.succeed(undefined) : readReport(ref, type)

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
    roundWins: Stage.optional(RoundWinsReport),
    curriculum: Stage.optional(BatchRewardsReport),
    attention: Stage.optional(AttentionMapReport),
    calibration: Stage.optional(CalibrationReport),
    diversity: Stage.optional(SelfBleuReport),
    guard: Stage.optional(RewardHackingReport),
    redTeam: Stage.optional(RedTeamReport)
  },
  output: HtmlReport,
  run: Effect.fn("html-report")(function* ({ config, inputs, output, seed }) {
    const summary = yield* readReport(inputs.summary, WorldSummaryReport)
    if (config.versions.length !== inputs.versions.length)
      return yield* EmptyDatasetError.of(`show ${config.versions.length} versions`, `${inputs.versions.length} sets of answers`)
    const sets = yield* Effect.forEach(inputs.versions, (set, i) =>
      Effect.map(readRows(set, ScoredCompletions), (scored) => ({ name: config.versions[i]!, scored }))
    )
    const sections = worldSections({
      summary,
      versions: sets,
      sweep: yield* readOptional(inputs.sweep, TemperatureSweepReport),
      ppo: yield* readOptional(inputs.ppo, PpoDiagnosticsReport),
      distillation: yield* readOptional(inputs.distillation, DistillationGainReport),
      statistics: yield* readOptional(inputs.statistics, PreferenceStatisticsReport),
      roundWins: yield* readOptional(inputs.roundWins, RoundWinsReport),
      curriculum: yield* readOptional(inputs.curriculum, BatchRewardsReport),
      attention: yield* readOptional(inputs.attention, AttentionMapReport),
      calibration: yield* readOptional(inputs.calibration, CalibrationReport),
      diversity: yield* readOptional(inputs.diversity, SelfBleuReport),
      guard: yield* readOptional(inputs.guard, RewardHackingReport),
      redTeam: yield* readOptional(inputs.redTeam, RedTeamReport)
    })
    const { helpfulness, safety } = summary.prompts
    const page = yield* Effect.promise(() =>
      pageOf({
        title: config.title,
        about: [
          `Seed ${seed}. ${helpfulness} held-out prompts to help with and ${safety} to refuse, graded by the world's oracle; ± one standard error. The reward models' scores are over all answers that have one: empty answers, and those with tags of the chat format, have none.`
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
