/** The final reports of a run on the small world: the summary, and an HTML page with all results. */
import { htmlReport } from "../../stages/report/html-report.ts"
import { worldSummary } from "../../stages/world/summary.ts"
import type { Evaluated } from "./evaluation.ts"

const summaryOf = ({ controls, distilled, rewards, roundWins, versions, withGhostAttention, withoutGhostAttention }: Evaluated) =>
  worldSummary(
    {
      versions: versions.map(({ said }) => said),
      versionScores: versions.map(({ judged }) => judged),
      controls: controls.map(({ said }) => said),
      controlScores: controls.map(({ judged }) => judged),
      helpfulness: rewards.helpfulness.accuracy,
      helpfulnessBaselines: rewards.helpfulness.baselines,
      safety: rewards.safety.accuracy,
      safetyBaselines: rewards.safety.baselines,
      roundWins,
      ...(withoutGhostAttention === undefined ? {} : { withoutGhostAttention }),
      ...(withGhostAttention === undefined ? {} : { withGhostAttention }),
      ...(distilled === undefined ? {} : { original: distilled.original, distilled: distilled.demonstrations })
    },
    { versions: versions.map(({ name }) => name), controls: controls.map(({ name }) => name) }
  )

export const reports = (evaluated: Evaluated) => {
  const { attention, calibration, distilled, full, ppo, roundWins, statistics, sweep, versions } = evaluated
  const summary = summaryOf(evaluated)
  const [withPpo, withDistillation] = [ppo === undefined ? {} : { ppo }, distilled === undefined ? {} : { distillation: distilled.gain }]
  const withAttention = attention === undefined ? {} : { attention }
  const report = htmlReport(
    {
      summary,
      versions: versions.map(({ judged }) => judged),
      sweep: sweep.report,
      ...{ statistics, roundWins, calibration },
      ...(full === undefined ? {} : { curriculum: full.curriculum, diversity: full.diversity, guard: full.guard, redTeam: full.redTeam }),
      ...withAttention,
      ...withPpo,
      ...withDistillation
    },
    { versions: versions.map(({ name }) => name) }
  ).named("report")
  return { statistics, roundWins, ...full, calibration, ...withAttention, ...withPpo, ...withDistillation, summary, report }
}
