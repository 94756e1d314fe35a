/** Grades from the small world's oracle for the answers of a run on it; and their relation to the reward models' scores (Llama 2 A.3.4, figure 29). */
import { gradeOf, type Graded } from "../world/oracle-grades.ts"
import { median } from "../common/statistics.ts"
import { axis, type Figure, palette, panelsBy, singleLine, unit, withIntervals } from "./figure.ts"
import type { Answer, Version } from "./versions.ts"

/** Undefined if the oracle does not know one of the questions, since a run on the world may also answer others. */
export const gradesOf = (
  answers: ReadonlyArray<Pick<Answer, "promptId" | "prompt" | "safety" | "sample" | "text">>
): ReadonlyArray<Graded> | undefined => {
  try {
    return answers.map((one) => gradeOf({ ...one, policy: "" }))
  } catch {
    return undefined
  }
}

const bins = 10
/** The quantile of sorted values at this share. */
const quantile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!

/** Median grade and quartiles of the answers in each tenth of the score range; tenths with fewer than five answers are left out. */
export const gradeByScore = (pairs: ReadonlyArray<{ readonly score: number; readonly grade: number }>) =>
  [...Map.groupBy(pairs, ({ score }) => Math.min(bins - 1, Math.floor(score * bins)))]
    .filter(([, some]) => some.length >= 5)
    .sort(([a], [b]) => a - b)
    .map(([bin, some]) => {
      const grades = some.map(({ grade }) => grade).sort((a, b) => a - b)
      return {
        score: (bin + 0.5) / bins,
        grade: median(grades),
        low: quantile(grades, 0.25),
        high: quantile(grades, 0.75),
        answers: some.length
      }
    })

/** Figure 29: the oracle's grades by the reward models' scores, for helpfulness and safety. */
export const calibrationFigure = (versions: ReadonlyArray<Version>): Figure | undefined => {
  const rows = (
    [
      ["R_h, prompts to help with", false],
      ["R_s, prompts to refuse", true]
    ] as const
  ).flatMap(([model, wanted]) => {
    const pairs = versions.flatMap(({ scored }) => {
      const some = scored.filter(({ safety }) => safety === wanted)
      const grades = gradesOf(some)
      if (grades === undefined) return []
      return some.flatMap(({ helpfulnessScore, safetyScore }, i) => {
        const score = wanted ? safetyScore : helpfulnessScore
        return score === null ? [] : [{ score, grade: wanted ? grades[i]!.safetyGrade : grades[i]!.helpfulness }]
      })
    })
    return gradeByScore(pairs).map((row) => ({ model, ...row }))
  })
  if (rows.length === 0) return undefined
  const x = axis("score", "score", unit)
  return {
    id: "calibration",
    title: "The oracle's grades by the reward models' scores",
    caption: `Median grade of the answers in each tenth of the score range, for all versions together; bars are quartiles, and tenths with fewer than five answers are left out. The oracle also made the training labels, with noise, but not from these answers. In the paper's figure people rated answers from 1 to 7.`,
    rows,
    spec: panelsBy("model", {
      width: 290,
      height: 220,
      layer: withIntervals({ type: "rule", color: palette[0]!, opacity: 0.6 }, { x, y: axis("grade", "grade", unit) }, singleLine)
    })
  }
}
