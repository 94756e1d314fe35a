/**
 * The win rate from existing annotations (Llama 2 §3.4.1): each round's pairs have answers from its newest model and from the previous one, so the annotators' choices show how often the
 * newer one is better, without further annotation. The order within a pair is random, so the model is identified by its digest.
 *
 *     win rate = choices of the newer model's answer / comparisons
 *
 * Deviations: pairs dropped by the safety rule (chosen answer unsafe, other answer safe) and equal answers are not counted. The two answers of a pair are
 * drawn at separate temperatures; the pairs record the temperature of each model, and the report shows it.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { type Preference, Preferences, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { checkNames, PairingError } from "../common/pairing.ts"
import { proportion } from "../common/statistics.ts"

export const RoundWins = Schema.Struct({
  rounds: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      comparisons: Schema.Number,
      /** Choices of the newer model's answer, and the clear ones among them: better or significantly better. */
      wins: Schema.Number,
      clearWins: Schema.Number,
      clearLosses: Schema.Number,
      /** Pairs that are not comparisons: equal to the annotator, or dropped by the safety rule. */
      leftOut: Schema.Number,
      /** Temperatures of the newer model's answers, and of the older one's. */
      temperatures: Schema.Struct({ newer: Schema.NullOr(Schema.Number), older: Schema.NullOr(Schema.Number) }),
      /** Wins as a share of all comparisons, with a 95% Wilson interval; null if there are none. */
      rate: Schema.NullOr(EstimateSchema)
    })
  )
})
export type RoundWins = typeof RoundWins.Type
export const RoundWinsReport = report(RoundWins, "round-wins/1")

/** The common temperature; null if the values differ, or if there are none. */
const one = (values: ReadonlyArray<number>): number | null => (new Set(values).size === 1 ? values[0]! : null)

/** One round: `newer` is the content digest of the newer model. Each pair must have one answer from it and one from another model. */
export const roundWinsOf = (
  name: string,
  newer: string,
  pairs: ReadonlyArray<ResponsePair>,
  preferences: ReadonlyArray<Preference>
): RoundWins["rounds"][number] => {
  const chosen = new Map(preferences.map((preference) => [preference.id, preference]))
  const sides = pairs.map((pair) => {
    const isA = pair.policyA === newer
    return {
      answer: isA ? pair.responseA : pair.responseB,
      newer: isA ? pair.temperatureA : pair.temperatureB,
      older: isA ? pair.temperatureB : pair.temperatureA,
      preference: chosen.get(pair.id)
    }
  })
  const compared = sides.flatMap(({ answer, preference }) =>
    preference === undefined ? [] : [{ isWin: preference.chosen === answer, isClear: preference.rating !== null && preference.rating <= 1 }]
  )
  const wins = compared.filter(({ isWin }) => isWin).length
  return {
    name,
    comparisons: compared.length,
    wins,
    clearWins: compared.filter(({ isClear, isWin }) => isClear && isWin).length,
    clearLosses: compared.filter(({ isClear, isWin }) => isClear && !isWin).length,
    leftOut: pairs.length - compared.length,
    temperatures: { newer: one(sides.map((side) => side.newer)), older: one(sides.map((side) => side.older)) },
    rate: compared.length === 0 ? null : proportion(wins, compared.length)
  }
}

export const roundWins = Stage.make("round-wins", {
  description: "§3.4.1 how often annotators choose the newer model's answer, round by round, from the pairs already collected",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({ description: "names of the rounds, in the order of the inputs" })
  }),
  inputs: {
    /** For each round, the model whose wins are counted. */
    newer: Stage.many(Policy),
    pairs: Stage.many(ResponsePairs),
    preferences: Stage.many(Preferences)
  },
  output: RoundWinsReport,
  seeded: false,
  run: Effect.fn("round-wins")(function* ({ config, inputs, output }) {
    const doing = "Counting wins round by round"
    for (const sets of [inputs.newer, inputs.pairs, inputs.preferences]) yield* checkNames(config.names, sets.length, doing)
    const rounds = yield* Effect.forEach(config.names, (name, i) =>
      Effect.gen(function* () {
        const { contentDigest } = inputs.newer[i]!
        const pairs = yield* readRows(inputs.pairs[i]!, ResponsePairs)
        const stray = pairs.find(({ policyA, policyB }) => (policyA === contentDigest) === (policyB === contentDigest))
        if (stray !== undefined)
          return yield* PairingError.of({
            doing: `${doing}: "${name}"`,
            expected: "pairs with one answer from the newer model and one from another",
            found: `"${stray.id}", with ${stray.policyA === contentDigest ? "both answers from it" : "no answer from it"}`,
            hint: "Pass each round's newest model, in the order of the pairs."
          })
        return roundWinsOf(name, contentDigest, pairs, yield* readRows(inputs.preferences[i]!, Preferences))
      })
    )
    return yield* writeReport(output, { rounds })
  })
})
