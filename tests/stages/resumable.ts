/** Every stage that computes with tensors, on small inputs, with several steps each, for tests of resuming. */
import { saveCheckpoint } from "../../models/checkpoint.ts"
import { llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { saveTokenizer } from "../../models/tokenizer/files.ts"
import { writeReport } from "../../data/dataset.ts"
import type { AnyStage } from "../../runtime/define/stage.ts"
import { GeneralReward, HelpfulnessReward, SafetyReward } from "../../schemas/checkpoint.ts"
import {
  type Completion,
  Completions,
  type Demonstration,
  Demonstrations,
  type Preference,
  Preferences,
  Prompts,
  Texts
} from "../../schemas/rows.ts"
import { TokenizerModel } from "../../schemas/tokenizer.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { evaluateClassifier } from "../../stages/safety/evaluate-classifier.ts"
import { safetyRecall, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { evaluateGhostAttention } from "../../stages/ghost-attention/evaluate.ts"
import { evaluateWorldGhostAttention } from "../../stages/world/ghost-attention.ts"
import { type GhostDialogue, GhostDialogues } from "../../stages/ghost-attention/instructions.ts"
import { ghostLists } from "../../stages/ghost-attention/lists.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { grpo } from "../../stages/critic-free/grpo.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { factRecall, FactQuestions } from "../../stages/evaluation/fact-recall.ts"
import { policyKl } from "../../stages/evaluation/policy-kl.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { classifyCompletions, classifyPrompts } from "../../stages/safety/classify.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { score } from "../../stages/reward/score.ts"
import { sft } from "../../stages/training/sft.ts"
import { sampleAtTemperature, sweepOf, TemperatureSweepReport } from "../../stages/rejection-sampling/temperature-sweep.ts"
import { artifact, type Inputs, rowsArtifact, runStage } from "./running.ts"
import { ask, scored } from "./samples.ts"
import { talkingPolicy, tokenizer } from "./talking.ts"
import { sharpen } from "../models/tensors.ts"

export interface Resumable {
  readonly name: string
  readonly stage: AnyStage
  readonly inputs: Inputs
  readonly config: Record<string, unknown>
}

const texts = ["ab", "ba ab", "abab b", "b", "a ba", "aab", "bb a"]
const prompts = texts.map((text, i) => ask(`p${i}`, text, { safety: i % 3 === 2, category: i % 3 === 2 ? "illicit" : null }))
const demonstrations = texts.map((text, i): Demonstration => ({
  id: `d${i}`,
  messages: [
    { role: "user", content: text },
    { role: "assistant", content: "ba ".repeat(i + 1).trim() }
  ],
  loss: "answers"
}))
const pairs = texts.map((text, i): Preference => ({
  id: `q${i}`,
  prompt: [{ role: "user", content: text }],
  chosen: "ab ".repeat(i + 1).trim(),
  rejected: "b ba",
  rating: i % 4,
  chosenSafe: true,
  rejectedSafe: i % 2 === 0,
  source: "test"
}))
const completions = prompts.flatMap((prompt) =>
  ["a", "ab b"].map((text, sample): Completion => ({
    promptId: prompt.id,
    prompt: prompt.messages,
    safety: prompt.safety,
    sample,
    text,
    tokens: [5, 6],
    logProbabilities: [-1, -2],
    finished: true,
    temperature: 1,
    policy: "p"
  }))
)
const dialogues = [0, 1].map((i): GhostDialogue => ({
  id: `g${i}`,
  instruction: "bab",
  trainedInstruction: "bb",
  questions: ["a", "b"],
  mustContain: ["b"]
}))
/** Prompts of the small world, whose instruction its oracle knows. */
const worldDialogues = dialogues.map(({ id }, i): GhostDialogue => ({
  id,
  instruction: "Start each answer with Yo.",
  trainedInstruction: "Start: Yo.",
  questions: [`Spell ${["cat", "dog"][i]}.`, "Spell hen."],
  mustContain: []
}))

/** A scalar model with clearly different scores. */
const scalarModel = (seed: number) => {
  const backbone = initLlama(
    llamaConfig({ vocabSize: tokenizer.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 160 }),
    { seed }
  )
  return sharpen(initRewardModel(backbone, { seed }), 8)
}

/** Short, so that it fits in the small context. */
const task = { prompt: "P?", response: "R?", listed: false }

export const resumables = async (): Promise<ReadonlyArray<Resumable>> => {
  const [policy, second] = [await talkingPolicy(1), await talkingPolicy(2)]
  // It has learnt to end its answers, so dialogues continue.
  const answering = await talkingPolicy(6, [
    [
      { role: "user", content: "bab a" },
      { role: "assistant", content: "b" }
    ]
  ])
  const spelling = await talkingPolicy(2, [
    ["cat", "dog"].flatMap((word, i) => [
      { role: "user" as const, content: `${i === 0 ? "Start each answer with Yo. " : ""}Spell ${word}.` },
      { role: "assistant" as const, content: i === 0 ? "Yo! b." : "b." }
    ])
  ])
  const listing = await talkingPolicy(5, [
    [
      { role: "user", content: "ab" },
      { role: "assistant", content: "abab" }
    ]
  ])
  const helpfulness = await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: scalarModel(3), tokenizer }))
  const safety = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: scalarModel(4), tokenizer }))
  const general = await artifact(GeneralReward, (slot) => saveCheckpoint(slot, { model: scalarModel(5), tokenizer }))
  const given = {
    prompts: await rowsArtifact(Prompts, prompts),
    demonstrations: await rowsArtifact(Demonstrations, demonstrations),
    pairs: await rowsArtifact(Preferences, pairs),
    completions: await rowsArtifact(Completions, completions),
    dialogues: await rowsArtifact(GhostDialogues, dialogues),
    worldDialogues: await rowsArtifact(GhostDialogues, worldDialogues),
    texts: await rowsArtifact(
      Texts,
      texts.map((text) => ({ text: text.repeat(8) }))
    ),
    questions: await rowsArtifact(
      FactQuestions,
      ["a", "b", "ab"].map((question) => ({ question, answer: "b", others: ["a", "ba"] }))
    ),
    tokenizer: await artifact(TokenizerModel, (slot) => saveTokenizer(slot, tokenizer)),
    sweep: await artifact(TemperatureSweepReport, (slot) =>
      writeReport(slot, sweepOf([scored("a", 0, 1, { temperature: 1.1 })], { k: 1, n: 1, unfinished: "drop", seed: 1 }))
    )
  }
  const examples = await runStage(safetyClassifierData, { prompts: [given.prompts], preferences: [given.pairs] }, { task })
  const classifierConfig = { batchSize: 3, microBatchSize: 2, learningRate: 1e-2, sequenceLength: 150 }
  const classifier = await runStage(safetyClassifier, { init: policy, examples }, classifierConfig)

  const training = { learningRate: 1e-2, microBatchSize: 1, steps: 4, batchSize: 2, sequenceLength: 60 }
  const rewardTraining = { learningRate: 1e-2, batchPairs: 2, microBatchPairs: 1 }
  const fresh = { dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, contextLength: 32, sequenceLength: 16, warmupSteps: 1 }
  const sampling = { maxNewTokens: 6, batchSize: 4 }
  const updates = {
    ...{ iterations: 3, batchSize: 4, miniBatchSize: 2, microBatchSize: 1, maxNewTokens: 5, evaluateEvery: 2, noEos: "penalty" },
    ...{ learningRate: 1e-2, valueLearningRate: 1e-2, klControl: "adaptive", klTarget: 0.1, klHorizon: 10 }
  }
  const inGroups = {
    ...{ iterations: 3, batchSize: 6, groupSize: 2, miniBatchSize: 3, microBatchSize: 1, maxNewTokens: 5, evaluateEvery: 2 },
    ...{ learningRate: 1e-2, beta: 0.1 }
  }
  const directly = { ...rewardTraining, warmupSteps: 1 }
  const rewards = { policy, helpfulness, safety, prompts: given.prompts }
  const byLora = { ...rewardTraining, loraRank: 2 }
  const rewardsByLora = {
    helpfulness: await runStage(helpfulnessRewardModel, { init: policy, pairs: given.pairs }, byLora),
    safety: await runStage(safetyRewardModel, { init: policy, pairs: given.pairs }, byLora)
  }
  const judging = { task, batchSize: 3, threshold: 0.3 }
  const cases: ReadonlyArray<readonly [stage: AnyStage, inputs: Inputs, config: Record<string, unknown>, name?: string]> = [
    [sft, { init: policy, demonstrations: given.demonstrations }, training],
    [sft, { init: policy, demonstrations: given.demonstrations }, { ...training, precision: "bfloat16" }, "sft in bfloat16"],
    [
      sft,
      { init: policy, demonstrations: given.demonstrations },
      { ...training, loraRank: 2, heldOut: 0.3, evaluateEvery: 1, patience: 9 },
      "sft by LoRA"
    ],
    [
      sft,
      { init: policy, demonstrations: given.demonstrations },
      { ...training, loraRank: 3, loraTargets: "q_proj,v_proj", precision: "bfloat16" },
      "sft by LoRA in bfloat16"
    ],
    [pretrain, { tokenizer: given.tokenizer, texts: given.texts }, { ...fresh, batchSize: 4, microBatchSize: 2, steps: 4 }],
    [
      pretrain,
      { tokenizer: given.tokenizer, texts: given.texts },
      { ...fresh, batchSize: 4, steps: 3, tiedEmbeddings: true, precision: "bfloat16" },
      "pretrain in bfloat16 with tied embeddings"
    ],
    [helpfulnessRewardModel, { init: policy, pairs: given.pairs }, rewardTraining],
    [
      helpfulnessRewardModel,
      { init: policy, pairs: given.pairs },
      { ...rewardTraining, precision: "bfloat16" },
      "helpfulness-reward-model in bfloat16"
    ],
    [
      helpfulnessRewardModel,
      { init: policy, pairs: given.pairs },
      { ...rewardTraining, loraRank: 2, heldOut: 0.2, evaluateEvery: 1, patience: 9 },
      "helpfulness-reward-model by LoRA"
    ],
    [safetyRewardModel, { init: policy, pairs: given.pairs }, rewardTraining],
    [generalRewardModel, { init: policy, pairs: given.pairs }, rewardTraining],
    [safetyClassifier, { init: policy, examples }, classifierConfig],
    [safetyClassifier, { init: policy, examples }, { ...classifierConfig, loraRank: 2 }, "safety-classifier by LoRA"],
    // A rate at which the held-out loss rises: it stops early, with earlier weights.
    [
      sft,
      { init: policy, demonstrations: given.demonstrations },
      { ...training, learningRate: 1, steps: 9, heldOut: 0.3, evaluateEvery: 1, patience: 3 },
      "sft that stops early"
    ],
    [
      helpfulnessRewardModel,
      { init: policy, pairs: given.pairs },
      { ...rewardTraining, precision: "bfloat16", learningRate: 0.1, epochs: 3, heldOut: 0.3, evaluateEvery: 1, patience: 2 },
      "helpfulness-reward-model with held-out pairs"
    ],
    [
      pretrain,
      { tokenizer: given.tokenizer, texts: given.texts },
      { ...fresh, batchSize: 4, steps: 4, heldOut: 0.3, evaluateEvery: 2 },
      "pretrain with held-out texts"
    ],
    [ppo, rewards, updates],
    [ppo, { ...rewards, heldOut: given.prompts }, { ...updates, patience: 9 }, "ppo with held-out prompts"],
    // A rate at which the policy gets worse: it stops early, with an earlier one.
    [ppo, { ...rewards, heldOut: given.prompts }, { ...updates, evaluateEvery: 1, iterations: 9, patience: 2 }, "ppo that stops early"],
    [ppo, { ...rewards, heldOut: given.prompts }, { ...updates, precision: "bfloat16" }, "ppo in bfloat16"],
    [
      ppo,
      { ...rewards, ...rewardsByLora, base: policy, heldOut: given.prompts },
      { ...updates, evaluateEvery: 1, patience: 9, loraRank: 2 },
      "ppo by LoRA, on the base of the reward models"
    ],
    [
      ppo,
      { ...rewards, policy: second, heldOut: given.prompts },
      { ...updates, patience: 9, loraRank: 3, loraTargets: "q_proj,v_proj", precision: "bfloat16", valueInit: "policy" },
      "ppo by LoRA in bfloat16"
    ],
    [rloo, { ...rewards, heldOut: given.prompts }, { ...inGroups, patience: 9 }],
    [rloo, { ...rewards, ...rewardsByLora, base: policy }, { ...inGroups, loraRank: 2 }, "rloo by LoRA, on the base of the reward models"],
    [grpo, rewards, { ...inGroups, precision: "bfloat16", oldLogProbabilities: "recomputed" }, "grpo in bfloat16"],
    [grpo, { ...rewards, heldOut: given.prompts }, { ...inGroups, loraRank: 3, patience: 9 }, "grpo by LoRA"],
    [dpo, { policy, pairs: given.pairs }, { ...directly, heldOut: 0.2, evaluateEvery: 1, patience: 9 }],
    [dpo, { policy, pairs: given.pairs }, { ...directly, loraRank: 2, precision: "bfloat16" }, "dpo by LoRA in bfloat16"],
    [sample, { policy, prompts: given.prompts }, { ...sampling, k: 2 }],
    [sample, { policy, prompts: given.prompts }, { ...sampling, k: 2, precision: "bfloat16", topK: 20 }, "sample in bfloat16"],
    [sampleAtTemperature, { policy, prompts: given.prompts, sweep: given.sweep }, { ...sampling, k: 2 }],
    // Almost zero temperature: some pairs are equal and sampled again.
    [collectPairs, { first: policy, second, prompts: given.prompts }, { ...sampling, temperatureFirst: 0.5 }],
    [ghostSample, { policy: answering, dialogues: given.dialogues }, { ...sampling, batchSize: 1 }],
    [evaluateGhostAttention, { policy: answering, dialogues: given.dialogues }, { ...sampling, batchSize: 1 }],
    [evaluateWorldGhostAttention, { policy: spelling, dialogues: given.worldDialogues }, { ...sampling, maxNewTokens: 16, batchSize: 1 }],
    [
      ghostLists,
      { policy: listing },
      {
        ...{ temperature: 0.7, samples: 4, maxNewTokens: 12, batchSize: 1, least: 1 },
        questions: [{ kind: "letter", ask: "ab", full: "Like {item}.", short: "{item}" }]
      }
    ],
    [factRecall, { policy, questions: given.questions, texts: given.texts }, { batchSize: 3 }],
    [score, { completions: given.completions, reward: helpfulness }, { batchSize: 4 }],
    [score, { completions: given.completions, reward: general }, { batchSize: 4, precision: "bfloat16" }, "score in bfloat16"],
    [scoreCombined, { completions: given.completions, helpfulness, safety }, { batchSize: 5 }],
    [policyKl, { completions: given.completions, reference: second }, { batchSize: 4 }],
    [scorePairs, { reward: helpfulness, pairs: given.pairs }, { batchPairs: 2 }],
    [safetyRecall, { reward: safety, pairs: given.pairs }, { batchSize: 4 }],
    [classifyPrompts, { classifier, prompts: given.prompts }, judging],
    [classifyCompletions, { classifier, completions: given.completions }, judging],
    [evaluateClassifier, { classifier, prompts: [given.prompts], preferences: [given.pairs] }, { ...judging, batchSize: 5 }]
  ]
  return cases.map(([stage, inputs, config, name]) => ({ name: name ?? stage.stage.name, stage, inputs, config }))
}
