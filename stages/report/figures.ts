/** The report's figures for the small world and those that most runs have, as Vega-Lite specifications: each with a title, data and an encoding. */
import { unitHistogram } from "../common/statistics.ts"
import type { DistillationGain as DistillationGainSchema } from "../safety/distillation-gain.ts"
import type { PpoDiagnostics } from "../ppo/diagnostics.ts"
import type { TemperatureSweep } from "../rejection-sampling/temperature-sweep.ts"
import type { WorldSummary } from "../world/summary-report.ts"
import type { ScoredCompletion } from "../../schemas/rows.ts"
import { axis, colour, type Figure, free, palette, panelsBy, unit, withIntervals } from "./figure.ts"
import { namedPoints } from "./named-points.ts"

/** Like figure 11: each version's helpfulness and safety, with standard errors. */
export const versionsFigure = ({ versions, controls }: WorldSummary): Figure => {
  const rows = [...versions.map((one) => ({ ...one, kind: "version" })), ...controls.map((one) => ({ ...one, kind: "control" }))].flatMap(
    ({ name, kind, helpfulness: h, safety: s }) => {
      // A version without prompts of a kind has no position in the figure.
      if (h === null || s === null) return []
      return [
        {
          ...{ name, kind, helpfulness: h.mean, safety: s.mean },
          ...{ helpfulnessLow: h.mean - h.standardError, helpfulnessHigh: h.mean + h.standardError },
          ...{ safetyLow: s.mean - s.standardError, safetyHigh: s.mean + s.standardError }
        }
      ]
    }
  )
  return {
    id: "versions",
    title: "Each version by helpfulness and safety",
    caption:
      "The oracle's means over held-out prompts; bars are one standard error. Up and to the right is better; the line connects the versions in order.",
    rows,
    spec: (width) => namedPoints(rows, width, { x: "helpfulness", y: "safety" }, "according to the oracle")
  }
}

const bins = 20
/** Figure 20: the shares of scores in equal bins of (0, 1), by version. */
export const distributionsFigure = (
  sets: ReadonlyArray<{
    readonly name: string
    readonly scored: ReadonlyArray<Pick<ScoredCompletion, "safety" | "helpfulnessScore" | "safetyScore">>
  }>
): Figure => {
  const names = sets.map(({ name }) => name)
  const longest = Math.max(0, ...names.map((name) => name.length))
  const rows = sets.flatMap(({ name, scored }) =>
    (["helpfulness", "safety"] as const).flatMap((kind) => {
      const scores = scored
        .filter(({ safety }) => safety === (kind === "safety"))
        .flatMap((one) => (kind === "safety" ? one.safetyScore : one.helpfulnessScore) ?? [])
      return scores.length === 0
        ? []
        : unitHistogram(scores, bins).map((count, i) => ({
            version: name,
            model: kind,
            score: (i + 0.5) / bins,
            share: count / scores.length
          }))
    })
  )
  const shown = [
    ...(rows.some(({ model }) => model === "helpfulness") ? ["R_h over prompts to help with"] : []),
    ...(rows.some(({ model }) => model === "safety") ? ["R_s over prompts to refuse"] : [])
  ]
  return {
    id: "reward-distributions",
    title: "Rewards by version",
    caption: `Share of held-out answers by score, further right is better: ${shown.join(", ")}, from the reward models that compare the versions.`,
    rows,
    spec: {
      facet: {
        row: {
          field: "version",
          type: "nominal",
          sort: names,
          title: null,
          // Without text measurement all letters are assumed to have the same width: names are padded to one length with zero-width characters, so that they align.
          header: { labelAngle: 0, labelAlign: "left", labelExpr: `pad(datum.label, ${longest}, '\u200b')` }
        },
        column: { field: "model", type: "nominal", title: null }
      },
      spec: {
        width: 300,
        height: 44,
        mark: { type: "area", interpolate: "step", line: true, opacity: 0.6 },
        encoding: {
          x: axis("score", "score", { scale: { domain: [0, 1] } }),
          y: axis("share", null, { axis: { ticks: false, labels: false, grid: false } }),
          color: { ...colour("model", null), legend: null }
        }
      },
      resolve: { scale: { y: "independent" } },
      spacing: { row: 4, column: 24 }
    }
  }
}

const ratings = ["significantly better", "better", "slightly better", "negligibly better or unsure", "unrated"]
/** Like table 8: accuracy by how much better the chosen response is. */
export const accuracyFigure = ({ rewardModels }: Pick<WorldSummary, "rewardModels">): Figure => {
  const models = (["helpfulness", "safety"] as const).flatMap((name) =>
    rewardModels[name] === null ? [] : [{ name, ...rewardModels[name] }]
  )
  const rows = models.flatMap(({ name, byRating, bagOfWords, lengthOnly }) =>
    byRating.map(({ rating, pairs, accuracy }) => ({
      ...{ model: name, rating, pairs, accuracy: accuracy.mean, low: accuracy.low, high: accuracy.high },
      ...{ bagOfWords: bagOfWords.mean, lengthOnly: lengthOnly.mean }
    }))
  )
  return {
    id: "accuracy",
    title: "Accuracy of the reward models by rating",
    caption: "Accuracy on held-out pairs by rating, with 95% intervals. Dashed: a bag of words; dotted: length alone, both over all pairs.",
    rows,
    spec: panelsBy("model", {
      width: 260,
      height: 220,
      layer: [
        {
          mark: { type: "bar", opacity: 0.8 },
          encoding: {
            // One word per line, since the names of the ratings are wider than their bars.
            x: {
              field: "rating",
              type: "ordinal",
              sort: ratings,
              title: null,
              axis: { labelAngle: 0, labelExpr: "split(datum.label, ' ')" }
            },
            y: axis("accuracy", "accuracy", { scale: { domain: [0, 1] } }),
            color: { ...colour("model", null), legend: null }
          }
        },
        {
          mark: "rule",
          encoding: { x: { field: "rating", type: "ordinal", sort: ratings }, y: axis("low", "accuracy"), y2: { field: "high" } }
        },
        { mark: { type: "rule", strokeDash: [6, 4] }, encoding: { y: { aggregate: "mean", field: "bagOfWords", type: "quantitative" } } },
        { mark: { type: "rule", strokeDash: [2, 3] }, encoding: { y: { aggregate: "mean", field: "lengthOnly", type: "quantitative" } } }
      ]
    })
  }
}

