/** Pairs of responses without a model, from a stage: for runs that judge them. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { responsePair } from "./samples.ts"

export const pairsListed = (count: number): ReadonlyArray<ResponsePair> =>
  Array.from({ length: count }, (_, i) => responsePair(`${i}`, `Which, ${i}?`, "good", "bad"))

export const listedPairs = Stage.make("listed-pairs", {
  description: "pairs of a good and a bad response",
  config: Schema.Struct({ count: hyperInt(10, "how many", { min: 1 }) }),
  inputs: {},
  output: ResponsePairs,
  seeded: false,
  run: Effect.fn("listed-pairs")(function* ({ config, output }) {
    return yield* writeDataset(output, pairsListed(config.count))
  })
})
