/**
 * The reward models' training data (Llama 2 §3.2.2): a separate mixture of the preference data for each.
 *
 *     helpfulness: all Meta Helpfulness, and the same number of pairs drawn uniformly from Meta Safety and the open-source sets together
 *     safety:      all Meta Safety and Anthropic Harmless, with helpfulness pairs (Meta's and open-source ones) as 10% of the total
 *
 * "Meta" is our own annotation. Drawn uniformly means from the pooled pairs without replacement, each equally likely whatever its set. If the pool is
 * smaller than requested, all of it is used, and the metric `missing` says how many pairs short the mixture is.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReordered } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactRef, Dataset } from "../../schemas/artifact.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type Preference, Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { pool, sized } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { indicesOf } from "../common/indices.ts"

export interface Mixture<Row> {
  /** Shuffled. */
  readonly rows: ReadonlyArray<Row>
  /** Number of rows drawn from each part of the pool, in order. */
  readonly drawn: ReadonlyArray<number>
  /** Number of rows that the pool lacked. */
  readonly missing: number
}

/** All of `kept`, plus `wanted` rows drawn uniformly, without replacement, from all parts of the pool together. */
export const drawMixture = <Row>(
  kept: ReadonlyArray<Row>,
  pool: ReadonlyArray<ReadonlyArray<Row>>,
  wanted: number,
  seed: number
): Mixture<Row> => {
  const marked = pool.flatMap((rows, part) => rows.map((row) => ({ row, part })))
  const taken = new Random(seed, "reward mixture", "draw").shuffle(marked).slice(0, wanted)
  return {
    rows: new Random(seed, "reward mixture", "order").shuffle([...kept, ...taken.map(({ row }) => row)]),
    drawn: pool.map((_, part) => taken.filter((item) => item.part === part).length),
    missing: wanted - taken.length
  }
}

/** The indices of each group's pairs (`indicesOf`), numbered over all groups. */
const indicesByGroup = Effect.fnUntraced(function* (groups: ReadonlyArray<ReadonlyArray<ArtifactRef<Dataset<Preference>>>>) {
  const sets = yield* indicesOf(groups.flat(), Preferences)
  return groups.map((group) => sets.splice(0, group.length).flat())
})

export const helpfulnessMixture = Stage.make("helpfulness-mixture", {
  description: "§3.2.2 pairs for the helpfulness reward model: all helpfulness pairs, and the same number of safety and open-source pairs",
  config: Schema.Struct({
    others: hyper(1, "number of safety and open-source pairs drawn per helpfulness pair; §3.2.2: an equal amount", { min: 0 })
  }),
  inputs: { helpfulness: Stage.many(Preferences), safety: Stage.many(Preferences), openSource: Stage.many(Preferences) },
  output: Preferences,
  run: Effect.fn("helpfulness-mixture")(function* ({ config, inputs, output, seed }) {
    const groups = [inputs.helpfulness, inputs.safety, inputs.openSource]
    const [helpfulness, safety, openSource] = (yield* indicesByGroup(groups)) as [Array<number>, Array<number>, Array<number>]
    if (helpfulness.length === 0)
      return yield* EmptyDatasetError.of(
        "mix other pairs with",
        "no helpfulness pairs, whose number determines that of the others by the paper's rule (mixPreferences mixes without this rule)"
      )
    const wanted = Math.round(config.others * helpfulness.length)
    const { rows, drawn, missing } = drawMixture(helpfulness, [safety, openSource], wanted, seed)
    return yield* writeReordered({ refs: groups.flat(), type: Preferences }, output, rows, {
      metrics: { helpfulness: helpfulness.length, safety: drawn[0]!, openSource: drawn[1]!, missing }
    })
  })
})

/** The number of pairs that make up `share` of a mixture whose other part has `others` pairs: 10% with 90 others is 10. */
export const pairsForShare = (share: number, others: number): number => Math.round((share / (1 - share)) * others)

export const safetyMixture = Stage.make("safety-mixture", {
  description: "§3.2.2 pairs for the safety reward model: all safety and Anthropic Harmless pairs, and 10% helpfulness pairs",
  config: Schema.Struct({
    helpfulnessShare: hyper(
      0.1,
      "share of helpfulness pairs in the mixture; §3.2.2: 10%, which improves the accuracy where both responses are safe",
      { min: 0, max: 0.99 }
    )
  }),
  inputs: {
    safety: Stage.many(Preferences),
    harmless: Stage.many(Preferences),
    helpfulness: Stage.many(Preferences),
    openSource: Stage.many(Preferences)
  },
  output: Preferences,
  run: Effect.fn("safety-mixture")(function* ({ config, inputs, output, seed }) {
    const groups = [inputs.safety, inputs.harmless, inputs.helpfulness, inputs.openSource]
    const indices = yield* indicesByGroup(groups)
    const [safety, harmless, helpfulness, openSource] = indices as [Array<number>, Array<number>, Array<number>, Array<number>]
    const kept = [...safety, ...harmless]
    if (kept.length === 0)
      return yield* EmptyDatasetError.of(
        "mix helpfulness pairs with",
        "no safety or harmlessness pairs, whose number determines that of the others by the paper's rule (mixPreferences mixes without this rule)"
      )
    const wanted = pairsForShare(config.helpfulnessShare, kept.length)
    const { rows, drawn, missing } = drawMixture(kept, [helpfulness, openSource], wanted, seed)
    return yield* writeReordered({ refs: groups.flat(), type: Preferences }, output, rows, {
      metrics: { safety: safety.length, harmless: harmless.length, helpfulness: drawn[0]!, openSource: drawn[1]!, missing }
    })
  })
})

export const helpfulnessMixtureCost = costOf(helpfulnessMixture, {
  size: ({ config, inputs }) => {
    const own = pool(inputs.helpfulness)
    const others = pool([...inputs.safety, ...inputs.openSource])
    return pool([own, sized(others, { rows: Math.min(others.rows, Math.round(config.others * own.rows)) })])
  }
})
export const safetyMixtureCost = costOf(safetyMixture, {
  size: ({ config: { helpfulnessShare }, inputs }) => {
    const own = pool([...inputs.safety, ...inputs.harmless])
    const others = pool([...inputs.helpfulness, ...inputs.openSource])
    const wanted = Math.round((helpfulnessShare / (1 - helpfulnessShare)) * own.rows)
    return pool([own, sized(others, { rows: Math.min(others.rows, wanted) })])
  }
})
