/** The sections of the page of a run on the small world, from its reports and the scored answers of its versions. */
import type { BatchRewards } from "../evaluation/batch-rewards.ts"
import type { Calibration } from "../evaluation/calibration.ts"
import type { RewardHacking } from "../evaluation/reward-hacking.ts"
import type { SelfBleu } from "../evaluation/self-bleu.ts"
import type { AttentionMap } from "../ghost-attention/attention-map.ts"
import type { PpoDiagnostics } from "../ppo/diagnostics.ts"
import type { PreferenceStatistics } from "../preferences/preference-statistics.ts"
import type { RoundWins } from "../preferences/round-wins.ts"
import type { TemperatureSweep } from "../rejection-sampling/temperature-sweep.ts"
import type { DistillationGain } from "../safety/distillation-gain.ts"
import type { RedTeam } from "../safety/red-team.ts"
import type { WorldSummary } from "../world/summary-report.ts"
import { attentionMapFigure, instructionAttentionFigure } from "./attention-figure.ts"
import { batchRewardsFigure } from "./batch-rewards-figure.ts"
import { ratingByScoreFigure, scoreByRatingFigure } from "./calibration-figure.ts"
import { diversityFigure } from "./chapter-evaluation.ts"
import { ratingSharesFigure, roundsWonFigure, roundsWonTable } from "./chapter-preferences.ts"
import { beforeAfterFigure, tensionFigure } from "./comparison-figures.ts"
import type { Figure, Section, Table } from "./figure.ts"
import {
  accuracyFigure,
  bestOfNFigure,
  distillationFigure,
  distributionsFigure,
  ghostFigure,
  ppoFigure,
  versionsFigure
} from "./figures.ts"
import { mitigatedFigure, redTeamFigure, redTeamTable } from "./red-team-figures.ts"
import { distillationScoresFigure } from "./safety-figures.ts"
import { diversityTable, gainTable, guardTable, statisticsTable, winRatesTable } from "./tables.ts"
import { maxAndMedianFigure } from "./tuning-figures.ts"
import { hasSafetyScores, type Version } from "./versions.ts"

export interface WorldReports {
  readonly summary: WorldSummary
  readonly versions: ReadonlyArray<Pick<Version, "name" | "scored">>
  readonly sweep?: TemperatureSweep | undefined
  readonly ppo?: PpoDiagnostics | undefined
  readonly distillation?: typeof DistillationGain.Type | undefined
  readonly statistics?: PreferenceStatistics | undefined
  readonly roundWins?: RoundWins | undefined
  readonly curriculum?: BatchRewards | undefined
  readonly attention?: AttentionMap | undefined
  readonly calibration?: Calibration | undefined
  readonly diversity?: typeof SelfBleu.Type | undefined
  readonly guard?: RewardHacking | undefined
  readonly redTeam?: RedTeam | undefined
}

/** The figures of a report, if it exists. */
const figuresOf = <Content>(
  content: Content | undefined,
  ...figures: ReadonlyArray<(content: Content) => Figure | undefined>
): ReadonlyArray<Figure> => (content === undefined ? [] : figures.flatMap((figure) => figure(content) ?? []))
const tablesOf = <Content>(content: Content | undefined, table: (content: Content) => Table): ReadonlyArray<Table> =>
  content === undefined ? [] : [table(content)]

export const worldSections = (given: WorldReports): ReadonlyArray<Section> => {
  const { curriculum, diversity, distillation, guard, redTeam, roundWins, statistics, summary, sweep, versions } = given
  const [before, last] = [versions.find(({ name }) => name === "sft"), versions.at(-1)]
  return [
    {
      title: "Preference data",
      figures: [
        ...figuresOf(statistics, ratingSharesFigure),
        ...figuresOf(roundWins, roundsWonFigure),
        ...figuresOf(curriculum, (content) => batchRewardsFigure(content))
      ],
      tables: [...tablesOf(statistics, statisticsTable), ...tablesOf(roundWins, roundsWonTable)]
    },
    { title: "Reward models", figures: [accuracyFigure(summary)] },
    { title: "Rejection sampling", figures: figuresOf(sweep, maxAndMedianFigure, bestOfNFigure) },
    { title: "PPO", figures: figuresOf(given.ppo, ppoFigure) },
    {
      title: "Ghost Attention",
      figures: [...figuresOf(summary, ghostFigure), ...figuresOf(given.attention, attentionMapFigure, instructionAttentionFigure)]
    },
    {
      title: "Safety",
      figures: [
        ...figuresOf(last, (tuned) =>
          before === undefined || before === tuned || !hasSafetyScores(tuned) ? undefined : beforeAfterFigure(before, tuned)
        ),
        ...figuresOf(distillation, distillationScoresFigure, distillationFigure)
      ]
    },
    {
      title: "Red teaming",
      figures: figuresOf(redTeam, redTeamFigure, mitigatedFigure),
      tables: tablesOf(redTeam, redTeamTable)
    },
    {
      title: "How the versions compare",
      figures: [
        versionsFigure(summary),
        distributionsFigure(versions),
        ...figuresOf(last, tensionFigure),
        ...figuresOf(
          given.calibration,
          (content) => ratingByScoreFigure(content),
          (content) => scoreByRatingFigure(content)
        ),
        ...figuresOf(diversity, diversityFigure)
      ],
      tables: [gainTable(summary), winRatesTable(summary), ...tablesOf(diversity, diversityTable), ...tablesOf(guard, guardTable)]
    }
  ]
}
