/** The models of pipelines/hh-rlhf.ts: a base model, chat models tuned on chosen answers, and a reward model for each half of the pairs. */
import { PipelineError } from "../../runtime/errors.ts"
import { fileAt } from "../../runtime/define/node.ts"
import type { Demonstration, Preference } from "../../schemas/rows.ts"
import { foldPreferences, preferenceDemonstrations, preferenceTexts } from "../../stages/data/derive.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { sft } from "../../stages/training/sft.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import type { Policy, Rows } from "../nodes.ts"
import type { Params } from "./params.ts"

/** The user's, or a small one that is pretrained on the dialogues: both answers of each pair alike. */
export const baseModel = (pairs: Rows<Preference>, params: Params): Policy => {
  if (params.model !== "") return importPolicy({ folder: fileAt(params.model) })
  if (params.maxNewTokens >= params.contextLength)
    throw new PipelineError({
      message: `maxNewTokens ${params.maxNewTokens} leaves no room for a prompt in the model's context: give fewer than contextLength ${params.contextLength}.`
    })
  const texts = preferenceTexts({ preferences: pairs })
  const { vocabSize, dim, layers, heads, contextLength, pretrainSteps: steps } = params
  return pretrain(
    { tokenizer: tokenizer({ texts }, { vocabSize }), texts },
    {
      ...{ dim, layers, heads, kvHeads: heads, ffn: Math.ceil((dim * 8) / 3 / 16) * 16, contextLength },
      ...{ sequenceLength: Math.min(256, contextLength), steps, learningRate: 2e-3, warmupSteps: Math.ceil(steps / 20) }
    }
  )
}

export const tune = (init: Policy, demonstrations: Rows<Demonstration>, params: Params, epochs: number, name: string): Policy =>
  sft(
    { init, demonstrations },
    { sequenceLength: params.contextLength, batchSize: 16, learningRate: params.sftLearningRate, epochs }
  ).named(name)

/** On the chosen answers. */
export const chatModel = (base: Policy, preferences: Rows<Preference>, params: Params, name: string): Policy =>
  tune(base, preferenceDemonstrations({ preferences }), params, params.sftEpochs, name)

/** A reward model of the pairs outside a fold, from a chat model of the same pairs, and its scores of those inside. */
export const half = (fold: number, base: Policy, preferences: Rows<Preference>, params: Params) => {
  const part = (part: "inside" | "outside", name: string) =>
    foldPreferences({ preferences }, { folds: 2, fold, part }).named(`${name}-${fold + 1}`)
  const pairs = part("outside", "train-pairs")
  const reward = safetyRewardModel(
    { init: chatModel(base, pairs, params, `sft-half-${fold + 1}`), pairs },
    { margin: "none", batchPairs: 32, learningRate: params.rewardLearningRate, epochs: params.rewardEpochs }
  ).named(`reward-model-${fold + 1}`)
  return { reward, scores: scorePairs({ reward, pairs: part("inside", "held-out-pairs") }).named(`pair-scores-${fold + 1}`) }
}
