/**
 * A first real run: a file of preference pairs in HH-RLHF's format, through tokenizer, a small pretrained Llama, SFT, reward models, best of K
 * and SFT on the best, to an evaluation (preference-recipe.ts). Start from any Llama in the Hugging Face layout with --set model=<folder>.
 */
import * as Schema from "effect/Schema"
import { fileAt } from "../runtime/define/node.ts"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { importPreferences } from "../stages/data/import.ts"
import { preferenceRecipe, recipeParams } from "./preference-recipe.ts"

const Params = Schema.Struct({
  data: Schema.String.annotate({ description: "preference pairs: JSONL, JSONL.gz or Parquet with fields chosen and rejected" }),
  ...recipeParams
})

export default Pipeline.make(
  "hh-rlhf",
  { description: "SFT, reward models and rejection sampling on preference pairs", params: Params },
  (params) => preferenceRecipe(importPreferences({ file: fileAt(params.data) }, { format: "hh-rlhf" }).named("pairs"), params)
)
