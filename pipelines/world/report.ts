/** What a run on the small world ends with: the summary, and everything on one page. */
import type { evaluateWorldGhostAttention } from "../../stages/world/ghost-attention.ts"
import type { preferenceStatistics } from "../../stages/preferences/preference-statistics.ts"
import type { ppoDiagnostics } from "../../stages/ppo/diagnostics.ts"
import { htmlReport } from "../../stages/report/html-report.ts"
import { worldSummary } from "../../stages/world/summary.ts"
import type { Distillation } from "./context-distillation.ts"
import type { JudgedVersion, rewardModelQuality } from "./evaluation.ts"
import type { FullEvaluation } from "./full-evaluation.ts"
import type { Sweep } from "./rejection-sampling.ts"

type Kept = ReturnType<typeof evaluateWorldGhostAttention>

/** All that was evaluated; undefined is what this run has not. */
export interface Evaluated {
  readonly versions: ReadonlyArray<JudgedVersion>
  readonly controls: ReadonlyArray<JudgedVersion>
  readonly rewards: ReturnType<typeof rewardModelQuality>
  readonly statistics: ReturnType<typeof preferenceStatistics>
  readonly sweep: Sweep
  /** How instructions are kept by a version without Ghost Attention, and by the last one. */
  readonly withoutGhostAttention: Kept | undefined
  readonly withGhostAttention: Kept | undefined
  readonly distilled: Distillation | undefined
  readonly ppo: ReturnType<typeof ppoDiagnostics> | undefined
  readonly full: FullEvaluation | undefined
}

const summaryOf = ({ controls, distilled, rewards, versions, withGhostAttention, withoutGhostAttention }: Evaluated) =>
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
      ...(withoutGhostAttention === undefined ? {} : { withoutGhostAttention }),
      ...(withGhostAttention === undefined ? {} : { withGhostAttention }),
      ...(distilled === undefined ? {} : { original: distilled.original, distilled: distilled.demonstrations })
    },
    { versions: versions.map(({ name }) => name), controls: controls.map(({ name }) => name) }
  )

export const reports = (evaluated: Evaluated) => {
  const { distilled, full, ppo, statistics, sweep, versions } = evaluated
  const summary = summaryOf(evaluated)
  const [withPpo, withDistillation] = [ppo === undefined ? {} : { ppo }, distilled === undefined ? {} : { distillation: distilled.gain }]
  const report = htmlReport(
    {
      summary,
      versions: versions.map(({ judged }) => judged),
      sweep: sweep.report,
      statistics,
      ...(full === undefined ? {} : { diversity: full.diversity, guard: full.guard }),
      ...withPpo,
      ...withDistillation
    },
    { versions: versions.map(({ name }) => name) }
  ).named("report")
  return { statistics, ...full, ...withPpo, ...withDistillation, summary, report }
}
