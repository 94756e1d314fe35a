/** Answers of the small world rated from 1 to 7 by its three raters (data/world/raters.ts), who annotate no preferences (Llama 2 A.3.4). */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { UnknownQuestionError } from "../../data/world/oracle.ts"
import { rate, raters } from "../../data/world/raters.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper } from "../../schemas/hyper.ts"
import { Completions } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { type Rating, Ratings } from "../evaluation/ratings.ts"

/** An answer to a question that the raters do not know. */
class RatingError extends Schema.TaggedError<RatingError>()("RatingError", { message: Schema.String }) {
  readonly isRetryable = false
}

export const worldRatings = Stage.make("world-ratings", {
  description: "A.3.4 answers rated from 1 to 7 by three raters of the small world, who annotate no preferences",
  config: Schema.Struct({ slip: hyper(0.15, "probability that a rater is off by one point, up or down", { min: 0, max: 1 }) }),
  inputs: { completions: Completions },
  output: Ratings,
  run: Effect.fn("world-ratings")(function* ({ config, inputs, output, seed }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const rows = yield* Effect.try({
      try: () =>
        completions.flatMap(({ policy, prompt, promptId, sample, text }) =>
          raters.map((rater): Rating => {
            const random = new Random(seed, "rater", rater, policy, promptId, String(sample))
            const off = random.next() < config.slip ? (random.next() < 0.5 ? 1 : -1) : 0
            return { promptId, sample, policy, rater, rating: Math.min(7, Math.max(1, rate(prompt, text, rater) + off)) }
          })
        ),
      catch: (cause) => {
        if (!(cause instanceof UnknownQuestionError)) throw cause
        return new RatingError({ message: `Rating answers: ${cause.message}` })
      }
    })
    return yield* writeDataset(output, rows, { metrics: { answers: completions.length, ratings: rows.length } })
  })
})

export const worldRatingsCost = costOf(worldRatings, { size: ({ inputs }) => inputs.completions })
