/** Preference pairs of the generated small world (data/world/small.ts): for the demo and for trying things out without data of one's own. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../data/dataset.ts"
import { parseHhRlhf } from "../data/dialects.ts"
import { worldPairs } from "../data/world/small.ts"
import * as Stage from "../runtime/stage.ts"
import { hyperInt } from "../schemas/hyper.ts"
import { Preferences } from "../schemas/rows.ts"

export const worldPreferences = Stage.make("world-preferences", {
  description: "preference pairs of the generated small world",
  config: Schema.Struct({ pairs: hyperInt(1000, "how many, all distinct", { min: 1 }) }),
  inputs: {},
  output: Preferences,
  run: Effect.fn("world-preferences")(function* ({ config, output, seed }) {
    const rows = worldPairs({ pairs: config.pairs, seed }).map((pair, i) => parseHhRlhf(pair, i + 1, "world"))
    return yield* writeDataset(output, rows)
  })
})
