/**
 * Pretraining texts as a mixture of named sources (Llama 2 §2.1, "up-sampling the most factual sources"): each source has its share of the rows,
 * whatever its size. A small source with a large share is repeated.
 *
 *     times each row of a source is read = share * rows / rows of the source
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReordered } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { mixed } from "../common/cost/size.ts"
import { indicesOf } from "../common/indices.ts"
import { checkNames } from "../common/pairing.ts"
import { mixRows } from "./mix.ts"

/** Invalid shares, or a source without texts. */
class SourcesError extends ExplainedError<SourcesError>()("SourcesError") {}

/** How often each row of each source is read, so that the sources have their shares of `rows`. */
export const epochsOf = (sizes: ReadonlyArray<number>, shares: ReadonlyArray<number>, rows: number): ReadonlyArray<number> => {
  const total = shares.reduce((sum, share) => sum + share, 0)
  return sizes.map((size, i) => (shares[i] === 0 ? 0 : ((shares[i]! / total) * rows) / size))
}

export const mixSources = Stage.make("mix-sources", {
  description: "§2.1 mixes named sources of pretraining texts, each with its share",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({ description: "names of the sources, in the order of the inputs" }),
    shares: Schema.Array(Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))).annotate({
      description: "share of each source in the mixture, in the order of the inputs; only their ratios matter"
    }),
    rows: hyperInt(0, "number of texts in the mixture; 0: as many as all sources have together", { min: 0 })
  }),
  inputs: { sources: Stage.many(Texts) },
  output: Texts,
  run: Effect.fn("mix-sources")(function* ({ config, inputs, output, seed }) {
    const { names, shares } = config
    const doing = "Mixing sources of pretraining texts"
    yield* checkNames(names, inputs.sources.length, doing)
    if (shares.length !== names.length || !shares.some((share) => share > 0))
      return yield* SourcesError.of({
        doing,
        expected: `a share for each of ${names.join(", ")}, at least one above 0`,
        found: `[${shares.join(", ")}]`,
        hint: "List one share per source, in the order of the names."
      })
    const sets = yield* indicesOf(inputs.sources, Texts)
    const sizes = sets.map(({ length }) => length)
    const empty = sizes.findIndex((size, i) => size === 0 && shares[i]! > 0)
    if (empty !== -1)
      return yield* SourcesError.of({
        doing,
        expected: `texts of "${names[empty]!}", whose share is ${shares[empty]!}`,
        found: "none",
        hint: "Check the stage that makes the texts, or set the share to 0."
      })
    const rows = config.rows === 0 ? sizes.reduce((sum, size) => sum + size, 0) : config.rows
    const epochs = epochsOf(sizes, shares, rows)
    const order = mixRows(sets, epochs, seed)
    const metrics = Object.fromEntries(names.map((name, i) => [`${name} epochs`, epochs[i]!]))
    return yield* writeReordered({ refs: inputs.sources, type: Texts }, output, order, { metrics })
  })
})

export const mixSourcesCost = costOf(mixSources, {
  size: ({ config, inputs }) => {
    const sizes = inputs.sources.map(({ rows }) => rows)
    const rows = config.rows === 0 ? sizes.reduce((sum, size) => sum + size, 0) : config.rows
    return mixed(inputs.sources, epochsOf(sizes, config.shares, rows))
  }
})
