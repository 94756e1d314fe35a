/**
 * The common setting of the studies: a small Llama pretrained on the generated world and tuned on its demonstrations (or the user's Llama), and
 * preference pairs of its answers and those of a variant, judged by the world's oracle (or pairs from the user's file).
 */
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { Demonstration, Preference, Prompt } from "../../schemas/rows.ts"
import { foldPreferences } from "../../stages/data/derive.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { evaluateReward, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { sft } from "../../stages/training/sft.ts"
import { compareVersions } from "../../stages/world/compare-versions.ts"
import { evaluateVersion } from "../../stages/world/evaluate-version.ts"
import { oracleGrades } from "../../stages/world/oracle-grades.ts"
import { worldDemonstrations, worldTexts } from "../../stages/world/data.ts"
import type { HelpfulnessReward, Kind, Policy, Rewards, Rows, SafetyReward } from "../nodes.ts"
import { pretrained, publicDialogues, worldTokenizer } from "../world/base-and-sft.ts"
import { checkSizes, ownPairs, samplingOf, scoringOf } from "../world/params.ts"
import { judgedPairs } from "../world/preferences.ts"
import { promptsOf, promptsOfBoth } from "../world/prompts.ts"

export const settingParams = {
  model: hyper("", "folder of a Llama in the Hugging Face layout to start from; empty: pretrain a small one on the small world"),
  pairsFile: hyper("", "file of preference pairs with ratings (JSONL of prompt, chosen, rejected, rating); empty: generated pairs"),
  dim: hyperInt(96, "width of the small model", { min: 2 }),
  layers: hyperInt(3, "number of its transformer blocks", { min: 1 }),
  vocabSize: hyperInt(600, "size of its tokenizer's vocabulary", { min: 260 }),
  texts: hyperInt(8000, "number of dialogues for pretraining", { min: 100 }),
  pretrainSteps: hyperInt(1200, "number of optimiser steps of pretraining, with 8 sequences of 128 tokens each", { min: 1 }),
  demonstrations: hyperInt(400, "number of annotated dialogues for SFT", { min: 1 }),
  learningRate: hyper(1e-3, "peak learning rate of every fine-tuning; the paper's 2e-5 is for 7B and larger", { min: 0 }),
  epochs: hyper(2, "number of passes of every fine-tuning over its data; §3.1: 2", { min: 0 }),
  pairs: hyperInt(1500, "number of prompts of each kind for which pairs are collected", { min: 10 }),
  noise: hyper(0.06, "noise of the annotators: the probability of a wrong choice is exp(-difference / noise) / 2", { min: 0 }),
  rewardLearningRate: hyper(1e-3, "peak learning rate of the reward models; the paper's 1e-5 is for 7B and larger", { min: 0 }),
  rewardBatch: hyperInt(16, "pairs per optimiser step of the reward models", { min: 1 }),
  heldOut: hyperInt(250, "number of held-out prompts of each kind for evaluation", { min: 10 }),
  maxNewTokens: hyperInt(40, "maximum number of tokens per answer", { min: 1 }),
  inferenceBatch: hyperInt(64, "number of sequences decoded or scored in parallel", { min: 1 }),
  precision: hyper("float32", "dtype of every model's weights and activations", ["float32", "bfloat16"])
}

/** Context length of the studies' models, in tokens. */
const contextLength = 384

const SettingParams = Schema.Struct(settingParams)
type SettingParams = typeof SettingParams.Type

/** A base model, a chat model tuned from it, and a variant of the chat model. */
const models = (params: SettingParams) => {
  const { learningRate, precision, pretrainSteps } = params
  const inputs = { tokenizer: worldTokenizer(params), texts: worldTexts({}, { count: params.texts }).named("texts") }
  const sizes = {
    heads: 4,
    contextLength,
    sequenceLength: 128,
    pretrainSteps,
    pretrainBatch: 8,
    pretrainLearningRate: 3e-3,
    precision
  }
  /** A model from scratch, of any size. */
  const scratch = (dim: number, layers: number, name: string): Policy => pretrained(inputs, { ...sizes, dim, layers }, name)
  const base =
    params.model === "" ? scratch(params.dim, params.layers, "base") : importPolicy({ folder: fileAt(params.model) }).named("base")
  const tune = (init: Policy, data: Rows<Demonstration>, name: string): Policy =>
    sft(
      { init, demonstrations: data },
      { epochs: params.epochs, learningRate, batchSize: 6, microBatchSize: 6, sequenceLength: 256, precision }
    ).named(name)
  const demonstrations = worldDemonstrations({}, { count: params.demonstrations }).named("demonstrations")
  const chat = tune(base, demonstrations, "sft")
  /** §3.2.1 compares the answers of two variants: this one is trained on the same number of dialogues, but of careless public data, as in SFT's first step. */
  const variant = tune(base, publicDialogues(params.demonstrations), "sft-bootstrap")
  return { scratch, base, tune, demonstrations, chat, variant }
}

