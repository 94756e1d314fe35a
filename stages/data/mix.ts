/** Data mixing: several datasets into one, each with a weight; a weight above 1 up-samples (Llama 2 §2.1: the most factual sources). */
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
      "how often each dataset's rows are drawn, in the order of the inputs: 0.5 is a random half, 2 is every row twice (§2.1, §3.2.2)"
  }),
  by: hyper(
    "epochs",
    "what the weights are: epochs, how often rows are drawn; or shares of the result, which is then as large as it can be without a row twice",
    ["epochs", "shares"]
  ),
  caps: hyperNumbers(
    "the most different rows of each dataset that take part, a random choice, in the order of the inputs; 0 or none: all of them",
    { min: 0 }
  )
})

/** The weights or caps are not as many as the datasets, or give no shares. */
class MixError extends Schema.TaggedError<MixError>()("MixError", { message: Schema.String }) {
  readonly isRetryable = false
}

/** At most so many rows of each set, a random choice in their order; all where there is no cap, or it is 0. */
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

/** Weights that give each set its share of the result, the largest such without a row twice: 1 for the set that runs out first. */
export const weightsOfShares = (sizes: ReadonlyArray<number>, shares: ReadonlyArray<number>): ReadonlyArray<number> => {
  const total = Math.min(...sizes.map((size, i) => (shares[i]! > 0 ? size / shares[i]! : Infinity)))
  return sizes.map((size, i) => (size === 0 || shares[i] === 0 ? 0 : (total * shares[i]!) / size))
}

/**
 * Rows in a seeded order: floor(weight) copies of every row and a random share of the fractional part. Copies of one row are spread over the
 * whole result by the shuffle.
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
  /** Which rows of each set take part: true for those that do. All, unless given. */
  select?: (
    sets: ReadonlyArray<ArtifactRef<Dataset<Row>>>
  ) => Effect.Effect<ReadonlyArray<ReadonlyArray<boolean>>, PairingError | ArtifactError>
) => ({
  description: "§2.1, §3.2.2 several datasets mixed by weight",
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
        message: `Mixing ${inputs.datasets.length} datasets needs as many weights, got ${config.weights.length} ([${config.weights.join(", ")}]). Give one weight a dataset, in their order.`
      })
    }
    if (config.caps.length > 0 && config.caps.length !== inputs.datasets.length) {
      return yield* new MixError({
        message: `Mixing ${inputs.datasets.length} datasets: caps are none or as many, got ${config.caps.length} ([${config.caps.join(", ")}]). Give one a dataset, 0 for no cap.`
      })
    }
    if (config.by === "shares" && !config.weights.some((weight) => weight > 0)) {
      return yield* new MixError({ message: `Mixing by shares needs one above 0, got [${config.weights.join(", ")}].` })
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
/** A prompt that several sets hold counts as the first one's: its samples are told apart by its id. */
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
