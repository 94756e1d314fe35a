/**
 * Finds the best sampling temperature (Llama 2 §3.2.3, figures 7 and 8): the best of N samples benefits from diversity, and the optimal temperature
 * shifts during RLHF, so it is measured again each round.
 *
 *     E[max of N], the y axis of figure 8: for each prompt the expected maximum reward of N of its K samples (common/statistics.ts expectedMax), using all of
 *     them at every N rather than only the first N; then the mean over prompts
 *
 * One checkpoint, the same prompts and the same K at each temperature, one reward model. Only prompts with a candidate at every temperature count; a prompt
 * with fewer than N candidates (the others were truncated, empty or too long) contributes the best of those, as rejection sampling would choose.
 *
 * A stage cannot set another stage's config, so the result is passed on as data: `sampleAtTemperature` samples at the temperature in a sweep's report.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { Completions, Prompts, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { SampleConfig, samplesEstimate, writeSamples } from "./sample.ts"
import { SelectBestConfig } from "./select-best.ts"
import { costOf } from "../common/cost/estimator.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { bySample } from "../common/pairing.ts"
import { anyShare } from "../common/unfit.ts"
import { bootstrapMean, expectedMax, mean, median } from "../common/statistics.ts"

const AtTemperature = Schema.Struct({
  temperature: Schema.Number,
  completions: Schema.Number,
  /** Samples that may be chosen. */
  candidates: Schema.Number,
  /** Means over prompts of the candidates' mean and median reward (figure 7), and of the expected maximum of n (figure 8). */
  mean: EstimateSchema,
  median: EstimateSchema,
  byN: Schema.Array(Schema.Struct({ n: Schema.Number, max: EstimateSchema }))
})
export const TemperatureSweep = Schema.Struct({
  /** Samples per prompt. */
  k: Schema.Number,
  /** Prompts with a candidate at every temperature, and the other prompts. */
  prompts: Schema.Number,
  leftOut: Schema.Number,
  /** In ascending order of temperature. */
  byTemperature: Schema.Array(AtTemperature),
  best: Schema.Struct({ temperature: Schema.Number, n: Schema.Number, max: EstimateSchema })
})
export type TemperatureSweep = typeof TemperatureSweep.Type
export const TemperatureSweepReport = report(TemperatureSweep, "temperature-sweep/1")

/** Samples that cannot be compared by temperature. */
class SweepError extends ExplainedError<SweepError>()("SweepError") {}
const doing = "Comparing temperatures"

type Scored = Pick<ScoredCompletion, "promptId" | "sample" | "reward" | "finished" | "temperature">

/** The numbers of samples N in the report, ascending: 1, 2, 4, .. below k; k; and n. */
export const sweepSizes = (k: number, n: number): ReadonlyArray<number> =>
  [...new Set([...Array.from({ length: Math.ceil(Math.log2(k)) }, (_, i) => 2 ** i), n, k])].sort((a, b) => a - b)

const isCandidate = ({ finished }: Scored, unfinished: "drop" | "keep"): boolean => finished || unfinished === "keep"

/** The prompts with a candidate at every temperature, and the other prompts. */
const comparedPrompts = (
  scored: ReadonlyArray<Scored>,
  unfinished: "drop" | "keep"
): { readonly common: ReadonlyArray<string>; readonly others: ReadonlyArray<string> } => {
  const byTemperature = [...Map.groupBy(scored, ({ temperature }) => temperature).values()].map(
    (rows) => new Set(rows.filter((row) => isCandidate(row, unfinished)).map(({ promptId }) => promptId))
  )
  const ids = [...new Set(scored.map(({ promptId }) => promptId))]
  const isCommon = (id: string) => byTemperature.every((prompts) => prompts.has(id))
  return { common: ids.filter(isCommon), others: ids.filter((id) => !isCommon(id)) }
}

/** Compares samples at several temperatures, K per prompt at each. The best has the largest E[max of n]; on ties the lower temperature. */
export const sweepOf = (
  scored: ReadonlyArray<Scored>,
  options: { readonly k: number; readonly n: number; readonly unfinished: "drop" | "keep"; readonly seed: number }
): TemperatureSweep => {
  const { k, n, seed } = options
  const all = [...Map.groupBy(scored, ({ temperature }) => temperature)]
    .sort(([a], [b]) => a - b)
    .map(([temperature, rows]) => {
      const candidates = rows.filter((row) => isCandidate(row, options.unfinished))
      return { temperature, completions: rows.length, prompts: Map.groupBy(candidates, ({ promptId }) => promptId) }
    })
  const { common, others } = comparedPrompts(scored, options.unfinished)
  const byTemperature = all.map(({ temperature, completions, prompts }) => {
    const rewards = common.map((id) => prompts.get(id)!.map(({ reward }) => reward))
    const over = (value: (samples: ReadonlyArray<number>) => number) => bootstrapMean(rewards.map(value), seed)
    return {
      temperature,
      completions,
      candidates: rewards.flat().length,
      mean: over(mean),
      median: over(median),
      byN: sweepSizes(k, n).map((size) => ({ n: size, max: over((samples) => expectedMax(samples, Math.min(size, samples.length))) }))
    }
  })
  const maxAt = ({ byN }: (typeof byTemperature)[number]) => byN.find((one) => one.n === n)!.max
  const best = byTemperature.reduce((a, b) => (maxAt(b).mean > maxAt(a).mean ? b : a))
  return {
    k,
    prompts: common.length,
    leftOut: others.length,
    byTemperature,
    best: { temperature: best.temperature, n, max: maxAt(best) }
  }
}

