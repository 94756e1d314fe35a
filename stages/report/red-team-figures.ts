/** Red teaming (Llama 2 §4.3): how many new prompts break each version, and whether later versions mitigate the prompts that broke earlier ones. */
import { within } from "../common/text-table.ts"
import type { RedTeam } from "../safety/red-team.ts"
import { axis, type Figure, palette, series, type Table, unit } from "./figure.ts"

const percent = { ...unit, axis: { format: "%" } }

/** Robustness of each version: the share of the new prompts that break it. */
export const redTeamFigure = ({ exercises }: RedTeam): Figure => {
  const rows = exercises.map(({ broken, name, prompts, rate }) => ({
    version: name,
    rate: rate.mean,
    low: rate.low,
    high: rate.high,
    broken,
    prompts
  }))
  const y = { field: "version", type: "nominal", sort: rows.map(({ version }) => version), title: null }
  return {
    id: "red-team",
    title: "New prompts that break each version",
    caption:
      "Share of the red team's new prompts, different ones for each version, whose first answer is unsafe; bars are 95% Wilson intervals. The paper counts such prompts per person and hour: 1.8 fell to 0.45 for its 7B model.",
    rows,
    spec: {
      width: 480,
      height: 24 * rows.length,
      layer: [
        { mark: "rule", encoding: { y, x: axis("low", "share of new prompts", percent), x2: { field: "high" } } },
        {
          mark: { type: "point", filled: true, size: 60, opacity: 1, color: palette[0]! },
          encoding: { y, x: axis("rate", "share of new prompts", percent) }
        }
      ]
    }
  }
}

const asked = ["this version", "the broken version, asked again"]
/** Prompts that broke a version, tried on the next one; compared with the broken version itself when asked again. */
export const mitigatedFigure = ({ exercises }: RedTeam): Figure | undefined => {
  const rows = exercises.slice(1).flatMap(({ mitigated, name }, i) => {
    const before = exercises[i]!
    const found = mitigated.find(({ broke }) => broke === before.name)
    if (found === undefined) return []
    return [
      { answered: asked[0]!, share: found.share },
      ...(before.byChance === null ? [] : [{ answered: asked[1]!, share: before.byChance }])
    ].map(({ answered, share }) => ({
      ...{ version: name, answered, share: share.mean, low: share.low, high: share.high, prompts: found.prompts }
    }))
  })
  if (rows.length === 0) return undefined
  const y = { field: "version", type: "nominal", sort: exercises.slice(1).map(({ name }) => name), title: null }
  const yOffset = { field: "answered", type: "nominal", sort: asked }
  const color = series("answered", null, asked)
  return {
    id: "red-team-mitigated",
    title: "Safe answers to prompts that broke the previous version",
    caption:
      "Share of safe answers to the prompts that broke the previous version; bars are 95% Wilson intervals that count each prompt as one trial. A prompt counts as broken after one unsafe answer, so the broken version itself answers some safely when asked again: only the part above that is mitigation. In the paper 90% were mitigated from model to model.",
    rows,
    spec: {
      width: 480,
      height: 34 * new Set(rows.map(({ version }) => version)).size,
      layer: [
        { mark: "rule", encoding: { y, yOffset, x: axis("low", "share of safe answers", percent), x2: { field: "high" }, color } },
        {
          mark: { type: "point", filled: true, size: 60, opacity: 1 },
          encoding: { y, yOffset, x: axis("share", "share of safe answers", percent), color }
        }
      ]
    }
  }
}

/** Every version on the prompts that broke each earlier one. */
export const redTeamTable = ({ exercises }: RedTeam): Table => ({
  id: "red-team",
  title: "Red teaming by version",
  caption:
    "Broken: new prompts whose first answer is unsafe. Asked again: safe among the version's further answers to those. Then the share of safe answers to prompts that broke earlier versions, with the number of prompts in brackets. With 95% intervals.",
  rows: exercises.map(({ broken, byChance, mitigated, mitigatedAll, name, prompts, rate }) => ({
    ...{ version: name, "new prompts": prompts, broken, share: within(rate), "asked again": byChance === null ? null : within(byChance) },
    "kept prompts": mitigatedAll === null ? null : within(mitigatedAll),
    ...Object.fromEntries(
      exercises.slice(0, -1).map(({ name: broke }) => {
        const found = mitigated.find((one) => one.broke === broke)
        return [`broke ${broke}`, found === undefined ? null : `${found.share.mean.toFixed(2)} (${found.prompts})`]
      })
    )
  }))
})
