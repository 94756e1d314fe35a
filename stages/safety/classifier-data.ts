/** Training data of the safety classifier: prompts with safety tags and labelled responses of pairs, as questions and answers of its task. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { type Demonstration, Demonstrations, Preferences, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { labelledTexts, SafetyTaskField, skipEmpty, taskText, unsafeVerdict, verdictText } from "./classifier-task.ts"
import { labelledSize } from "./cost.ts"

export const safetyClassifierData = Stage.make("safety-classifier-data", {
  description:
    "training data of the safety classifier: prompts with safety tags and labelled responses of pairs, as questions and answers of its task",
  config: Schema.Struct({ task: SafetyTaskField }),
  inputs: {
    prompts: Stage.many(Prompts),
    preferences: Stage.many(Preferences),
    /** The prompts for which the pairs were collected, to find the category of responses. */
    collected: Stage.optional(Prompts)
  },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("safety-classifier-data")(function* ({ config, inputs, output, skipped }) {
    const prompts = (yield* Effect.forEach(inputs.prompts, (set) => readRows(set, Prompts))).flat()
    const preferences = (yield* Effect.forEach(inputs.preferences, (set) => readRows(set, Preferences))).flat()
    const collected = inputs.collected === undefined ? [] : yield* readRows(inputs.collected, Prompts)
    const { texts, unlabelled, empty } = labelledTexts(prompts, preferences, collected)
    yield* skipEmpty(skipped, empty, texts)
    const rows = texts.map(({ id, kind, messages, unsafe, category }): Demonstration => ({
      id,
      messages: [
        { role: "user", content: taskText(config.task, kind, messages) },
        { role: "assistant", content: verdictText(config.task, unsafe, category) }
      ],
      loss: "answers"
    }))
    const unsafe = texts.filter((text) => text.unsafe)
    return yield* writeDataset(output, rows, {
      metrics: {
        prompts: texts.filter((text) => text.kind === "prompt").length,
        responses: texts.filter((text) => text.kind === "response").length,
        unsafe: unsafe.length,
        withoutCategory: unsafe.filter((text) => verdictText(config.task, true, text.category) === unsafeVerdict).length,
        unlabelled,
        empty: empty.length
      }
    })
  })
})

export const safetyClassifierDataCost = costOf(safetyClassifierData, {
  size: ({ inputs }) => sized(labelledSize(inputs.prompts, inputs.preferences), { responseTokens: 0 })
})
