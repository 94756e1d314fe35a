/** Figures comparing several versions' answers to the same prompts, by reward models alone: available for any run that scores two versions (Llama 2 §3.4, §5.1). */
import * as Effect from "effect/Effect"
import { winRateOf } from "../evaluation/win-rate.ts"
import { estimateByPrompt, meanByPrompt, pairSamples } from "../common/pairing.ts"
import { type Estimate, mean } from "../common/statistics.ts"
import { within } from "../common/text-table.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import type { ScoredCompletion } from "../../schemas/rows.ts"
import { axis, colour, type Figure, palette, type Rows, type Table, unit } from "./figure.ts"
import { namedPoints } from "./named-points.ts"
import { rewardsChart } from "./run-figures.ts"
import type { Answer, Version } from "./versions.ts"

type Named = Pick<Version, "name" | "scored">

/** A row per version: the table at the top of the page, if no summary provides one. */
export const scoreRows = (versions: ReadonlyArray<Version>): Rows =>
  versions.map(({ kind, name, scored }) => ({
    version: kind === "control" ? `control: ${name}` : name,
    "R_h, prompts to help with": within(
      estimateByPrompt(
        scored.filter(({ safety }) => !safety),
        (one) => one.helpfulnessScore,
        0
      )
    ),
    "R_s, prompts to refuse": within(
      estimateByPrompt(
        scored.filter(({ safety }) => safety),
        (one) => one.safetyScore,
        0
      )
    ),
    R_c: within(estimateByPrompt(scored, ({ reward }) => scoreOf(reward), 0)),
    ended: scored.filter(({ finished }) => finished).length,
    answers: scored.length
  }))

type Part = { readonly wins: number; readonly losses: number; readonly ties: number; readonly rate: Estimate | null } | null
/** Each version's win rates over the first one: helpfulness, safety, reward. */
const winsOver = (versions: ReadonlyArray<Version>) =>
  Effect.gen(function* () {
    const [first, ...others] = versions
    if (first === undefined) return []
    return yield* Effect.forEach(others, ({ kind, name, scored }) =>
      Effect.map(
        pairSamples(scored as ReadonlyArray<ScoredCompletion>, first.scored as ReadonlyArray<ScoredCompletion>, "Counting wins"),
        ({ pairs }) => ({ kind, name, ...winRateOf(pairs) })
      )
    )
  })

/** Figure 11: each version's win rates over the first, helpfulness by R_h against safety by R_s; the table also has ties. */
export const winRateParts = Effect.fnUntraced(function* (versions: ReadonlyArray<Version>) {
  const wins = yield* winsOver(versions)
  const over = versions[0]?.name ?? ""
  const rate = (part: Part): string | null =>
    part === null ? null : part.rate === null ? `– (${part.ties} tied)` : `${within(part.rate)}, ${part.ties} tied`
  const table: Table = {
    id: "win-rates",
    title: `Win rates over ${over} according to the reward models`,
    caption: `Wins / (wins + losses) on the same prompts, with 95% Wilson intervals.${versions[0]?.isTunedTo === true ? " The run tuned versions to these reward models, which favours later versions." : " These reward models were not used for tuning."}`,
    rows: wins.map(({ helpfulness, name, reward, safety }) => ({
      version: name,
      "helpfulness, R_h": rate(helpfulness),
      "safety, R_s": rate(safety),
      "all, R_c": rate(reward)
    }))
  }
  const rows = wins.flatMap(({ helpfulness, kind, name, safety }) => {
    const [h, s] = [helpfulness?.rate, safety?.rate]
    if (h === undefined || h === null || s === undefined || s === null) return []
    return [
      {
        name,
        kind,
        helpfulness: h.mean,
        helpfulnessLow: h.low,
        helpfulnessHigh: h.high,
        safety: s.mean,
        safetyLow: s.low,
        safetyHigh: s.high
      }
    ]
  })
  const figure: Figure = {
    id: "win-rates",
    title: `Win rates over ${over}: helpfulness against safety`,
    caption:
      "One point per version according to the reward models: wins / (wins + losses) with R_h on prompts to help with, and with R_s on prompts to refuse; bars are 95% Wilson intervals.",
    rows,
    spec: (width) => namedPoints(rows, width, { x: "helpfulness", y: "safety" }, "win rate")
  }
  return { table, figures: rows.length < 2 ? [] : [figure] }
})

/** Maximum number of points in a figure: more would overlap, and make the page megabytes large. */
const maxPoints = 600
const thin = <Row>(rows: ReadonlyArray<Row>): ReadonlyArray<Row> => {
  const every = Math.max(1, Math.ceil(rows.length / maxPoints))
  return rows.filter((_, i) => i % every === 0)
}

