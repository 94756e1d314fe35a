/**
 * Adds open-source preferences to our own (Llama 2 §3.2.2, tables 6 and 7): reward models on our pairs, on open-source pairs, and on all of ours with the
 * same number of open-source ones; each evaluated on held-out pairs of both kinds. In the paper open-source data does no harm and may help against reward hacking.
 * Open-source pairs are other models' answers to other prompts: in the small world, those of the base model and of a model tuned only on public dialogues.
 */
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt, hyperSecretVariable, hyperUrl } from "../../schemas/hyper.ts"
import { importGeneralReward } from "../../stages/data/import.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { evaluateReward, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { judgePairs } from "../../stages/reward/judge-pairs.ts"
import { helpfulnessMixture } from "../../stages/reward/reward-mixture.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { judgedPairs } from "../world/preferences.ts"
import { ownPairs } from "../world/params.ts"
import { promptsOf } from "../world/prompts.ts"
import { setting, settingParams, tenths } from "./setting.ts"

const Params = Schema.Struct({
  ...settingParams,
  openFile: hyper("", "file of open-source pairs in HH-RLHF's format; empty: generated pairs, from models before our SFT"),
  openPairs: hyperInt(1500, "number of prompts for which such pairs are generated, if openFile is empty", { min: 20 }),
  openReward: hyper("", "table 7: folder of another open reward model with one logit, to compare with ours; empty: none"),
  url: hyperUrl("table 7: URL of a judge's endpoint, to compare with our models; empty: none"),
  judge: hyper("", "name of the judge's model at the endpoint"),
  keyVariable: hyperSecretVariable("name of the environment variable with the judge's API key; empty: no key is sent")
})

export default Pipeline.make(
  "open-preferences",
  { description: "reward models with and without open-source preferences", params: Params },
  ({ judge, keyVariable, openFile, openPairs, openReward, url, ...params }) => {
    const { accuracy, base, chat, pairLimits, pairsOf, rewardTraining, variant } = setting(params)
    const own = pairsOf("helpfulness")
    const collected = (split: "train" | "heldOut", count: number, part: string, seed: number) => {
      const prompts = promptsOf("helpfulness", split, count, `open-${part}-prompts`, seed)
      const names = { pairs: `open-${part}-pairs`, preferences: `open-${part}`, source: "open" }
      return judgedPairs({ first: variant, second: base, prompts }, "helpfulness", params, names).preferences
    }
    const open =
      openFile === ""
        ? { train: collected("train", openPairs, "train", 5), test: collected("heldOut", params.heldOut, "test", 6) }
        : tenths(importPreferences({ file: fileAt(openFile) }, { shape: "hh-rlhf", source: "open" }).named("open"), "open-")
    const limits = openFile === "" ? ownPairs : pairLimits
    const mixtures = {
      own: own.train,
      open: open.train,
      both: helpfulnessMixture({ helpfulness: [own.train], safety: [], openSource: [open.train] }).named("both")
    }
    const tests = [
      { on: "own", pairs: own.test, limits: pairLimits },
      { on: "open", pairs: open.test, limits }
    ]
    const others = [
      ...(openReward === "" ? [] : [["open-reward", importGeneralReward({ folder: fileAt(openReward) }).named("open-reward")] as const]),
      ...(url === "" ? [] : [["judge", undefined] as const])
    ].map(([name, reward]) => {
      const scores = tests.map(({ limits, on, pairs }) => {
        const full = `${name}-on-${on}`
        if (reward === undefined) return judgePairs({ pairs }, { url, model: judge, keyVariable }).named(full)
        const judging = { batchPairs: params.inferenceBatch, precision: params.precision }
        return scorePairs({ reward, pairs }, judging).named(full).limited(limits)
      })
      return [name, evaluateReward({ scores }).named(`${name}-accuracy`)] as const
    })
    return Object.fromEntries([
      ...others,
      ...Object.entries(mixtures).flatMap(([name, pairs]) => {
        const reward = helpfulnessRewardModel({ init: chat, pairs }, rewardTraining).named(`reward-${name}`).limited(limits)
        return [
          [`${name}-on-own`, accuracy(reward, own.test, `${name}-on-own`)],
          [`${name}-on-open`, accuracy(reward, open.test, `${name}-on-open`, limits)]
        ]
      })
    ])
  }
)
