/** What hh-rlhf.ts does, on generated pairs: needs no data, no model and no GPU, and ends within two minutes. */
import * as Schema from "effect/Schema"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import { worldPreferences } from "../stages/world/data.ts"
import { preferenceRecipe, recipeParams } from "./preference-recipe.ts"

const Params = Schema.Struct({
  ...recipeParams,
  pairs: hyperInt(1200, "preference pairs of the generated world", { min: 100 }),
  vocabSize: hyperInt(512, "of the tokenizer", { min: 260 }),
  dim: hyperInt(96, "width of the small model", { min: 2 }),
  layers: hyperInt(3, "its blocks", { min: 1 }),
  contextLength: hyperInt(256, "tokens it can attend over", { min: 64 }),
  pretrainSteps: hyperInt(120, "optimiser steps of pretraining", { min: 1 }),
  sftLearningRate: hyper(1e-3, "peak learning rate of SFT", { min: 0 }),
  rewardLearningRate: hyper(1e-3, "peak learning rate of the reward models", { min: 0 }),
  maxNewTokens: hyperInt(48, "tokens a completion", { min: 1 })
})

export default Pipeline.make(
  "preference-demo",
  { description: "SFT, reward models and rejection sampling on a generated world", params: Params },
  (params) => preferenceRecipe(worldPreferences({}, { pairs: params.pairs }).named("pairs"), params)
)
