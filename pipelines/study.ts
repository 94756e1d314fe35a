/** The whole recipe on the small world (world/recipe.ts) at ten million parameters, on a GPU: `npm run study`. Start from a Llama of your own with model. */
import * as Schema from "effect/Schema"
import { fileAt } from "../runtime/define/node.ts"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import { importPolicy } from "../stages/data/import.ts"
import { worldParams } from "./world/params.ts"
import { worldRecipe } from "./world/recipe.ts"

/** The world's parameters at this size. */
export const studyParams = {
  ...worldParams,
  multiTurn: hyper(0.25, "share of a round's helpfulness dialogues that go on in the next round's pairs (§3.2.1, A.3.1)", {
    min: 0,
    max: 1
  }),
  temperatures: hyper("fixed", "rejection sampling's from the second round on (§3.2.3)", ["fixed", "swept"]),
  dim: hyperInt(320, "width of the model", { min: 2 }),
  layers: hyperInt(8, "its blocks", { min: 1 }),
  heads: hyperInt(8, "its attention heads", { min: 1 }),
  sequenceLength: hyperInt(256, "tokens a sequence of pretraining; twice as many when fine-tuning", { min: 128 }),
  texts: hyperInt(60_000, "dialogues to pretrain on", { min: 100 }),
  pretrainSteps: hyperInt(2000, "optimiser steps of pretraining", { min: 1 }),
  pretrainBatch: hyperInt(32, "sequences a step of pretraining", { min: 1 }),
  pretrainLearningRate: hyper(1.5e-3, "its peak learning rate", { min: 0 }),
  bootstrap: hyperInt(600, "careless public dialogues of SFT's first step", { min: 1 }),
  demonstrations: hyperInt(1500, "annotated dialogues of SFT's second step", { min: 1 }),
  learningRate: hyper(5e-4, "peak, of every fine-tuning", { min: 0 }),
  sftSteps: hyperInt(40, "optimiser steps of SFT's second step; half as many of its first", { min: 2 }),
  steps: hyperInt(120, "optimiser steps of each version's fine-tuning from the base model", { min: 1 }),
  batchSize: hyperInt(12, "sequences a step of fine-tuning", { min: 1 }),
  pairs: hyperInt(4000, "helpfulness prompts a round that pairs are collected for, and as many safety prompts", { min: 10 }),
  testPairs: hyperInt(3000, "prompts of all rounds that held-out helpfulness pairs are collected for, and as many of safety pairs", {
    min: 10
  }),
  rewardLearningRate: hyper(2e-4, "peak", { min: 0 }),
  rewardBatch: hyperInt(32, "pairs a step of the reward models", { min: 1 }),
  prompts: hyperInt(2000, "helpfulness prompts that rejection sampling and PPO answer, and half as many safety prompts", { min: 2 }),
  k: hyperInt(6, "answers a prompt", { min: 1 }),
  ppoIterations: hyperInt(60, "batches of PPO", { min: 1 }),
  ppoBatch: hyperInt(256, "answers a batch", { min: 1 }),
  ppoLearningRate: hyper(3e-5, "constant", { min: 0 }),
  valueLearningRate: hyper(3e-4, "of the value model", { min: 0 }),
  dialogues: hyperInt(200, "dialogues of Ghost Attention, and as many held-out ones", { min: 4 }),
  heldOut: hyperInt(500, "held-out helpfulness prompts that versions are judged on, and as many safety prompts", { min: 10 }),
  answers: hyperInt(4, "to a held-out prompt by each version", { min: 1 }),
  inferenceBatch: hyperInt(512, "sequences decoded or scored at once", { min: 1 })
}

const Params = Schema.Struct({
  ...studyParams,
  model: hyper("", "a Llama in the Hugging Face layout to start from; empty: pretrain one on the world")
})

export default Pipeline.make(
  "study",
  { description: "the whole recipe on the small world at ten million parameters, on a GPU", params: Params },
  ({ model, ...params }) => worldRecipe(params, model === "" ? undefined : importPolicy({ folder: fileAt(model) }))
)
