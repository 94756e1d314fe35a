/** Safety (Llama 2 §4.2 to §4.4): the amount of safety data, context distillation, scores before and after RLHF, violations by category and by turn. */
import * as Effect from "effect/Effect"
import { DistillationGainReport } from "../safety/distillation-gain.ts"
import { RedTeamReport } from "../safety/red-team.ts"
import { ViolationRateReport } from "../safety/violation-rate.ts"
import { VersionReport } from "../world/evaluate-version.ts"
import { ScoredCompletions } from "../../schemas/rows.ts"
import { beforeAfterFigure } from "./comparison-figures.ts"
import { existing, type Section } from "./figure.ts"
import { distillationFigure } from "./figures.ts"
import { mitigatedFigure, redTeamFigure, redTeamTable } from "./red-team-figures.ts"
import type { Results } from "./results.ts"
import {
  type ByShare,
  distillationScoresFigure,
  falseRefusalsFigure,
  safetyScalingFigure,
  safetyTailFigure,
  violationsFigure,
  violationsTable
} from "./safety-figures.ts"
import { judgedAnswers, violationsBy } from "./violations.ts"
import { answerFields, baselineOf, hasSafetyScores, lastOf, type Version } from "./versions.ts"

/** Evaluations of policies whose data mix a share of one set into all of another. */
const armsOf = Effect.fnUntraced(function* (run: Results) {
  const found = yield* Effect.forEach(yield* run.reports(VersionReport), (report) =>
    Effect.gen(function* () {
      const scored = run.input(report, "scored")
      const data = run.input(run.input(run.input(scored, "completions"), "policy"), "demonstrations")
      const weights = data?.stage === "mix-demonstrations" ? (data.config.weights as ReadonlyArray<number>) : []
      if (scored === undefined || data === undefined || weights.length !== 2 || weights[0] !== 1) return []
      const answers = yield* run.fields(scored, ScoredCompletions, answerFields)
      return [{ sets: JSON.stringify(data.inputs), arm: { share: weights[1]!, evaluation: report.content, answers } satisfies ByShare }]
    })
  )
  const groups = [...Map.groupBy(found.flat(), ({ sets }) => sets).values()].map((group) => group.map(({ arm }) => arm))
  return (groups.find((arms) => new Set(arms.map(({ share }) => share)).size > 2) ?? []).toSorted((a, b) => a.share - b.share)
})

export const safetyChapter = Effect.fnUntraced(function* (run: Results, versions: ReadonlyArray<Version>) {
  const arms = yield* armsOf(run)
  const distilled = yield* run.reports(DistillationGainReport)
  const classified = yield* run.reports(ViolationRateReport)
  const attacked = yield* run.reports(RedTeamReport)
  const [before, after] = [baselineOf(versions), lastOf(versions)]
  const { answers, by } = yield* judgedAnswers(run, versions)
  const byTurns = violationsBy(answers, ({ turns }) => (turns > 1 ? "several turns" : "one turn"))
  const byCategory = violationsBy(answers, ({ category, turns }) => (turns > 1 ? null : category))
  const section: Section = {
    title: "Safety",
    figures: existing(
      ...(arms.length > 0 ? [safetyScalingFigure(arms), safetyTailFigure(arms), falseRefusalsFigure(arms)] : []),
      before === undefined || after === undefined || before === after || !hasSafetyScores(after)
        ? undefined
        : beforeAfterFigure(before, after),
      ...distilled.flatMap(({ content }) => [distillationScoresFigure(content), distillationFigure(content)]),
      violationsFigure("violations", "Violations by version", by, byTurns),
      new Set(byCategory.map(({ kind }) => kind)).size > 1
        ? violationsFigure("violations-by-category", "Violations by risk category", by, byCategory)
        : undefined
    ),
    tables:
      classified.length === 0
        ? []
        : [
            violationsTable(
              "Violations found by the safety classifier",
              classified.map(({ content: { all, byCategory: categories }, node }) => ({
                ...{ set: node, rate: all.rate, prompts: all.prompts },
                byCategory: categories.map(({ category, violations }) => `${category} ${violations}`).join(", ") || "none"
              }))
            )
          ]
  }
  const redTeam: Section = {
    title: "Red teaming",
    figures: existing(...attacked.flatMap(({ content }) => [redTeamFigure(content), mitigatedFigure(content)])),
    tables: attacked.map(({ content }) => redTeamTable(content))
  }
  return [section, redTeam]
})
