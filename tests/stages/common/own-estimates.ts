/** A user's own stages: one with an estimate, variants of it, and one without an estimate that has the name of a stage of the recipe. */
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyperInt } from "../../../schemas/hyper.ts"
import * as Effect from "effect/Effect"
import { Texts } from "../../../schemas/rows.ts"
import { costOf } from "../../../stages/common/cost/estimator.ts"
import { sized } from "../../../stages/common/cost/size.ts"

const copying = {
  config: Schema.Struct({ times: hyperInt(2, "how often") }),
  inputs: { texts: Texts },
  output: Texts,
  run: Effect.fn("copying")(function* ({ config, inputs, output }: Stage.Context<any, { texts: typeof Texts }>) {
    const rows = yield* readRows(inputs.texts, Texts)
    return yield* writeDataset(output, Array.from({ length: config.times }, () => rows).flat())
  })
}
export const repeat = Stage.make("repeat", copying)
export const repeatCost = costOf(repeat, {
  size: ({ config, inputs }) => sized(inputs.texts, { rows: config.times * inputs.texts.rows })
})
export const repeatInParts = Stage.map(repeat, { over: "texts", rows: 10 })
export const repeatPinned = Stage.pinned("v1", repeat)
export const repeatPinnedInParts = Stage.map(repeatPinned, { over: "texts", rows: 20 })
export const sft = Stage.make("sft", copying)
