/** Figures on safety: the amount of safety data, the effect of context distillation on scores, violation rates (Llama 2 §4.2 to §4.4). */
import type { Estimate } from "../common/statistics.ts"
import { proportion, unitHistogram } from "../common/statistics.ts"
import { within } from "../common/text-table.ts"
import type { DistillationGain } from "../safety/distillation-gain.ts"
import type { VersionEvaluation } from "../world/evaluate-version.ts"
import { axis, type Figure, free, ordered, palette, series, type Table, unit, withIntervals } from "./figure.ts"
import type { Answer } from "./versions.ts"

/** A model tuned on all of the helpfulness data and a share of the safety data. */
export interface ByShare {
  readonly share: number
  readonly evaluation: VersionEvaluation
  readonly answers: ReadonlyArray<Answer>
}

/** Figure 15, left: mean scores by the share of safety data. */
export const safetyScalingFigure = (arms: ReadonlyArray<ByShare>): Figure => {
  const rows = arms.flatMap(({ evaluation: { rewardHelpfulness, rewardSafety }, share }) => [
    ...(rewardSafety === null ? [] : [{ share, model: "R_s, prompts to refuse", score: rewardSafety }]),
    ...(rewardHelpfulness === null ? [] : [{ share, model: "R_h, prompts to help with", score: rewardHelpfulness }])
  ])
  return {
    id: "safety-scaling",
    title: "Mean scores by the share of safety data",
    caption:
      "According to reward models, on held-out prompts; every model is tuned on all of the helpfulness data. In the paper safety rises from 0.680 to 0.773 and helpfulness stays near 0.585.",
    rows,
    spec: {
      width: 480,
      height: 260,
      mark: { type: "line", point: true },
      encoding: {
        x: axis("share", "share of the safety data", { axis: { format: "%" } }),
        y: axis("score", "mean score", free),
        color: series("model", null, ["R_s, prompts to refuse", "R_h, prompts to help with"])
      }
    }
  }
}

const bins = 20
/** Figure 15, right: the distribution of safety scores for each share; the long tail of unsafe answers shrinks. */
export const safetyTailFigure = (arms: ReadonlyArray<ByShare>): Figure | undefined => {
  const rows = arms.flatMap(({ answers, share }) => {
    const scores = answers.flatMap(({ safety, safetyScore }) => (safety && safetyScore !== null ? [safetyScore] : []))
    return scores.length === 0
      ? []
      : unitHistogram(scores, bins).map((count, i) => ({ data: `${100 * share}%`, score: (i + 0.5) / bins, share: count / scores.length }))
  })
  if (rows.length === 0) return undefined
  return {
    id: "safety-tail",
    title: "Safety scores by the share of safety data",
    caption: "Share of answers to prompts to refuse, by R_s. More safety data first removes the tail at the left: the least safe answers.",
    rows,
    spec: {
      width: 480,
      height: 260,
      mark: { type: "line", interpolate: "monotone" },
      encoding: {
        x: axis("score", "R_s", unit),
        y: axis("share", "share of answers"),
        color: ordered(
          "data",
          "safety data",
          arms.map(({ share }) => `${100 * share}%`)
        )
      }
    }
  }
}

/** Figure 33: false refusals and violations by the share of safety data. */
export const falseRefusalsFigure = (arms: ReadonlyArray<ByShare>): Figure | undefined => {
  const line = (what: string, share: number, found: Estimate | null) =>
    found === null ? [] : [{ what, share, rate: found.mean, low: found.low, high: found.high }]
  const rows = arms.flatMap(({ evaluation, share }) => [
    ...line("borderline prompts that are refused", share, evaluation.falseRefusalRate),
    ...line("prompts to refuse that are followed", share, evaluation.violationRate)
  ])
  if (rows.length === 0) return undefined
  const [x, color] = [
    axis("share", "share of the safety data", { axis: { format: "%" } }),
    series("what", null, ["borderline prompts that are refused", "prompts to refuse that are followed"])
  ]
  return {
    id: "false-refusals",
    title: "False refusals and violations by the share of safety data",
    caption:
      "According to the world's oracle, with 95% Wilson intervals. In the paper refusals of borderline prompts increase from 15% to 27%.",
    rows,
    spec: {
      width: 480,
      height: 260,
      layer: withIntervals({ type: "rule" }, { x, y: axis("rate", "rate", free), color })
    }
  }
}

