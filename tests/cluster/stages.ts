/** A stage that walks a number of steps, slowly, with a checkpoint after each; and one that joins the walks. */
import { appendFileSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, readRows, writeDataset, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { External } from "../../schemas/artifact.ts"
import { hyper, hyperInt, neutral } from "../../schemas/hyper.ts"
import { report } from "../../schemas/report.ts"
import { Texts } from "../../schemas/rows.ts"

const Place = report(Schema.Struct({ place: Schema.Number }), "cluster-place/1")

export const walk = Stage.make("walk", {
  config: Schema.Struct({
    steps: hyperInt(10, "how many"),
    stride: hyperInt(1, "of each"),
    pause: neutral(hyperInt(20, "ms of each step", { min: 0 }), "time"),
    diary: neutral(hyper("", "a file that each step is written down in"), "for tests")
  }),
  inputs: { file: External },
  output: Place,
  seeded: false,
  run: Effect.fn("walk")(function* ({ checkpoints, config, inputs, output, progress }) {
    const { diary, pause, steps, stride } = config
    const from = yield* checkpoints.latest
    let place = from === undefined ? readFileSync(inputs.file.path).length : Number(readFileSync(join(from.path, "place"), "utf8"))
    process.stdout.write(`from step ${from?.step ?? 0}\n`)
    for (let step = from?.step ?? 0; step < steps; step++) {
      yield* Effect.sleep(pause)
      place = (place * 31 + stride * step + 7) % 1_000_003
      if (checkpoints.due())
        yield* checkpoints.save(step + 1, (folder) => Effect.sync(() => writeFileSync(join(folder, "place"), String(place))))
      if (diary !== "") appendFileSync(diary, `${stride} ${step} ${process.env.SLURMD_NODENAME ?? "here"} ${process.pid}\n`)
      yield* progress({ step: step + 1, total: steps })
    }
    return yield* writeReport(output, { place })
  })
})

export const meet = Stage.make("meet", {
  config: Schema.Struct({}),
  inputs: { places: Stage.many(Place) },
  output: Place,
  seeded: false,
  run: Effect.fn("meet")(function* ({ inputs, output }) {
    const places = yield* Effect.forEach(inputs.places, (place) => readReport(place, Place))
    return yield* writeReport(output, { place: places.reduce((sum, { place }) => sum + place, 0) })
  })
})

/** Makes rows louder, and records who did. */
const shout = Stage.make("shout-rows", {
  config: Schema.Struct({ diary: neutral(hyper("", "a file that each shard is written down in"), "for tests") }),
  inputs: { texts: Texts },
  output: Texts,
  run: Effect.fn("shout-rows")(function* ({ config, inputs, output, progress, seed }) {
    const rows = yield* readRows(inputs.texts, Texts)
    if (config.diary !== "") appendFileSync(config.diary, `${rows.length} ${process.env.SLURM_JOB_ID ?? "here"}\n`)
    yield* progress({ step: 1, total: 1 })
    return yield* writeDataset(
      output,
      rows.map(({ text }) => ({ text: `${text.toUpperCase()}! ${seed}` }))
    )
  })
})
export const shoutRows = Stage.map(shout, { over: "texts", rows: 3 })

export const lines = Stage.make("lines-of", {
  config: Schema.Struct({}),
  inputs: { file: External },
  output: Texts,
  seeded: false,
  run: ({ inputs, output }) =>
    writeDataset(
      output,
      readFileSync(inputs.file.path, "utf8")
        .trim()
        .split("\n")
        .map((text) => ({ text }))
    )
})
