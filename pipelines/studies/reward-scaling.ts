/**
 * Trains reward models of several sizes on increasing numbers of pairs (Llama 2 §3.2.2, figure 6): accuracy on held-out pairs. In the paper larger models are better on the
 * same data, and neither axis has reached a plateau. The pairs are the same for all sizes; each size is pretrained and tuned separately.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { setting, settingParams } from "./setting.ts"

const list = (values: ReadonlyArray<number>, description: string) =>
  Schema.Array(Schema.Number.check(Schema.isGreaterThan(0)))
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(values)))
    .annotate({ description: `${description}; default ${JSON.stringify(values)}` })

const Params = Schema.Struct({
  ...settingParams,
  widths: list([48, 96, 192], "list of model widths, multiples of 8"),
  shares: list([0.125, 0.25, 0.5, 1], "list of shares of the pairs; each is a subset of the larger ones")
})

export default Pipeline.make(
  "reward-scaling",
  { description: "reward-model size against amount of data", params: Params },
  ({ shares, widths, ...params }) => {
    const { accuracy, demonstrations, pairLimits, pairsOf, rewardTraining, scratch, tune } = setting(params)
    const { test, train } = pairsOf("helpfulness")
    const subsets = shares.map((share) => ({
      share,
      pairs: mixPreferences({ datasets: [train] }, { weights: [share] }).named(`pairs-${100 * share}%`)
    }))
    return Object.fromEntries(
      widths.flatMap((width) => {
        const init = tune(scratch(width, params.layers, `base-${width}`), demonstrations, `sft-${width}`)
        return subsets.map(({ pairs, share }) => {
          const name = `${width}-${100 * share}%`
          const reward = helpfulnessRewardModel({ init, pairs }, rewardTraining).named(`reward-${name}`).limited(pairLimits)
          return [name, accuracy(reward, test, `accuracy-${name}`)]
        })
      })
    )
  }
)
