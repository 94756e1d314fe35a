/** Mixes several datasets into one by weight; a weight above 1 up-samples a dataset (Llama 2 §2.1: the most factual sources). */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReordered } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperNumbers } from "../../schemas/hyper.ts"
import { Demonstrations, Preferences, type Prompt, Prompts, Texts } from "../../schemas/rows.ts"
import { checkPromptIds, type PairingError } from "../common/pairing.ts"
import type { ArtifactError, ArtifactRef, Dataset, DatasetType } from "../../schemas/artifact.ts"
import { costOf } from "../common/cost/estimator.ts"
import { mixed, sized } from "../common/cost/size.ts"
import { indicesOf } from "../common/indices.ts"

export const MixConfig = Schema.Struct({
  weights: Schema.Array(Schema.Number.check(Schema.isGreaterThanOrEqualTo(0))).annotate({
    description:
      "one weight per dataset, in the order of the inputs: with by epochs, how often its rows are drawn (0.5 is a random half, 2 is every row twice); with by shares, its share of the result (§2.1, §3.2.2)"
  }),
  by: hyper(
    "epochs",
    "meaning of the weights: epochs, how often a dataset's rows are drawn; or shares of the result, which is then as large as possible without repeating a row",
    ["epochs", "shares"]
  ),
  caps: hyperNumbers(
    "maximum number of distinct rows used from each dataset, selected at random; one per dataset, in the order of the inputs; 0 or an empty list: no limit",
    { min: 0 }
  )
})

/** The number of weights or caps does not match the datasets, or all weights are 0. */
class MixError extends Schema.TaggedError<MixError>()("MixError", { message: Schema.String }) {
  readonly isRetryable = false
}

/** A random selection of at most this many rows of each set, in their original order; all rows if there is no cap or it is 0. */
export const cappedRows = <Row>(
  sets: ReadonlyArray<ReadonlyArray<Row>>,
  caps: ReadonlyArray<number>,
  seed: number
): Array<ReadonlyArray<Row>> =>
  sets.map((rows, index) => {
    const cap = caps[index] ?? 0
    if (cap === 0 || cap >= rows.length) return rows
    const chosen = new Random(seed, "mix", "cap", index).permutation(rows.length).slice(0, cap).sort()
    return Array.from(chosen, (i) => rows[i]!)
  })

/** Converts shares of the result to weights: the largest ones without repeating a row, which are 1 for the set that is used up first. */
export const weightsOfShares = (sizes: ReadonlyArray<number>, shares: ReadonlyArray<number>): ReadonlyArray<number> => {
  const total = Math.min(...sizes.map((size, i) => (shares[i]! > 0 ? size / shares[i]! : Infinity)))
  return sizes.map((size, i) => (size === 0 || shares[i] === 0 ? 0 : (total * shares[i]!) / size))
}

/**
 * Rows in a seeded order: floor(weight) copies of every row, and a random selection for the fractional part. The shuffle spreads copies of a row over the
 * whole result.
 */
export const mixRows = <Row>(sets: ReadonlyArray<ReadonlyArray<Row>>, weights: ReadonlyArray<number>, seed: number): Array<Row> => {
  const out: Array<Row> = []
  sets.forEach((rows, index) => {
    const weight = weights[index]!
    for (let copy = 1; copy <= weight; copy++) for (const row of rows) out.push(row)
    const share = Math.round((weight - Math.floor(weight)) * rows.length)
    for (const row of new Random(seed, "mix", "share", index).shuffle(rows).slice(0, share)) out.push(row)
  })
  return new Random(seed, "mix", "order").shuffle(out)
}

