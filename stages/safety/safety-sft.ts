/**
 * Safety SFT (Llama 2 §4.2.2): adversarial prompts with safe answers are added to the demonstrations of supervised fine-tuning. In the paper, annotators
 * write them; import such a file with importDemonstrations and add it with mixDemonstrations.
 *
 * Deviation, off by default (pipelines/llama2-chat.ts: safeAnswers): this stage takes safe answers from preference pairs with safety labels, for projects
 * without written ones. The paper wrote a few thousand and then switched entirely to RLHF (§4.2.3).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { deriveDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { type Demonstration, Demonstrations, type Preference, Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { isUsable } from "../common/unfit.ts"

/** The chosen answer of a pair as a demonstration; undefined unless it was labelled safe. */
export const safeDemonstration = ({ chosen, chosenSafe, id, prompt }: Preference): Demonstration | undefined =>
  chosenSafe === true ? { id, messages: [...prompt, { role: "assistant", content: chosen }], loss: "answers" } : undefined

export const safeDemonstrations = Stage.make("safe-demonstrations", {
  description: "§4.2.2 chosen responses labelled safe, as demonstrations for safety SFT",
  config: Schema.Struct({}),
  inputs: { preferences: Preferences },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("safe-demonstrations")(function* ({ inputs, output, skipped }) {
    const counts = { unlabelled: 0, unsafe: 0, unusable: 0 }
    let safe = 0
    const demonstrationOf = (pair: Preference): ReadonlyArray<Demonstration> => {
      const row = safeDemonstration(pair)
      if (row === undefined) counts[pair.chosenSafe === null ? "unlabelled" : "unsafe"]++
      else {
        safe++
        if (isUsable(row, skipped, "safe dialogues")) return [row]
        counts.unusable++
      }
      return []
    }
    const made = yield* deriveDataset({ ref: inputs.preferences, type: Preferences }, output, demonstrationOf, () => counts)
    yield* skipped.check("safe dialogues", safe)
    return made
  })
})

export const safeDemonstrationsCost = costOf(safeDemonstrations, { size: ({ inputs }) => inputs.preferences })
