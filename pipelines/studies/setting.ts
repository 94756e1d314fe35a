/**
 * What the studies share: a small Llama that is pretrained on the generated world and tuned on its demonstrations (or a Llama of the user's), and
 * preference pairs of its answers beside those of a variant, judged by the world's oracle (or pairs from a file of the user's).
 */
import * as Schema from "effect/Schema"
import { fileAt, type Node } from "../../runtime/define/node.ts"
import type { Checkpoint, Dataset } from "../../schemas/artifact.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { Demonstration, Preference, Prompt } from "../../schemas/rows.ts"
import { annotateByOracle } from "../../stages/world/annotate.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { foldPreferences } from "../../stages/data/derive.ts"
import { evaluateReward, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { oracleGrades } from "../../stages/world/oracle-grades.ts"
import { filterDemonstrations } from "../../stages/data/filter-demonstrations.ts"
import { importPolicy, importPreferences } from "../../stages/data/import.ts"
import { mixPrompts } from "../../stages/data/mix.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { sft } from "../../stages/training/sft.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import { worldDemonstrations, worldPrompts, worldTexts } from "../../stages/world/data.ts"

type Policy = Node<Checkpoint<"policy">>
type Rows<Row> = Node<Dataset<Row>>
type Kind = "helpfulness" | "safety"
export interface Rewards {
  readonly helpfulness: Node<Checkpoint<"helpfulness-reward">>
  readonly safety: Node<Checkpoint<"safety-reward">>
}

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

const SettingParams = Schema.Struct(settingParams)

export const setting = (params: typeof SettingParams.Type) => {
  const { inferenceBatch, maxNewTokens, precision } = params
  const sampling = { maxNewTokens, batchSize: inferenceBatch, precision }
  const scoring = { batchSize: inferenceBatch, precision }

  const texts = worldTexts({}, { count: params.texts }).named("texts")
  const pieces = tokenizer(
    { texts: worldTexts({}, { count: Math.min(1500, params.texts) }).named("tokenizer-texts") },
    { vocabSize: params.vocabSize }
  )
  /** A model from scratch, of any size. */
  const scratch = (dim: number, layers: number, name: string): Policy =>
    pretrain(
      { tokenizer: pieces, texts },
      {
        ...{
          dim,
          layers,
          heads: 4,
          kvHeads: 4,
          ffn: Math.ceil((dim * 8) / 3 / 16) * 16,
          contextLength: 384,
          sequenceLength: 128,
          precision
        },
        ...{
          steps: params.pretrainSteps,
          batchSize: 8,
          microBatchSize: 8,
          learningRate: 3e-3,
          warmupSteps: Math.ceil(params.pretrainSteps / 25)
        }
      }
    ).named(name)
  const base =
    params.model === "" ? scratch(params.dim, params.layers, "base") : importPolicy({ folder: fileAt(params.model) }).named("base")
  const tune = (init: Policy, data: Rows<Demonstration>, name: string): Policy =>
    sft(
      { init, demonstrations: data },
      { epochs: params.epochs, learningRate: params.learningRate, batchSize: 6, microBatchSize: 6, sequenceLength: 256, precision }
    ).named(name)
  const demonstrations = worldDemonstrations({}, { count: params.demonstrations }).named("demonstrations")
  const chat = tune(base, demonstrations, "sft")
  /** §3.2.1 compares the answers of two variants: this one knows as many dialogues, of careless public data, as SFT's first step does. */
  const variant = tune(
    base,
    filterDemonstrations({
      demonstrations: worldDemonstrations({}, { count: params.demonstrations, quality: "public" }).named("public-dialogues")
    }),
    "sft-bootstrap"
  )

  // ---- prompts and pairs ----
  const promptsOf = (kind: Kind | "adversarial", split: "train" | "heldOut", count: number, name: string, seed: number): Rows<Prompt> =>
    worldPrompts({}, { kind, split, count, seed }).named(`${name}-${kind}`)
  const heldOut = mixPrompts(
    {
      datasets: [
        promptsOf("helpfulness", "heldOut", params.heldOut, "held-out", 3),
        promptsOf("safety", "heldOut", params.heldOut, "held-out", 3)
      ]
    },
    { weights: [1, 1] }
  ).named("held-out")
  /** An answer of the chat model and one of its variant to each prompt, at two temperatures, judged by the oracle. */
  const collected = (kind: Kind, prompts: Rows<Prompt>, name: string): Rows<Preference> =>
    annotateByOracle(
      {
        pairs: collectPairs({ first: chat, second: variant, prompts }, { ...sampling, temperatureFirst: 1, temperatureSecond: 1.3 }).named(
          `${name}-pairs`
        )
      },
      { kind, noise: params.noise }
    ).named(name)
  const world = (kind: Kind) => ({
    train: collected(kind, promptsOf(kind, "train", params.pairs, "pair-prompts", 1), `${kind}-train`),
    test: collected(kind, promptsOf(kind, "heldOut", params.heldOut, "test-prompts", 4), `${kind}-test`)
  })
  /** Pairs to train on, and held-out ones: of the world, or of the user's file, a tenth of whose dialogues are held out. */
  const pairsOf = (kind: Kind): { readonly train: Rows<Preference>; readonly test: Rows<Preference> } => {
    if (params.pairsFile === "") return world(kind)
    const preferences = importPreferences({ file: fileAt(params.pairsFile) }, { format: "prompt-chosen-rejected" }).named("pairs")
    const part = (part: "inside" | "outside", name: string) => foldPreferences({ preferences }, { folds: 10, fold: 0, part }).named(name)
    return { train: part("outside", "train"), test: part("inside", "test") }
  }

  // ---- reward models, and versions judged by them and by the oracle ----
  const rewardTraining = {
    ...{ learningRate: params.rewardLearningRate, batchPairs: params.rewardBatch, microBatchPairs: params.rewardBatch, precision }
  }
  /** On held-out pairs, by rating. */
  const accuracy = (reward: Rewards["helpfulness"] | Rewards["safety"], pairs: Rows<Preference>, name: string) =>
    evaluateReward({ scores: [scorePairs({ reward, pairs }, { batchPairs: inferenceBatch, precision }).named(`${name}-scores`)] }).named(
      name
    )
  const rewards = (): Rewards => ({
    helpfulness: helpfulnessRewardModel({ init: chat, pairs: world("helpfulness").train }, rewardTraining).named("helpfulness-reward"),
    safety: safetyRewardModel({ init: chat, pairs: world("safety").train }, rewardTraining).named("safety-reward")
  })
  const judged = (policy: Policy, models: Rewards, name: string) => {
    const completions = sample({ policy, prompts: heldOut }, { ...sampling, k: 1, temperature: 1 }).named(`answers-${name}`)
    return {
      graded: oracleGrades({ completions, prompts: heldOut }).named(`grades-${name}`),
      scored: scoreCombined({ completions, ...models }, scoring).named(`scores-${name}`)
    }
  }
  return { base, chat, scratch, tune, demonstrations, promptsOf, pairsOf, rewardTraining, accuracy, rewards, judged, sampling, scoring }
}
