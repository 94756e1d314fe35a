/** Data to learn and questions to ask. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { type Prompt, Prompts, Texts } from "../../schemas/rows.ts"

const sentence = (random: Random, words: number): string =>
  Array.from({ length: words }, () => random.pick(["the", "caravan", "goes", "on", "dogs", "bark", "sand", "well"])).join(" ")

export const sentences = Stage.make("sentences", {
  config: Schema.Struct({}),
  inputs: {},
  output: Texts,
  run: Effect.fn("sentences")(function* ({ output, seed }) {
    const random = new Random(seed, "sentences")
    return yield* writeDataset(
      output,
      Array.from({ length: 80 }, () => ({ text: sentence(random, 24) }))
    )
  })
})

export const questions = Stage.make("questions", {
  config: Schema.Struct({}),
  inputs: {},
  output: Prompts,
  run: Effect.fn("questions")(function* ({ output, seed }) {
    const random = new Random(seed, "questions")
    return yield* writeDataset(
      output,
      Array.from({ length: 40 }, (_, i): Prompt => ({
        id: `q${i}`,
        messages: [{ role: "user", content: sentence(random, 2 + (i % 4)) }],
        safety: false,
        category: null,
        followUps: []
      }))
    )
  })
})
