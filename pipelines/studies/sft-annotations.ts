/**
 * Varies the number of SFT annotations (Llama 2 §3.1, "quality is all you need": tens of thousands were enough): the base model is tuned on the first
 * demonstrations in a seeded order, for several numbers of demonstrations, and evaluated on held-out prompts with the world's oracle and with reward models.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { demonstrationSubset } from "../../stages/data/filter-demonstrations.ts"
import { evaluated, setting, settingParams } from "./setting.ts"

const Params = Schema.Struct({
  ...settingParams,
  counts: Schema.Array(Schema.Int.check(Schema.isGreaterThan(0)))
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed([25, 50, 100, 200, 400])))
    .annotate({ description: "list of numbers of demonstrations, one model each; default [25,50,100,200,400]" })
})

export default Pipeline.make(
  "sft-annotations",
  { description: "SFT on increasing numbers of annotated demonstrations", params: Params },
  ({ counts, ...params }) => {
    const { base, demonstrations, judged, rewards, tune } = setting({
      ...params,
      demonstrations: Math.max(params.demonstrations, ...counts)
    })
    const models = rewards()
    const versions = counts.map((count) => {
      const name = `sft-${count}`
      const policy = tune(base, demonstrationSubset({ demonstrations }, { count }).named(`demonstrations-${count}`), name)
      return { name, ...judged(policy, models, name) }
    })
    return evaluated(versions)
  }
)
