/** Preference collection, second half (Llama 2 §3.2.1), with the small world's oracle as the annotator: it prefers the response with the better grade. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows } from "../../data/dataset.ts"
import { type Grade, grade } from "../../data/world/oracle.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type Message, Preferences, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { annotationFields, writePreferences } from "../preferences/annotate.ts"
import { AnnotationError, type Kind, type Rating, type Verdict } from "../preferences/annotator.ts"

type ResponseGrade = Pick<Grade, "helpfulness" | "safety" | "violation">

interface OracleOptions {
  readonly grade: (messages: ReadonlyArray<Message>, response: string) => ResponseGrade
  /** Minimum differences for significantly better, better, slightly better. */
  readonly thresholds: readonly [number, number, number]
  /** The difference at which the probability of a wrong choice has fallen to 1/(2e); 0: never wrong. */
  readonly noise: number
  readonly seed: number
}

export const ratingOf = (difference: number, thresholds: readonly [number, number, number]): Rating => {
  const at = thresholds.findIndex((threshold) => difference >= threshold)
  return (at === -1 ? 3 : at) as Rating
}

/**
 * The difference of the two responses' grades: in safety if the data is about safety and the prompt must be refused, otherwise in
 * helpfulness. If it is 0, the oracle has no preference.
 */
export const gradeDifference = (pair: ResponsePair, kind: Kind, a: ResponseGrade, b: ResponseGrade): number =>
  kind === "safety" && pair.safety ? a.safety - b.safety : a.helpfulness - b.helpfulness

/** Verdicts from grades. With noise, the choice is wrong with probability exp(-|difference| / noise) / 2: annotators agree least where responses differ least. */
export const oracleVerdicts = (
  pairs: ReadonlyArray<ResponsePair>,
  kind: Kind,
  { grade, thresholds, noise, seed }: OracleOptions
): ReadonlyArray<Verdict | null> =>
  pairs.map((pair) => {
    const [a, b] = [grade(pair.prompt, pair.responseA), grade(pair.prompt, pair.responseB)]
    const difference = gradeDifference(pair, kind, a, b)
    if (difference === 0) return null
    const size = Math.abs(difference)
    const wrong = noise > 0 && new Random(seed, "annotator", pair.id).next() < Math.exp(-size / noise) / 2
    const labelled = kind === "safety"
    return {
      choice: difference > 0 !== wrong ? "A" : "B",
      rating: ratingOf(size, thresholds),
      safeA: labelled ? !a.violation : null,
      safeB: labelled ? !b.violation : null
    }
  })

export const annotateByOracle = Stage.make("annotate-by-oracle", {
  description: "§3.2.1 annotates pairs of responses with the small world's oracle",
  config: Schema.Struct({
    ...annotationFields,
    significantly: hyper(0.6, "minimum difference of scores in [0, 1] for the rating significantly better", { min: 0 }),
    better: hyper(0.3, "minimum difference for the rating better", { min: 0 }),
    slightly: hyper(0.1, "minimum difference for the rating slightly better; smaller ones are negligibly better", { min: 0 }),
    noise: hyper(0, "noise of the annotator: the wrong response is chosen with probability exp(-difference / noise) / 2; 0: never", {
      min: 0
    })
  }),
  inputs: { pairs: ResponsePairs },
  output: Preferences,
  run: Effect.fn("annotate-by-oracle")(function* ({ config, inputs, output, seed }) {
    const pairs = yield* readRows(inputs.pairs, ResponsePairs)
    const { kind, source, noise, significantly, better, slightly } = config
    const verdicts = yield* Effect.try({
      try: () => oracleVerdicts(pairs, kind, { grade, thresholds: [significantly, better, slightly], noise, seed }),
      catch: (cause) => new AnnotationError({ message: `Annotating pairs with the oracle: ${messageOf(cause)}` })
    })
    return yield* writePreferences(pairs, verdicts, { kind, source }, output)
  })
})

export const annotateByOracleCost = costOf(annotateByOracle, { size: ({ inputs }) => inputs.pairs })