/** Pairs to train on, and held-out ones: generated, or from the user's file, with a tenth of the dialogues held out. */
const pairs = (params: SettingParams, { chat, variant }: { readonly chat: Policy; readonly variant: Policy }) => {
  /** One answer from the chat model and one from its variant to each prompt, at two temperatures, judged by the oracle. */
  const collected = (kind: Kind, prompts: Rows<Prompt>, name: string): Rows<Preference> =>
    judgedPairs({ first: chat, second: variant, prompts }, kind, params, { pairs: `${name}-pairs`, preferences: name }).preferences
  const world = (kind: Kind) => ({
    train: collected(kind, promptsOf(kind, "train", params.pairs, "pair-prompts", 1), `${kind}-train`),
    test: collected(kind, promptsOf(kind, "heldOut", params.heldOut, "test-prompts", 4), `${kind}-test`)
  })
  const pairsOf = (kind: Kind): { readonly train: Rows<Preference>; readonly test: Rows<Preference> } => {
    if (params.pairsFile === "") return world(kind)
    return tenths(importPreferences({ file: fileAt(params.pairsFile) }, { shape: "prompt-chosen-rejected" }).named("pairs"))
  }
  return { world, pairsOf }
}

/** Holds out a tenth of the dialogues. */
export const tenths = (preferences: Rows<Preference>, prefix = "") => {
  const part = (part: "inside" | "outside", name: string) =>
    foldPreferences({ preferences }, { folds: 10, fold: 0, part }).named(`${prefix}${name}`)
  return { train: part("outside", "train"), test: part("inside", "test") }
}

export const setting = (params: SettingParams) => {
  checkSizes({ contextLength, maxNewTokens: params.maxNewTokens }, params.model === "")
  const found = models(params)
  const { pairsOf, world } = pairs(params, found)
  const [sampling, scoring] = [samplingOf(params), scoringOf(params)]
  const heldOut = promptsOfBoth("held-out", "heldOut", [params.heldOut, params.heldOut], 3)
  const { precision, rewardBatch, rewardLearningRate: learningRate } = params
  /** Pairs from a user's file have the usual limit of skipped rows. */
  const pairLimits: { readonly skipped?: number } = params.pairsFile === "" ? ownPairs : {}
  const rewardTraining = { learningRate, batchPairs: rewardBatch, microBatchPairs: rewardBatch, precision }
  /** Accuracy on held-out pairs, by rating. */
  const accuracy = (reward: HelpfulnessReward | SafetyReward, test: Rows<Preference>, name: string, limits = pairLimits) => {
    const judging = { batchPairs: params.inferenceBatch, precision }
    return evaluateReward({ scores: [scorePairs({ reward, pairs: test }, judging).named(`${name}-scores`).limited(limits)] }).named(name)
  }
  const rewards = (): Rewards => ({
    helpfulness: helpfulnessRewardModel({ init: found.chat, pairs: world("helpfulness").train }, rewardTraining)
      .named("helpfulness-reward")
      .limited(ownPairs),
    safety: safetyRewardModel({ init: found.chat, pairs: world("safety").train }, rewardTraining)
      .named("safety-reward")
      .limited(ownPairs)
  })
  /** Evaluation with the oracle and with reward models. */
  const judged = (policy: Policy, models: Rewards, name: string) => {
    const completions = sample({ policy, prompts: heldOut }, { ...sampling, k: 1, temperature: 1 }).named(`answers-${name}`)
    return {
      graded: oracleGrades({ completions, prompts: heldOut }).named(`grades-${name}`),
      scored: scoreCombined({ completions, ...models }, scoring).named(`scores-${name}`)
    }
  }
  return { ...found, pairsOf, pairLimits, rewardTraining, accuracy, rewards, judged, sampling, scoring }
}

type Judged = ReturnType<ReturnType<typeof setting>["judged"]>

/** An evaluation of each version, and the gain of the last over the others. */
export const evaluated = (versions: ReadonlyArray<Judged & { readonly name: string }>) => {
  const names = versions.map(({ name }) => name)
  return {
    ...Object.fromEntries(
      versions.map(({ name, graded, scored }) => [name, evaluateVersion({ graded, scored }, { name }).named(`evaluation-${name}`)])
    ),
    gain: compareVersions({ versions: versions.map(({ graded }) => graded) }, { names, version: names.at(-1)! })
  }
}
