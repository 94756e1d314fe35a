/**
 * Varies the amount of safety data (Llama 2 §4.2.3, figures 15 and 33): the base model is tuned on all helpfulness answers and 0, 1, 10, 25, 50 or 100% of the safety
 * answers, each the best of K; evaluated by the mean scores of the reward models, and by violations and false refusals according to the world's oracle. In the paper safety rises, helpfulness
 * stays the same, and false refusals increase.
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { mixDemonstrations } from "../../stages/data/mix.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { selectBest } from "../../stages/rejection-sampling/select-best.ts"
import { promptsOf } from "../world/prompts.ts"
import { evaluated, setting, settingParams } from "./setting.ts"

/** §4.2.3. Each share is a subset of the larger ones. */
const shares = [0, 0.01, 0.1, 0.25, 0.5, 1]

const Params = Schema.Struct({
  ...settingParams,
  prompts: hyperInt(900, "number of helpfulness prompts whose best answers are trained on; §4.2.3: 0.9M", { min: 1 }),
  safetyPrompts: hyperInt(100, "number of safety prompts, of whose best answers a share is trained on; §4.2.3: 0.1M", { min: 1 }),
  k: hyperInt(6, "number of samples per prompt", { min: 1 })
})

export default Pipeline.make(
  "safety-scaling",
  { description: "tuning with 0 to 100% of the safety data", params: Params },
  ({ k, prompts, safetyPrompts, ...params }) => {
    const { base, chat, judged, rewards, sampling, scoring, tune } = setting(params)
    const models = rewards()
    const bestOf = (kind: "helpfulness" | "adversarial", count: number) => {
      const completions = sample(
        { policy: chat, prompts: promptsOf(kind, "train", count, "prompts", 2) },
        { ...sampling, k, temperature: 1 }
      )
      return selectBest({ scored: [scoreCombined({ completions: completions.named(`samples-${kind}`), ...models }, scoring)] }).named(
        `best-${kind}`
      )
    }
    const datasets = [bestOf("helpfulness", prompts), bestOf("adversarial", safetyPrompts)]
    const versions = shares.map((share) => {
      const name = `safety-${100 * share}%`
      const data = mixDemonstrations({ datasets }, { weights: [1, share] }).named(`data-${name}`)
      return { name, ...judged(tune(base, data, name), models, name) }
    })
    return evaluated(versions)
  }
)