const mixStage = <Row>(
  name: string,
  type: DatasetType<Row>,
  /** Selects rows of each set: true for rows to use. By default all. */
  select?: (
    sets: ReadonlyArray<ArtifactRef<Dataset<Row>>>
  ) => Effect.Effect<ReadonlyArray<ReadonlyArray<boolean>>, PairingError | ArtifactError>
) => ({
  description: "§2.1, §3.2.2 mixes several datasets by weight",
  config: MixConfig,
  inputs: { datasets: Stage.many(type) },
  output: type,
  run: Effect.fn(name)(function* ({
    config,
    inputs,
    output,
    seed
  }: Stage.Context<typeof MixConfig, { datasets: Stage.Many<Dataset<Row>> }, Dataset<Row>>) {
    if (config.weights.length !== inputs.datasets.length) {
      return yield* new MixError({
        message: `Mixing ${inputs.datasets.length} datasets needs one weight per dataset, in their order; got ${config.weights.length} ([${config.weights.join(", ")}]).`
      })
    }
    if (config.caps.length > 0 && config.caps.length !== inputs.datasets.length) {
      return yield* new MixError({
        message: `Mixing ${inputs.datasets.length} datasets: caps must be empty or have one number per dataset, 0 for no cap; got ${config.caps.length} ([${config.caps.join(", ")}]).`
      })
    }
    if (config.by === "shares" && !config.weights.some((weight) => weight > 0)) {
      return yield* new MixError({
        message: `Mixing by shares needs at least one weight above 0, got [${config.weights.join(", ")}]. Raise one of them.`
      })
    }
    const sets = yield* indicesOf(inputs.datasets, type)
    const selected = select === undefined ? undefined : yield* select(inputs.datasets)
    const taken = selected === undefined ? sets : sets.map((rows, set) => rows.filter((_, i) => selected[set]![i]))
    const repeated = sets.flat().length - taken.flat().length
    const capped = cappedRows(taken, config.caps, seed)
    const sizes = capped.map(({ length }) => length)
    const weights = config.by === "epochs" ? config.weights : weightsOfShares(sizes, config.weights)
    const order = mixRows(capped, weights, seed)
    const ends = sets.map((rows) => rows.at(-1) ?? -1)
    const from: Record<string, number> = {}
    for (const index of order) {
      const dataset = `from${ends.findIndex((end) => index <= end) + 1}`
      from[dataset] = (from[dataset] ?? 0) + 1
    }
    return yield* writeReordered({ refs: inputs.datasets, type }, output, order, {
      metrics: { ...from, ...(repeated === 0 ? {} : { repeated }) }
    })
  })
})

export const mixPreferences = Stage.make("mix-preferences", mixStage("mix-preferences", Preferences))
export const mixDemonstrations = Stage.make("mix-demonstrations", mixStage("mix-demonstrations", Demonstrations))
/** Assigns a prompt that occurs in several sets to the first of them: samples are matched by the prompt's id. */
const onceEach = Effect.fnUntraced(function* (refs: ReadonlyArray<ArtifactRef<Dataset<Prompt>>>) {
  const sets = yield* Effect.forEach(refs, (set) => readRows(set, Prompts))
  yield* checkPromptIds(sets.flat(), "Mixing prompts")
  const before = new Set<string>()
  return sets.map((rows) => {
    const own = rows.map(({ id }) => !before.has(id))
    for (const { id } of rows) before.add(id)
    return own
  })
})
export const mixPrompts = Stage.make("mix-prompts", mixStage("mix-prompts", Prompts, onceEach))
export const mixTexts = Stage.make("mix-texts", mixStage("mix-texts", Texts))

export const mixPreferencesCost = costOf(mixPreferences, {
  size: ({ config, inputs }) => {
    const sets = inputs.datasets.map((set, i) =>
      (config.caps[i] ?? 0) === 0 ? set : sized(set, { rows: Math.min(set.rows, config.caps[i]!) })
    )
    const sizes = sets.map(({ rows }) => rows)
    return mixed(sets, config.by === "epochs" ? config.weights : weightsOfShares(sizes, config.weights))
  }
})
export const mixDemonstrationsCost = costOf(mixDemonstrations, mixPreferencesCost)
export const mixPromptsCost = costOf(mixPrompts, mixPreferencesCost)
export const mixTextsCost = costOf(mixTexts, mixPreferencesCost)
