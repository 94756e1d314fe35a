/**
 * Compares reward models with no, small and large margins by rating (Llama 2 §A.3.3, tables 27 and 28): accuracy on held-out pairs, by rating. In the paper a margin
 * helps most where one response is significantly better, and a large margin reduces the accuracy on similar responses.
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { setting, settingParams } from "./setting.ts"

const margins = ["none", "small", "large"] as const

export default Pipeline.make(
  "margins",
  { description: "reward models with no, small and large margins, on held-out pairs by rating", params: Schema.Struct(settingParams) },
  (params) => {
    const { accuracy, chat, pairLimits, pairsOf, rewardTraining } = setting(params)
    const { test, train } = pairsOf("helpfulness")
    return Object.fromEntries(
      margins.map((margin) => {
        const reward = helpfulnessRewardModel({ init: chat, pairs: train }, { ...rewardTraining, margin })
          .named(`reward-${margin}`)
          .limited(pairLimits)
        return [margin, accuracy(reward, test, `accuracy-${margin}`)]
      })
    )
  }
)
