/** The whole recipe on the small world (world/recipe.ts) at ten million parameters, on a GPU: `npm run study`. Start from your own Llama with the parameter model. */
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
  multiTurn: hyper(0.25, "share of a round's helpfulness dialogues that are continued in the next round's pairs (§3.2.1, A.3.1)", {
    min: 0,
    max: 1
  }),
  temperatures: hyper(
    "fixed",
    "sampling temperatures of rejection sampling from the second round on: fixed, or the best of a sweep in the previous round (§3.2.3)",
    ["fixed", "swept"]
  ),
  dim: hyperInt(320, "width of the model", { min: 2 }),
  layers: hyperInt(8, "number of its transformer blocks", { min: 1 }),
  heads: hyperInt(5, "number of its attention heads; 320 / 5 = 64 is a head size that the GPU's decoder with CUDA graphs supports", {
    min: 1
  }),
  sequenceLength: hyperInt(256, "tokens per sequence of pretraining; twice as many in fine-tuning", { min: 128 }),
  texts: hyperInt(60_000, "number of dialogues for pretraining", { min: 100 }),
  pretrainSteps: hyperInt(2000, "number of optimiser steps of pretraining", { min: 1 }),
  pretrainBatch: hyperInt(32, "sequences per optimiser step of pretraining", { min: 1 }),
  pretrainLearningRate: hyper(1.5e-3, "peak learning rate of pretraining", { min: 0 }),
  bootstrap: hyperInt(600, "number of careless public dialogues in SFT's first step", { min: 1 }),
  demonstrations: hyperInt(1500, "number of annotated dialogues in SFT's second step", { min: 1 }),
  learningRate: hyper(5e-4, "peak learning rate of every fine-tuning", { min: 0 }),
  sftSteps: hyperInt(40, "number of optimiser steps of SFT's second step; the first step has half as many", { min: 2 }),
  steps: hyperInt(120, "number of optimiser steps of each version's fine-tuning from the base model", { min: 1 }),
  batchSize: hyperInt(12, "sequences per optimiser step of fine-tuning", { min: 1 }),
  pairs: hyperInt(4000, "helpfulness prompts per round for which pairs are collected, and the same number of safety prompts", { min: 10 }),
  testPairs: hyperInt(
    3000,
    "prompts over all rounds for which held-out helpfulness pairs are collected, and the same number of safety prompts",
    {
      min: 10
    }
  ),
  rewardLearningRate: hyper(2e-4, "peak learning rate of the reward models", { min: 0 }),
  rewardBatch: hyperInt(32, "pairs per optimiser step of the reward models", { min: 1 }),
  prompts: hyperInt(2000, "number of helpfulness prompts for rejection sampling and PPO, and half as many safety prompts", { min: 2 }),
  k: hyperInt(6, "number of answers per prompt", { min: 1 }),
  ppoIterations: hyperInt(60, "number of PPO iterations", { min: 1 }),
  ppoBatch: hyperInt(256, "answers per PPO iteration", { min: 1 }),
  ppoLearningRate: hyper(3e-5, "PPO's learning rate, constant", { min: 0 }),
  valueLearningRate: hyper(3e-4, "learning rate of the value model", { min: 0 }),
  dialogues: hyperInt(200, "number of dialogues for Ghost Attention, and the same number of held-out ones", { min: 4 }),
  heldOut: hyperInt(500, "number of held-out helpfulness prompts for evaluation, and the same number of safety prompts", { min: 10 }),
  answers: hyperInt(4, "number of answers of each version per held-out prompt", { min: 1 }),
  inferenceBatch: hyperInt(512, "number of sequences decoded or scored in parallel", { min: 1 }),
  precision: hyper("bfloat16", "dtype of every model's weights and activations; optimisers keep float32 weights", ["float32", "bfloat16"])
}

const Params = Schema.Struct({
  ...studyParams,
  model: hyper("", "folder of a Llama in the Hugging Face layout to start from; empty: pretrain one on the small world")
})

export default Pipeline.make(
  "study",
  { description: "the whole recipe on the small world at ten million parameters, on a GPU", params: Params },
  ({ model, ...params }) => worldRecipe(params, model === "" ? undefined : importPolicy({ folder: fileAt(model) }))
)
