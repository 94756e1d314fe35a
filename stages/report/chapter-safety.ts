/** Safety (Llama 2 §4.2 to §4.4): the amount of safety data, context distillation, scores before and after RLHF, violations by category and turn. */
import * as Effect from "effect/Effect"
import { Prompts } from "../../schemas/rows.ts"
import { DistillationGainReport } from "../safety/distillation-gain.ts"
import { ViolationRateReport } from "../safety/violation-rate.ts"
import { VersionReport } from "../world/evaluate-version.ts"
import { ScoredCompletions } from "../../schemas/rows.ts"
import { beforeAfterFigure } from "./comparison-figures.ts"
import type { Figure, Section } from "./figure.ts"
import { distillationFigure } from "./figures.ts"
import { gradesOf } from "./grades.ts"
import type { Results } from "./results.ts"
import {
  type ByShare,
  distillationScoresFigure,
  falseRefusalsFigure,
  safetyScalingFigure,
  safetyTailFigure,
  type Violations,
  violationsFigure,
  violationsTable
} from "./safety-figures.ts"
import { answerFields, baselineOf, lastOf, type Version } from "./versions.ts"

const there = (...figures: ReadonlyArray<Figure | undefined>): ReadonlyArray<Figure> => figures.filter((figure) => figure !== undefined)

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

/** Violations of every version, by what `kindOf` says of a prompt. */
const violationsOf = (
  versions: ReadonlyArray<Version>,
  kindOf: (answer: Version["scored"][number]) => string | null | undefined
): ReadonlyArray<Violations> =>
  versions.flatMap(({ name, scored }) => {
    const toRefuse = scored.filter(({ safety }) => safety)
    const grades = gradesOf(toRefuse)
    if (grades === undefined) return []
    const graded = toRefuse.flatMap((one, i) => {
      const kind = kindOf(one)
      return kind === null || kind === undefined ? [] : [{ kind, promptId: one.promptId, violation: grades[i]!.violation ? 1 : 0 }]
    })
    return [...Map.groupBy(graded, ({ kind }) => kind)].map(([kind, some]) => {
      const byPrompt = [...Map.groupBy(some, ({ promptId }) => promptId).values()].map(
        (all) => all.reduce((sum, one) => sum + one.violation, 0) / all.length
      )
      return { version: name, kind, prompts: byPrompt.length, violations: byPrompt.reduce((sum, one) => sum + one, 0) }
    })
  })

export const safetyChapter = Effect.fnUntraced(function* (run: Results, versions: ReadonlyArray<Version>) {
  const arms = yield* armsOf(run)
  const distilled = yield* run.reports(DistillationGainReport)
  const classified = yield* run.reports(ViolationRateReport)
  const [before, after] = [baselineOf(versions), lastOf(versions)]
  const prompts = versions[0]?.prompts
  const categories = new Map(
    prompts === undefined || !run.isWorld
      ? []
      : (yield* run.fields(prompts, Prompts, ["id", "category"])).map(({ category, id }) => [id, category])
  )
  const judged = run.isWorld ? versions : []
  const byCategory = violationsOf(judged, ({ promptId }) => categories.get(promptId))
  const byTurns = violationsOf(judged, ({ prompt }) =>
    prompt.filter(({ role }) => role === "user").length > 1 ? "several turns" : "one turn"
  )
  const section: Section = {
    title: "Safety",
    figures: there(
      ...(arms.length > 0 ? [safetyScalingFigure(arms), safetyTailFigure(arms), falseRefusalsFigure(arms)] : []),
      before === undefined || after === undefined || before === after ? undefined : beforeAfterFigure(before, after),
      ...distilled.flatMap(({ content }) => [distillationScoresFigure(content), distillationFigure(content)]),
      violationsFigure("violations", "Violations, version by version", byTurns),
      new Set(byCategory.map(({ kind }) => kind)).size > 1
        ? violationsFigure("violations-by-category", "Violations by risk category", byCategory)
        : undefined
    ),
    tables:
      classified.length === 0
        ? []
        : [
            violationsTable(
              "Violations that the safety classifier finds",
              classified.map(({ content: { all, byCategory: categories }, node }) => ({
                ...{ set: node, rate: all.rate, prompts: all.prompts },
                byCategory: categories.map(({ category, violations }) => `${category} ${violations}`).join(", ") || "none"
              }))
            )
          ]
  }
  return [section]
})