/** Checks that the samples can be compared across temperatures; returns K. */
const checkSweep = Effect.fnUntraced(function* (scored: ReadonlyArray<ScoredCompletion>) {
  const temperatures = [...Map.groupBy(scored, ({ temperature }) => temperature)]
  const policies = new Set(scored.map(({ policy }) => policy)).size
  if (policies > 1)
    return yield* SweepError.of({
      doing,
      expected: "samples of one checkpoint",
      found: `samples of ${policies}`,
      hint: "Run a separate sweep for each version."
    })
  for (const [temperature, rows] of temperatures) yield* bySample(rows, `Comparing temperatures: samples at ${temperature}`)
  for (const [id, rows] of Map.groupBy(scored, ({ promptId }) => promptId))
    if (new Set(rows.map(({ prompt }) => JSON.stringify(prompt))).size > 1)
      return yield* SweepError.of({
        doing,
        expected: "each id to identify one prompt",
        found: `two different prompts with the id "${id}"`,
        hint: "Sample every temperature from the same prompts."
      })
  const counts = temperatures.map(([temperature, rows]) => ({
    temperature,
    k: rows.reduce((most, { sample }) => Math.max(most, sample + 1), 0)
  }))
  if (new Set(counts.map(({ k }) => k)).size > 1)
    return yield* SweepError.of({
      doing,
      expected: "the same number of samples per prompt at each temperature",
      found: counts.map(({ temperature, k }) => `${k} at ${temperature}`).join(", "),
      hint: "Sample with the same k at each temperature: the best of more samples is larger."
    })
  return counts[0]!.k
})

export const temperatureSweep = Stage.make("temperature-sweep", {
  description: "§3.2.3, figure 8: the expected best of N samples by temperature, and the temperature with the highest",
  config: Schema.Struct({
    n: hyperInt(0, "number of samples from which the next round chooses the best, at most k; 0: the sweep's k", { min: 0 }),
    unfinished: SelectBestConfig.fields.unfinished
  }),
  inputs: { scored: Stage.many(ScoredCompletions) },
  output: TemperatureSweepReport,
  run: Effect.fn("temperature-sweep")(function* ({ config, inputs, output, seed, skipped }) {
    const scored = (yield* Effect.forEach(inputs.scored, (set) => readRows(set, ScoredCompletions))).flat()
    if (scored.length === 0)
      return yield* EmptyDatasetError.of("compare temperatures by", `${inputs.scored.length} sets of scored samples, all empty`)
    const k = yield* checkSweep(scored)
    if (config.n > k)
      return yield* SweepError.of({
        doing,
        expected: `n to be at most ${k}`,
        found: `${config.n}`,
        hint: "Draw more samples for the sweep, or lower n."
      })
    const { n, unfinished } = config
    const { common, others } = comparedPrompts(scored, unfinished)
    const prompts = new Map(scored.map(({ promptId, prompt }) => [promptId, prompt]))
    const reason = "without a sample to choose at every temperature"
    for (const id of others) skipped.add({ what: "prompts", reason, id, row: prompts.get(id) })
    yield* skipped.check("prompts", common.length + others.length, anyShare)
    const sweep = sweepOf(scored, { k, n: n === 0 ? k : n, unfinished, seed })
    if (sweep.prompts === 0)
      return yield* EmptyDatasetError.of(
        "compare temperatures by",
        `no prompt that has a sample to choose at each of the ${sweep.byTemperature.length} temperatures (truncated samples: ${unfinished})`
      )
    return yield* writeReport(output, sweep)
  })
})

const { temperature: _, ...fieldsWithoutTemperature } = SampleConfig.fields
const SampleAtTemperatureConfig = Schema.Struct(fieldsWithoutTemperature)

export const sampleAtTemperature = Stage.make("sample-at-temperature", {
  description: "§3.2.3 samples K completions of each prompt at the best temperature of a sweep",
  config: SampleAtTemperatureConfig,
  inputs: { policy: Policy, prompts: Prompts, sweep: TemperatureSweepReport },
  output: Completions,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("sample-at-temperature")(function* ({ config, ...context }) {
    const { temperature } = (yield* readReport(context.inputs.sweep, TemperatureSweepReport)).best
    return yield* writeSamples(context, { ...config, temperature }, { temperature })
  })
})

export const sampleAtTemperatureCost = costOf(sampleAtTemperature, samplesEstimate)
