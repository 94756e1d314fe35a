/** A stage on several ranks that computes a hundred steps together and saves a checkpoint after each. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { rank, sumOver } from "../../engine/ranks.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt, neutral } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"
import { ofAllRanks } from "../../stages/common/checkpointed.ts"

const steps = 100

export const march = Stage.make("march", {
  config: Schema.Struct({ pause: neutral(hyperInt(0, "ms of each step", { min: 0 }), "time") }),
  inputs: {},
  output: Texts,
  resources: { tensors: true, ranks: true },
  run: Effect.fn("march")(function* ({ checkpoints, config, output, progress }) {
    const kept = ofAllRanks(checkpoints)
    const from = yield* kept.latest
    if (from !== undefined) yield* progress({ note: `goes on after step ${from.step}` })
    let place = from === undefined ? 1 : Number(readFileSync(join(from.path, "place"), "utf8"))
    for (let step = from?.step ?? 0; step < steps; step++) {
      yield* Effect.sleep(config.pause)
      const [sum] = sumOver([(place % 7) * (rank() + 1)], "marching")
      place = (place * 31 + sum! + step) % 1_000_003
      if (kept.due()) yield* kept.save(step + 1, (folder) => Effect.sync(() => writeFileSync(join(folder, "place"), String(place))))
      yield* progress({ step: step + 1, total: steps })
    }
    return yield* writeDataset(output, [{ text: String(place) }])
  })
})
