/** Sums of small numbers, for training with a checker (pipelines/sums.ts): dialogues in which some answers are wrong, and the questions alone. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { dialogueText } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Message, type Prompt, Prompts, Texts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized, unknownSize } from "../common/cost/size.ts"

const largest = hyperInt(14, "largest summand; summands are integers from 0", { min: 1, max: 99 })

const question = (a: number, b: number): Message => ({ role: "user", content: `What is ${a} + ${b}?` })

/** A wrong answer close to the sum. */
const wrongAnswer = (random: Random, sum: number): number => {
  const near = [-2, -1, 1, 2].map((difference) => sum + difference).filter((answer) => answer >= 0)
  return random.pick(near)
}

export const sumTexts = Stage.make("sum-texts", {
  description: "dialogues about sums as running text in the chat format, with some wrong answers",
  config: Schema.Struct({
    count: hyperInt(6000, "number of dialogues", { min: 1 }),
    largest,
    right: hyper(0.4, "share of correct answers; the others are off by at most two", { min: 0, max: 1 })
  }),
  inputs: {},
  output: Texts,
  run: Effect.fn("sum-texts")(function* ({ config, output, seed }) {
    const random = new Random(seed, "sums", "texts")
    const rows = Array.from({ length: config.count }, () => {
      const [a, b] = [random.int(config.largest + 1), random.int(config.largest + 1)]
      const answer = random.next() < config.right ? a + b : wrongAnswer(random, a + b)
      return { text: dialogueText([question(a, b), { role: "assistant", content: `${answer}` }]) }
    })
    return yield* writeDataset(output, rows)
  })
})

export const sumPrompts = Stage.make("sum-prompts", {
  description: "the questions about sums, either the training part or the held-out part",
  config: Schema.Struct({
    largest,
    split: hyper("train", "train: two thirds of all questions; heldOut: the remaining third", ["train", "heldOut"])
  }),
  inputs: {},
  output: Prompts,
  run: Effect.fn("sum-prompts")(function* ({ config, output, seed }) {
    const count = config.largest + 1
    const order = new Random(seed, "sums", "split").permutation(count * count)
    const held = Math.ceil(order.length / 3)
    const chosen = config.split === "train" ? order.slice(held) : order.slice(0, held)
    const rows = Array.from(chosen, (index): Prompt => {
      const [a, b] = [Math.floor(index / count), index % count]
      return { id: `${a}+${b}`, messages: [question(a, b)], safety: false, category: "sum", followUps: [] }
    })
    return yield* writeDataset(output, rows)
  })
})

export const sumTextsCost = costOf(sumTexts, { size: ({ config }) => sized(unknownSize, { rows: config.count }) })
export const sumPromptsCost = costOf(sumPrompts, {
  size: ({ config }) => {
    const all = (config.largest + 1) ** 2
    const held = Math.ceil(all / 3)
    return sized(unknownSize, { rows: config.split === "train" ? all - held : held, promptTokens: 12, turns: 1, safetyShare: 0 })
  }
})