/** Figure 8: the expected best of N, with a line per temperature. */
export const bestOfNFigure = ({ byTemperature, best }: TemperatureSweep): Figure => {
  const rows = byTemperature.flatMap(({ temperature, byN }) =>
    byN.map(({ n, max }) => ({ temperature: `${temperature}`, n, max: max.mean, low: max.low, high: max.high }))
  )
  const x = {
    field: "n",
    type: "quantitative",
    title: "samples per prompt, N",
    scale: { type: "log", base: 2 },
    axis: { values: [...new Set(rows.map((row) => row.n))], format: "d" }
  }
  const color = { ...colour("temperature", "temperature"), legend: { symbolOpacity: 1, labelLimit: 300 } }
  return {
    id: "best-of-n",
    title: `The best of N samples: for ${best.n} samples, temperature ${best.temperature} is best`,
    caption: "Expected maximum reward, logit(R_c), of N of the samples, mean over prompts; bands are 95% bootstrap intervals.",
    rows,
    spec: {
      width: 480,
      height: 280,
      layer: withIntervals({ type: "area", opacity: 0.15 }, { x, y: axis("max", "expected maximum reward", free), color })
    }
  }
}

/** PPO's curves. */
export const ppoFigure = ({ iterations, kept }: PpoDiagnostics): Figure => {
  const shown = [
    ["reward", "reward, logit(R_c)"],
    ["kl", "KL to the reference, nats per response"],
    ["entropy", "entropy, nats per token"],
    ["clipFraction", "share of clipped ratios"],
    ["explainedVariance", "value: explained variance"],
    ["responseLength", "tokens per response"]
  ] as const
  const rows = iterations.flatMap((one) => shown.map(([field, what]) => ({ iteration: one.iteration, what, value: one[field] })))
  return {
    id: "ppo",
    title: "PPO by iteration",
    caption: `Means over each batch. The policy after iteration ${kept} was kept.`,
    rows,
    spec: {
      facet: { field: "what", type: "nominal", title: null, sort: shown.map(([, what]) => what) },
      columns: 3,
      spec: {
        width: 220,
        height: 120,
        mark: { type: "line", point: { size: 14, color: palette[0] }, color: palette[0] },
        encoding: {
          x: axis("iteration", "iteration", { axis: { format: "d", tickMinStep: 1 } }),
          // The same space for the axis labels of each panel, so that the panels align.
          y: axis("value", null, { ...free, axis: { minExtent: 40, maxExtent: 40 } })
        }
      },
      resolve: { scale: { y: "independent" } }
    }
  }
}

/** Like table 30: the share of answers that keep an instruction by turn, with a line per model. */
export const keptChart = (
  rows: ReadonlyArray<{
    readonly model: string
    readonly turn: number
    readonly kept: number
    readonly low: number
    readonly high: number
  }>,
  color: object,
  caption: string
): Figure => {
  const x = { field: "turn", type: "ordinal", title: "turn", axis: { labelAngle: 0 } }
  return {
    ...{ id: "ghost-attention", title: "How long an instruction is kept", caption, rows },
    spec: {
      width: 420,
      height: 240,
      layer: withIntervals({ type: "rule" }, { x, y: axis("kept", "share that keeps it", unit), color })
    }
  }
}

/** With Ghost Attention, and before it. */
export const ghostFigure = ({ ghostAttention }: WorldSummary): Figure | undefined => {
  if (ghostAttention === null) return undefined
  const rows = (["withTurns", "withoutTurns"] as const).flatMap((which) =>
    (ghostAttention[which] ?? []).map(({ turn, dialogues, kept }) => ({
      model: which === "withTurns" ? "with Ghost Attention" : ghostAttention.withTurns === null ? "without it" : "before it",
      ...{ turn, dialogues, kept: kept.mean, low: kept.low, high: kept.high }
    }))
  )
  return keptChart(
    rows,
    colour("model", null),
    "Share of answers that keep the first turn's instruction, on held-out dialogues; bars are 95% Wilson intervals."
  )
}

/** Figure 16b: the gain from distillation, by the original answer's score. */
export const distillationFigure = ({ byPrompt, kept, prompts }: typeof DistillationGainSchema.Type): Figure => ({
  id: "distillation-gain",
  title: "Gain from context distillation",
  caption: `Gain of the answer with a preprompt, by the safety score of the original answer; ${kept} of ${prompts} prompts are kept, those with a gain.`,
  rows: byPrompt.map(({ original, distilled, kept: was }) => ({ original, gain: distilled - original, kept: was ? "kept" : "rejected" })),
  spec: {
    width: 420,
    height: 280,
    mark: { type: "point", filled: true, opacity: 0.5, size: 25 },
    encoding: {
      x: axis("original", "R_s of the original answer", { scale: { domain: [0, 1] } }),
      y: axis("gain", "gain in R_s"),
      color: colour("kept", null, ["kept", "rejected"])
    }
  }
})
