/**
 * The recipe on preference pairs: tokenizer -> a small Llama pretrained on the dialogues -> SFT on the chosen answers
 * -> reward models -> best of K -> SFT on the best -> evaluation.
 *
 * The pairs are split in two halves by their first question. Each half tunes a chat model and, from it, a reward model, which is judged on the
 * other half: every pair is held out once (cross-validation), from the chat model too, since tuning on the chosen answer of a pair would give
 * away which one it was. Pretraining reads both answers alike. The best of K that one reward model chooses are judged by the other.
 */
import * as Schema from "effect/Schema"
import { fileAt, type Node } from "../runtime/define/node.ts"
import type { Checkpoint, Dataset } from "../schemas/artifact.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import type { Preference } from "../schemas/rows.ts"
import { foldPreferences, preferenceDemonstrations, preferencePrompts, preferenceTexts } from "../stages/data/derive.ts"
import { evaluateBestOfN, evaluatePolicy } from "../stages/evaluation/evaluate-policy.ts"
import { evaluateReward, scorePairs } from "../stages/reward/evaluate-reward.ts"
import { importPolicy } from "../stages/data/import.ts"
import { pretrain } from "../stages/training/pretrain.ts"
import { safetyRewardModel } from "../stages/reward/reward-model.ts"
import { sample } from "../stages/rejection-sampling/sample.ts"
import { score } from "../stages/reward/score.ts"
import { selectBest } from "../stages/rejection-sampling/select-best.ts"
import { sft } from "../stages/training/sft.ts"
import { summary } from "../stages/evaluation/run-summary.ts"
import { tokenizer } from "../stages/training/tokenizer.ts"

export const recipeParams = {
  model: hyper("", "a Llama in the Hugging Face layout to start from; empty: pretrain a small one on the dialogues"),
  vocabSize: hyperInt(1024, "of the tokenizer, when starting from scratch", { min: 260 }),
  dim: hyperInt(96, "width of the small model", { min: 2 }),
  layers: hyperInt(4, "its blocks", { min: 1 }),
  heads: hyperInt(4, "its attention heads", { min: 1 }),
  contextLength: hyperInt(512, "tokens it can attend over", { min: 64 }),
  pretrainSteps: hyperInt(200, "optimiser steps of pretraining, 16 sequences of 256 tokens each", { min: 1 }),
  sftEpochs: hyper(1, "passes of SFT over the demonstrations", { min: 0 }),
  sftLearningRate: hyper(5e-4, "peak learning rate of SFT; the paper's 2e-5 is for 7B and more", { min: 0 }),
  rewardEpochs: hyper(1, "passes over the pairs; more overfits", { min: 0 }),
  rewardLearningRate: hyper(3e-4, "peak learning rate of the reward models; the paper's 1e-5 is for 7B and more", { min: 0 }),
  prompts: hyperInt(48, "prompts that are sampled", { min: 1 }),
  k: hyperInt(8, "completions a prompt", { min: 1 }),
  maxNewTokens: hyperInt(64, "tokens a completion", { min: 1 })
}

const RecipeParams = Schema.Struct(recipeParams)

/** Nodes from the pairs to a tuned policy, reward models and their evaluation. */
export const preferenceRecipe = (pairs: Node<Dataset<Preference>>, params: typeof RecipeParams.Type) => {
  const scratch = (): Node<Checkpoint<"policy">> => {
    const texts = preferenceTexts({ preferences: pairs })
    const { vocabSize, dim, layers, heads, contextLength, pretrainSteps: steps } = params
    const ffn = Math.ceil((dim * 8) / 3 / 16) * 16
    return pretrain(
      { tokenizer: tokenizer({ texts }, { vocabSize }), texts },
      {
        dim,
        layers,
        heads,
        kvHeads: heads,
        ffn,
        contextLength,
        sequenceLength: Math.min(256, contextLength),
        steps,
        learningRate: 2e-3,
        warmupSteps: Math.ceil(steps / 20)
      }
    )
  }
  const base = params.model === "" ? scratch() : importPolicy({ folder: fileAt(params.model) })

  const tuning = { sequenceLength: params.contextLength, batchSize: 16, learningRate: params.sftLearningRate }
  const chat = sft(
    { init: base, demonstrations: preferenceDemonstrations({ preferences: pairs }) },
    { ...tuning, epochs: params.sftEpochs }
  ).named("sft")

  // Two folds: the model of a fold never saw the pairs it is judged on.
  const half = (fold: number) => {
    const part = (part: "inside" | "outside", name: string) =>
      foldPreferences({ preferences: pairs }, { folds: 2, fold, part }).named(`${name}-${fold + 1}`)
    const pairsOfHalf = part("outside", "train-pairs")
    const init = sft(
      { init: base, demonstrations: preferenceDemonstrations({ preferences: pairsOfHalf }) },
      { ...tuning, epochs: params.sftEpochs }
    ).named(`sft-half-${fold + 1}`)
    const trained = safetyRewardModel(
      { init, pairs: pairsOfHalf },
      { margin: "none", batchPairs: 32, learningRate: params.rewardLearningRate, epochs: params.rewardEpochs }
    ).named(`reward-model-${fold + 1}`)
    return {
      reward: trained,
      scores: scorePairs({ reward: trained, pairs: part("inside", "held-out-pairs") }).named(`pair-scores-${fold + 1}`)
    }
  }
  const selector = half(0)
  const judge = half(1)
  const accuracy = evaluateReward({ scores: [selector.scores, judge.scores] }).named("reward-accuracy")

  const prompts = preferencePrompts({ preferences: pairs }, { count: params.prompts, safety: true }).named("prompts")
  const drawn = { k: params.k, maxNewTokens: params.maxNewTokens, temperature: 1 }
  const sampled = sample({ policy: chat, prompts }, drawn).named("samples-sft")
  const chosen = score({ completions: sampled, reward: selector.reward }).named("scores-sft")
  const judged = score({ completions: sampled, reward: judge.reward }).named("judged-sft")
  const bestOfK = evaluateBestOfN({ selector: chosen, evaluator: judged }).named("best-of-k")

  const tuned = sft(
    { init: chat, demonstrations: selectBest({ scored: [chosen] }, { unfinished: "keep" }) },
    { ...tuning, epochs: 2 }
  ).named("rejection-sampling")
  const after = score({
    completions: sample({ policy: tuned, prompts }, drawn).named("samples-rejection-sampling"),
    reward: judge.reward
  }).named("judged-rejection-sampling")

  return {
    policy: tuned,
    reward: selector.reward,
    accuracy,
    bestOfK,
    summary: summary({
      accuracy,
      bestOfK,
      before: evaluatePolicy({ scored: judged }).named("rewards-sft"),
      after: evaluatePolicy({ scored: after }).named("rewards-rejection-sampling")
    })
  }
}
