/** The models of pipelines/rlhf.ts: the base model, the tuned models, the reward models and their judges. */
import { fileAt } from "../../runtime/define/node.ts"
import type { Completion, Demonstration, Preference } from "../../schemas/rows.ts"
import { preferenceTexts } from "../../stages/data/derive.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { evaluateReward, rewardBaselines, safetyRecall, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { sft } from "../../stages/training/sft.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import type { HelpfulnessReward, Policy, Rows, SafetyReward } from "../nodes.ts"
import type { Collected } from "./collected.ts"
import { type Data, type Pairs, type Parts, partsOf } from "./data.ts"
import { type Params, rewardTraining, scoring, sftTraining } from "./params.ts"

/** The user's model, or a small one pretrained on the dialogues of the training pairs, with both answers of each. */
export const baseModel = ({ helpfulness }: Data, params: Params): Policy => {
  if (params.model !== "") return importPolicy({ folder: fileAt(params.model) }).named("base")
  const texts = preferenceTexts({ preferences: helpfulness.all }).named("texts")
  const { contextLength, dim, heads, layers, precision, pretrainSteps: steps, vocabSize } = params
  return pretrain(
    { tokenizer: tokenizer({ texts }, { vocabSize }), texts },
    {
      ...{ dim, layers, heads, kvHeads: heads, ffn: Math.ceil((dim * 8) / 3 / 16) * 16, contextLength, precision },
      ...{ sequenceLength: Math.min(256, contextLength), steps, learningRate: 2e-3, warmupSteps: Math.ceil(steps / 20) }
    }
  ).named("base")
}

export const tune = (
  init: Policy,
  demonstrations: Rows<Demonstration>,
  params: Params,
  length: { readonly epochs: number } | { readonly steps: number },
  name: string
): Policy => sft({ init, demonstrations }, { ...sftTraining(params), ...length }).named(name)

/** Reward models. There is a safety reward model only if the pairs have safety labels. */
export interface Scorers {
  readonly helpfulness: HelpfulnessReward
  readonly safety?: SafetyReward
}

/** The pairs that train the reward models of each kind, and their judges. */
export interface RewardPairs {
  readonly helpfulness: Parts
  readonly safety?: Parts
}
export const rewardPairs = ({ helpfulness, safety }: Data, collected: Collected, params: Params): RewardPairs => ({
  helpfulness: partsOf(helpfulness, collected.helpfulness, params),
  ...(safety === undefined ? {} : { safety: partsOf(safety, collected.safety, params) })
})

/** Reward models trained on one part of the training pairs, starting from the chat model (§3.2.2). */
export const rewardModels = (init: Policy, { helpfulness, safety }: RewardPairs, part: "training" | "judging", params: Params): Scorers => {
  const suffix = part === "training" ? "reward" : "judge"
  const training = rewardTraining(params)
  return {
    helpfulness: helpfulnessRewardModel({ init, pairs: helpfulness[part] }, training).named(`helpfulness-${suffix}`),
    ...(safety === undefined ? {} : { safety: safetyRewardModel({ init, pairs: safety[part] }, training).named(`safety-${suffix}`) })
  }
}

/** The reward R_c of completions (§3.2.3): R_h without a safety model. */
export const scoredBy = (models: Scorers, completions: Rows<Completion>, params: Params, name: string) =>
  scoreCombined({ completions, ...models }, scoring(params)).named(name)

const accuracyOf = (reward: HelpfulnessReward | SafetyReward, { heldOut: pairs }: Pairs, { precision }: Params, name: string) =>
  evaluateReward({ scores: [scorePairs({ reward, pairs }, { precision }).named(`${name}-pair-scores`)] }).named(`${name}-accuracy`)

/** Accuracy on the held-out pairs of this kind: of the reward model, of its judge, and of baselines that only use length or words. */
const qualityOf = (
  name: "helpfulness" | "safety",
  reward: HelpfulnessReward | SafetyReward,
  judge: HelpfulnessReward | SafetyReward,
  pairs: Pairs,
  train: Rows<Preference>,
  params: Params
) => ({
  accuracy: accuracyOf(reward, pairs, params, `${name}-reward`),
  judge: accuracyOf(judge, pairs, params, `${name}-judge`),
  baselines: rewardBaselines({ train, test: pairs.heldOut }).named(`${name}-baselines`)
})

export const rewardQuality = (rewards: Scorers, judges: Scorers, { helpfulness, safety }: Data, trained: RewardPairs, params: Params) => {
  const helpful = qualityOf("helpfulness", rewards.helpfulness, judges.helpfulness, helpfulness, trained.helpfulness.training, params)
  const inputs = { helpfulness: helpful.accuracy, helpfulnessJudge: helpful.judge, helpfulnessBaselines: helpful.baselines }
  if (safety === undefined || trained.safety === undefined || rewards.safety === undefined || judges.safety === undefined) return inputs
  const safe = qualityOf("safety", rewards.safety, judges.safety, safety, trained.safety.training, params)
  const recall = safetyRecall({ reward: rewards.safety, pairs: safety.heldOut }, scoring(params)).named("safety-recall")
  return { ...inputs, safety: safe.accuracy, safetyJudge: safe.judge, safetyBaselines: safe.baselines, safetyRecall: recall }
}