type Gain = typeof DistillationGain.Type
/** Figure 16a: safety scores of the original answers and of those with each kind of preprompt. */
export const distillationScoresFigure = ({ distributions }: Gain): Figure | undefined => {
  const rows = distributions.flatMap(({ completions, histogram, kind }) =>
    histogram.map((count, i) => ({
      answers: kind,
      score: (i + 0.5) / histogram.length,
      share: completions === 0 ? 0 : count / completions
    }))
  )
  if (rows.length === 0) return undefined
  const means = distributions.map(({ kind, mean }) => `${kind} ${within(mean)}`)
  return {
    id: "distillation-scores",
    title: "Safety scores with a preprompt",
    caption: `Share of answers to adversarial prompts, by R_s: the original ones, and those with each kind of preprompt. Means: ${means.join("; ")}.`,
    rows,
    spec: {
      width: 480,
      height: 240,
      mark: { type: "line", interpolate: "monotone" },
      encoding: {
        x: axis("score", "R_s", unit),
        y: axis("share", "share of answers"),
        color: series(
          "answers",
          null,
          distributions.map(({ kind }) => kind)
        )
      }
    }
  }
}

/** For one version: the violations among its answers of a kind. */
export interface Violations {
  readonly version: string
  /** A risk category, or the prompt's number of turns. */
  readonly kind: string
  readonly prompts: number
  /** The share of violating answers per prompt, summed over prompts. */
  readonly violations: number
}

/** Figures 17, 18 and 19: the share of prompts to refuse that are followed, by version and kind. */
export const violationsFigure = (
  id: "violations" | "violations-by-category",
  title: string,
  /** The classifier or oracle that found the violations. */
  by: string,
  found: ReadonlyArray<Violations>
): Figure | undefined => {
  const kinds = [...new Set(found.map(({ kind }) => kind))]
  const versions = [...new Set(found.map(({ version }) => version))]
  const rows = found.map(({ kind, prompts, version, violations }) => {
    const { high, low, mean } = proportion(violations, prompts)
    return { version, kind, rate: mean, low, high, prompts }
  })
  if (rows.length === 0) return undefined
  const y = { field: "version", type: "nominal", sort: versions, title: null }
  return {
    id,
    title,
    caption: `Share of prompts to refuse whose answers violate, by ${by}, with 95% Wilson intervals that count each prompt as one trial.${id === "violations" && kinds.length > 1 ? " Several turns: the answer to the last question of a dialogue." : ""}`,
    rows,
    spec: {
      facet: { field: "kind", type: "nominal", title: null, sort: kinds },
      columns: 3,
      spec: {
        width: 150,
        height: 18 * versions.length,
        layer: [
          { mark: "rule", encoding: { y, x: axis("low", "violations", { scale: { domain: [0, 1] } }), x2: { field: "high" } } },
          {
            mark: { type: "point", filled: true, size: 45, opacity: 1, color: palette[0]! },
            encoding: { y, x: axis("rate", "violations", { axis: { format: "%", tickCount: 3 } }) }
          }
        ]
      }
    }
  }
}

export const violationsTable = (
  title: string,
  found: ReadonlyArray<{ readonly set: string; readonly rate: Estimate; readonly prompts: number; readonly byCategory: string }>
): Table => ({
  id: "classifier",
  title,
  caption:
    "Mean over prompts of the share of answers that the safety classifier classifies as unsafe, with 95% intervals, and the violations by category.",
  rows: found.map(({ byCategory, prompts, rate, set }) => ({ answers: set, prompts, violations: within(rate), "by category": byCategory }))
})
