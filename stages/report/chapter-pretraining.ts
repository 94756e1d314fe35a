/** Mixtures of pretraining sources (Llama 2 §2.1): how many facts models recall by the share of a factual source, over seeds. */
import * as Effect from "effect/Effect"
import { Texts } from "../../schemas/rows.ts"
import { within } from "../common/text-table.ts"
import { type Estimate, mean, studentMean } from "../common/statistics.ts"
import { FactRecallReport } from "../evaluation/fact-recall.ts"
import { axis, type Figure, free, palette, type Section, singleLine, type Table, withIntervals } from "./figure.ts"
import type { Results } from "./results.ts"

/** Mean over models with different seeds with Student's 95% interval; for a single model its own interval. */
export const overSeeds = (found: ReadonlyArray<Estimate>): Estimate =>
  found.length === 1 ? found[0]! : studentMean(found.map((one) => one.mean))

/** A model trained on a mixture. */
export interface Mixed {
  readonly share: number
  /** How often each text of the source occurred in the mixture. */
  readonly epochs: number
  readonly recalled: Estimate
  readonly chance: number
  readonly facts: number
  readonly loss: Estimate | null
}

const measures = ["facts recalled", "loss on other text, nats per token"] as const
export const factRecallFigure = (source: string, models: ReadonlyArray<Mixed>): Figure | undefined => {
  const groups = [...Map.groupBy(models, ({ share }) => share)].toSorted(([a], [b]) => a - b)
  if (groups.length < 2) return undefined
  const rows = groups.flatMap(([share, some]) => {
    const losses = some.flatMap(({ loss }) => (loss === null ? [] : [loss]))
    return [
      { measure: measures[0], ...overSeeds(some.map(({ recalled }) => recalled)) },
      ...(losses.length === 0 ? [] : [{ measure: measures[1], ...overSeeds(losses) }])
    ].map(({ high, low, mean: value, measure }) => {
      const bounded = measure === measures[0]
      return { measure, share, value, low: bounded ? Math.max(0, low) : low, high: bounded ? Math.min(1, high) : high, models: some.length }
    })
  })
  const several = Math.max(...groups.map(([, some]) => some.length)) > 1
  const x = {
    ...axis("share", `share of ${source}`, { scale: { type: "log" } }),
    axis: { values: groups.map(([share]) => share), format: ".0%", labelOverlap: true }
  }
  return {
    id: "fact-recall",
    title: `Recalled facts by the share of ${source}`,
    caption: `Every model was trained on the same number of texts. Facts recalled: the correct continuation is the most probable; guessing gives ${(100 * mean(models.map(({ chance }) => chance))).toFixed(0)}%. ${several ? "Means over models with different seeds; bars are Student's 95% intervals." : "One model per share; bars are 95% intervals over facts and texts."} The paper up-samples the most factual sources and gives no figures.`,
    rows,
    spec: {
      facet: { column: { field: "measure", type: "nominal", title: null, sort: measures } },
      spec: {
        width: 280,
        height: 220,
        layer: withIntervals({ type: "rule", color: palette[0]! }, { x, y: axis("value", null, free) }, singleLine)
      },
      resolve: { scale: { y: "independent" } }
    }
  }
}

export const factRecallTable = (source: string, models: ReadonlyArray<Mixed>): Table => ({
  id: "fact-recall",
  title: `Recall by the share of ${source}`,
  caption: "Read: how often each text of the source occurred in the mixture.",
  rows: [...Map.groupBy(models, ({ share }) => share)]
    .toSorted(([a], [b]) => a - b)
    .map(([share, some]) => {
      const losses = some.flatMap(({ loss }) => (loss === null ? [] : [loss]))
      return {
        share: `${Number((100 * share).toPrecision(3))}%`,
        read: `${mean(some.map(({ epochs }) => epochs)).toFixed(1)} times`,
        models: some.length,
        facts: some.reduce((sum, { facts }) => sum + facts, 0),
        recalled: within(overSeeds(some.map(({ recalled }) => recalled))),
        "each model": some.map(({ recalled }) => recalled.mean.toFixed(2)).join(", "),
        loss: losses.length === 0 ? null : within(overSeeds(losses))
      }
    })
})

const numbers = (value: unknown): ReadonlyArray<number> => (Array.isArray(value) ? (value as ReadonlyArray<number>) : [])

export const pretrainingChapter = Effect.fnUntraced(function* (run: Results) {
  const found = yield* Effect.forEach(yield* run.reports(FactRecallReport), (report) =>
    Effect.gen(function* () {
      const texts = run.input(run.input(report, "policy"), "texts")
      if (texts?.stage !== "mix-sources") return []
      const [names, shares] = [texts.config.names as ReadonlyArray<string>, numbers(texts.config.shares)]
      const total = shares.reduce((sum, share) => sum + share, 0)
      const sizes = yield* Effect.forEach(run.inputs(texts, "sources"), (one) => Effect.map(run.rows(one, Texts), ({ length }) => length))
      const rows = Number(texts.config.rows) || sizes.reduce((sum, size) => sum + size, 0)
      return names.map((name, i) => {
        const share = shares[i]! / total
        return { name, model: { ...report.content, share, epochs: (share * rows) / (sizes[i] ?? Number.NaN) } satisfies Mixed }
      })
    })
  )
  const all = found.flat()
  if (all.length === 0) return []
  // The up-sampled source: the one with the smallest share in any mixture.
  const source = all.reduce((least, one) => (one.model.share < least.model.share ? one : least)).name
  const models = all.flatMap(({ model, name }) => (name === source ? [model] : []))
  const section: Section = {
    title: "Pretraining data",
    figures: [factRecallFigure(source, models)].filter((figure) => figure !== undefined),
    tables: [factRecallTable(source, models)]
  }
  return [section]
})
