/**
 * What the studies share: a small Llama that is pretrained on the generated world and tuned on its demonstrations (or a Llama of the user's), and
 * preference pairs of its answers beside those of a variant, judged by the world's oracle (or pairs from a file of the user's).
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
import { oracleGrades } from "../../stages/world/oracle-grades.ts"
import { worldDemonstrations, worldTexts } from "../../stages/world/data.ts"
import type { HelpfulnessReward, Kind, Policy, Rewards, Rows, SafetyReward } from "../nodes.ts"
import { pretrained, publicDialogues, worldTokenizer } from "../world/base-and-sft.ts"
import { checkSizes, ownPairs, samplingOf, scoringOf } from "../world/params.ts"
import { judgedPairs } from "../world/preferences.ts"
import { promptsOf, promptsOfBoth } from "../world/prompts.ts"

export const settingParams = {
  model: hyper("", "a Llama in the Hugging Face layout to start from; empty: pretrain a small one on the world"),
  pairsFile: hyper("", "preference pairs with ratings (JSONL of prompt, chosen, rejected, rating); empty: of the world"),
  dim: hyperInt(96, "width of the small model", { min: 2 }),
  layers: hyperInt(3, "its blocks", { min: 1 }),
  vocabSize: hyperInt(600, "of its tokenizer", { min: 260 }),
  texts: hyperInt(8000, "dialogues to pretrain on", { min: 100 }),
  pretrainSteps: hyperInt(1200, "optimiser steps of pretraining, 8 sequences of 128 tokens each", { min: 1 }),
  demonstrations: hyperInt(400, "annotated dialogues of SFT", { min: 1 }),
  learningRate: hyper(1e-3, "peak, of every fine-tuning; the paper's 2e-5 is for 7B and more", { min: 0 }),
  epochs: hyper(2, "passes of every fine-tuning; §3.1: 2", { min: 0 }),
  pairs: hyperInt(1500, "prompts that pairs are collected for, of each kind", { min: 10 }),
  noise: hyper(0.06, "of the annotators: the chance of a wrong choice is exp(-difference / noise) / 2", { min: 0 }),
  rewardLearningRate: hyper(1e-3, "peak; the paper's 1e-5 is for 7B and more", { min: 0 }),
  rewardBatch: hyperInt(16, "pairs a step of the reward models", { min: 1 }),
  heldOut: hyperInt(250, "held-out prompts of each kind that models are judged on", { min: 10 }),
  maxNewTokens: hyperInt(40, "tokens an answer", { min: 1 }),
  inferenceBatch: hyperInt(64, "sequences decoded or scored at once", { min: 1 }),
  precision: hyper("float32", "of every model", ["float32", "bfloat16"])
}

/** Tokens that a model of the studies can attend over. */
const contextLength = 384

const SettingParams = Schema.Struct(settingParams)
type SettingParams = typeof SettingParams.Type

/** A base model, a chat model tuned from it, and a variant of that. */
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
  /** §3.2.1 compares the answers of two variants: this one knows as many dialogues, of careless public data, as SFT's first step does. */
  const variant = tune(base, publicDialogues(params.demonstrations), "sft-bootstrap")
  return { scratch, base, tune, demonstrations, chat, variant }
}

/** Pairs to train on, and held-out ones: of the world, or of the user's file, a tenth of whose dialogues are held out. */
const pairs = (params: SettingParams, { chat, variant }: { readonly chat: Policy; readonly variant: Policy }) => {
  /** An answer of the chat model and one of its variant to each prompt, at two temperatures, judged by the oracle. */
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

/** A tenth of the dialogues is held out. */
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
  /** Pairs of a user's file are held to the usual limit. */
  const pairLimits: { readonly skipped?: number } = params.pairsFile === "" ? ownPairs : {}
  const rewardTraining = { learningRate, batchPairs: rewardBatch, microBatchPairs: rewardBatch, precision }
  /** On held-out pairs, by rating. */
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
  /** By the oracle and by reward models. */
  const judged = (policy: Policy, models: Rewards, name: string) => {
    const completions = sample({ policy, prompts: heldOut }, { ...sampling, k: 1, temperature: 1 }).named(`answers-${name}`)
    return {
      graded: oracleGrades({ completions, prompts: heldOut }).named(`grades-${name}`),
      scored: scoreCombined({ completions, ...models }, scoring).named(`scores-${name}`)
    }
  }
  return { ...found, pairsOf, pairLimits, rewardTraining, accuracy, rewards, judged, sampling, scoring }
}
