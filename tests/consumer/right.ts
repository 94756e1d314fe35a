// Code that must compile, with types that have names in the declarations of another project.
import {
  Caravan,
  type Checkpoint,
  type Dataset,
  dataset,
  fileAt,
  helpfulnessRewardModel,
  hyper,
  hyperInt,
  importPolicy,
  type Node,
  Pipeline,
  Policy,
  type Preference,
  Preferences,
  readRows,
  score,
  sft,
  Stage,
  writeDataset
} from "caravan"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { norms } from "./norms.ts"

export const Words = dataset(Schema.Struct({ text: Schema.String }), "words/1")

export const shout = Stage.make("shout", {
  config: Schema.Struct({ times: hyperInt(1, "how often"), tone: hyper("loud", "how", ["loud", "quiet"]) }),
  inputs: { words: Words, more: Stage.many(Words), pairs: Stage.optional(Preferences), policy: Policy },
  output: Words,
  run: Effect.fn("shout")(function* ({ inputs, output }) {
    return yield* writeDataset(output, yield* readRows(inputs.words, Words))
  })
})
export const inParts = Stage.map(shout, { over: "words", rows: 1000 })
export const held: typeof shout = Stage.pinned("v1", shout)
export { norms, score, sft }

export const policy: Node<Checkpoint<"policy">> = importPolicy({ folder: fileAt("model") })
export declare const pairs: Node<Dataset<Preference>>
export const reward = helpfulnessRewardModel({ init: policy, pairs })
export const shouted = (words: Node<Dataset<{ readonly text: string }>>) =>
  inParts({ words, more: [words], policy }, { tone: "quiet", seed: 2 })

export const pipeline = Pipeline.make("right", { params: Schema.Struct({ data: Schema.String }) }, ({ data }) => ({
  norms: norms({ numbers: fileAt(data) }),
  reward
}))
export default pipeline

export const live = Caravan.layer({ device: "cuda" })
export const result = Caravan.run(pipeline, { data: "numbers.json" })
export const path = Effect.map(result, ({ outputs }) => outputs.reward?.path)
export const events = Caravan.events(pipeline, { data: "numbers.json" })
export const plan = Caravan.plan(pipeline, { data: "numbers.json" })
export const points = Caravan.sweep(pipeline, { data: "numbers.json" }, { data: ["a.json", "b.json"], "norms.power": [1, 2] })
export const same = Caravan.verify(pipeline, { data: "numbers.json" })
