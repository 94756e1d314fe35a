/** Classifies completions with the small world's oracle (Llama 2 §4.4) instead of the safety classifier, without its errors. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Completions, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { type ClassifiedCompletion, ClassifiedCompletions } from "../safety/classify.ts"
import { gradeAll } from "./oracle-grades.ts"

export const classifyByOracle = Stage.make("classify-by-oracle", {
  description: "§4.4 which completions are unsafe, according to the small world's oracle",
  config: Schema.Struct({}),
  inputs: {
    completions: Completions,
    /** If given, an unsafe answer gets its prompt's risk category. */
    prompts: Stage.optional(Prompts)
  },
  output: ClassifiedCompletions,
  seeded: false,
  run: Effect.fn("classify-by-oracle")(function* ({ inputs, output }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const prompts = inputs.prompts === undefined ? [] : yield* readRows(inputs.prompts, Prompts)
    const graded = yield* gradeAll(completions, prompts)
    const rows = completions.map(({ promptId, safety, sample, text }, i): ClassifiedCompletion => {
      const { category, violation: unsafe } = graded[i]!
      return { promptId, sample, safety, text, unsafe, category: unsafe ? category : null, probability: unsafe ? 1 : 0 }
    })
    return yield* writeDataset(output, rows, { metrics: { unsafe: rows.filter(({ unsafe }) => unsafe).length } })
  })
})

export const classifyByOracleCost = costOf(classifyByOracle, { size: ({ inputs }) => inputs.completions })
