/**
 * Open-source preferences beside our own (Llama 2 §3.2.2, tables 6 and 7): reward models on our pairs, on open-source pairs, and on all of ours with as
 * many open-source ones; each judged on held-out pairs of both kinds. In the paper open-source data does no harm and may guard against reward hacking.
 */
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { foldPreferences } from "../../stages/data/derive.ts"
import { importPreferences } from "../../stages/data/import.ts"
import { helpfulnessMixture } from "../../stages/reward/reward-mixture.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { worldPreferences } from "../../stages/world/data.ts"
import { setting, settingParams } from "./setting.ts"

const Params = Schema.Struct({
  ...settingParams,
  openFile: hyper("", "open-source pairs in HH-RLHF's format; empty: pairs of the world that another generator wrote"),
  openPairs: hyperInt(1500, "such pairs, where they are the world's", { min: 20 })
})

export default Pipeline.make(
  "open-preferences",
  { description: "reward models with and without open-source preferences", params: Params },
  ({ openFile, openPairs, ...params }) => {
    const { accuracy, chat, pairsOf, rewardTraining } = setting(params)
    const own = pairsOf("helpfulness")
    const preferences =
      openFile === ""
        ? worldPreferences({}, { pairs: openPairs }).named("open")
        : importPreferences({ file: fileAt(openFile) }, { format: "hh-rlhf", source: "open" }).named("open")
    const part = (part: "inside" | "outside", name: string) => foldPreferences({ preferences }, { folds: 10, fold: 0, part }).named(name)
    const open = { train: part("outside", "open-train"), test: part("inside", "open-test") }
    const mixtures = {
      own: own.train,
      open: open.train,
      both: helpfulnessMixture({ helpfulness: [own.train], safety: [], openSource: [open.train] }).named("both")
    }
    return Object.fromEntries(
      Object.entries(mixtures).flatMap(([name, pairs]) => {
        const reward = helpfulnessRewardModel({ init: chat, pairs }, rewardTraining).named(`reward-${name}`)
        return [
          [`${name}-on-own`, accuracy(reward, own.test, `${name}-on-own`)],
          [`${name}-on-open`, accuracy(reward, open.test, `${name}-on-open`)]
        ]
      })
    )
  }
)