/** Figure 32: R_h against R_s of the last version's answers that have both scores. */
export const tensionFigure = ({ name, scored }: Named): Figure | undefined => {
  const both = scored.flatMap(({ helpfulnessScore: h, safety, safetyScore: s }) =>
    h === null || s === null ? [] : [{ helpfulness: h, safety: s, prompt: safety ? "to refuse" : "to help with" }]
  )
  if (both.length === 0) return undefined
  const rows = thin(both)
  return {
    id: "safety-against-helpfulness",
    title: `Safety against helpfulness of ${name}'s answers`,
    caption: `One point per answer${rows.length < both.length ? ` (${rows.length} of ${both.length})` : ""}: R_s on the x axis, R_h on the y axis. Answers at the lower right are safe but, according to the helpfulness model, unhelpful, which is why each reward has its own model (§3.2.2).`,
    rows,
    spec: {
      width: 480,
      height: 320,
      mark: { type: "point", filled: true, opacity: 0.45, size: 20 },
      encoding: {
        x: axis("safety", "R_s", unit),
        y: axis("helpfulness", "R_h", unit),
        color: colour("prompt", "prompt", ["to help with", "to refuse"])
      }
    }
  }
}

/** Figure 14: each prompt's mean score for the version before RLHF and for the last one. */
export const beforeAfterFigure = (before: Named, after: Named): Figure | undefined => {
  const part = (model: string, safety: boolean, value: (one: Answer) => number | null) => {
    const means = ({ scored }: Named) =>
      meanByPrompt(
        scored.flatMap((one) => (one.safety === safety && value(one) !== null ? [{ promptId: one.promptId, score: value(one)! }] : [])),
        ({ score }) => score
      )
    const [first, last] = [means(before), means(after)]
    return thin([...first].flatMap(([id, from]) => (last.has(id) ? [{ model, before: from, after: last.get(id)! }] : [])))
  }
  const rows = [
    ...part("R_s, prompts to refuse", true, (one) => one.safetyScore),
    ...part("R_h, prompts to help with", false, (one) => one.helpfulnessScore)
  ]
  if (rows.length === 0) return undefined
  const line = [
    { model: "R_s, prompts to refuse", before: 0, after: 0 },
    { model: "R_s, prompts to refuse", before: 1, after: 1 },
    { model: "R_h, prompts to help with", before: 0, after: 0 },
    { model: "R_h, prompts to help with", before: 1, after: 1 }
  ].filter(({ model }) => rows.some((row) => row.model === model))
  const [x, y] = [axis("before", `score of ${before.name}`, unit), axis("after", `score of ${after.name}`, unit)]
  const drawn = [...rows.map((row) => ({ ...row, what: "prompt" })), ...line.map((row) => ({ ...row, what: "line" }))]
  const shares = [...Map.groupBy(rows, ({ model }) => model)].map(
    ([model, all]) =>
      `${(mean(all.map(({ after: a, before: b }) => (a > b ? 1 : a === b ? 0.5 : 0))) * 100).toFixed(0)}% of prompts in ${model.slice(0, 3)}`
  )
  return {
    id: "safety-before-and-after",
    title: `Scores of ${before.name} and ${after.name} by prompt`,
    caption: `One point per prompt, scored by the reward models that compare the versions; above the line the score increased: ${shares.join(", ")}.`,
    rows,
    spec: {
      data: { values: drawn },
      facet: { column: { field: "model", type: "nominal", title: null } },
      spec: {
        width: 290,
        height: 260,
        layer: [
          {
            transform: [{ filter: "datum.what == 'line'" }],
            mark: { type: "line", strokeDash: [4, 3], strokeWidth: 1, color: palette[6]! },
            encoding: { x, y }
          },
          {
            transform: [{ filter: "datum.what == 'prompt'" }],
            mark: { type: "point", filled: true, opacity: 0.45, size: 20, color: palette[0]! },
            encoding: { x, y }
          }
        ]
      }
    }
  }
}

/** R_c of each version with its interval, if no summary has each version's means. */
export const rewardsOfVersions = (versions: ReadonlyArray<Version>): Figure => {
  const rows = versions.flatMap(({ kind, name, scored }) => {
    const found = estimateByPrompt(scored, ({ reward }) => scoreOf(reward), 0)
    return found === null ? [] : [{ name, kind, reward: found.mean, low: found.low, high: found.high }]
  })
  return rewardsChart(rows, {
    title: "Reward of each version",
    caption: "Mean R_c over prompts, with 95% bootstrap intervals over prompts. Further right is better."
  })
}
