/** Rare facts of the small world (data/world/facts.ts): a reference work that states them, and questions about them, for studying mixtures of sources (Llama 2 §2.1). */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { answerWith, facts, factTexts, maxFacts, questionAbout, towns } from "../../data/world/facts.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized, unknownSize } from "../common/cost/size.ts"
import { FactQuestions } from "../evaluation/fact-recall.ts"

const factCount = hyperInt(maxFacts, "number of people whose home is a fact", { min: 2, max: maxFacts })
const known = (seed: number, count: number) => facts(new Random(seed, "world", "facts"), count)

export const worldFactTexts = Stage.make("world-fact-texts", {
  description: "a reference work of the small world: texts that state where people live",
  config: Schema.Struct({ facts: factCount, count: hyperInt(40, "number of texts, with five statements each", { min: 1 }) }),
  inputs: {},
  output: Texts,
  run: Effect.fn("world-fact-texts")(function* ({ config, output, seed }) {
    const texts = factTexts(new Random(seed, "world", "fact texts"), known(seed, config.facts), config.count)
    return yield* writeDataset(
      output,
      Array.from(texts, (text) => ({ text }))
    )
  })
})

export const worldFactQuestions = Stage.make("world-fact-questions", {
  description: "questions about the facts of the reference work of the same seed, each with all towns as possible answers",
  config: Schema.Struct({ facts: factCount }),
  inputs: {},
  output: FactQuestions,
  run: Effect.fn("world-fact-questions")(function* ({ config, output, seed }) {
    const rows = known(seed, config.facts).map((fact) => ({
      question: questionAbout(fact),
      answer: answerWith(fact.town),
      others: towns.filter((town) => town !== fact.town).map(answerWith)
    }))
    return yield* writeDataset(output, rows)
  })
})

export const worldFactTextsCost = costOf(worldFactTexts, { size: ({ config }) => sized(unknownSize, { rows: config.count }) })
export const worldFactQuestionsCost = costOf(worldFactQuestions, { size: ({ config }) => sized(unknownSize, { rows: config.facts }) })
