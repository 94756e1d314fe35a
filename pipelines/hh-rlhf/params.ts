/** Sizes and choices of pipelines/hh-rlhf.ts. */
import * as Schema from "effect/Schema"
import { hyper, hyperInt } from "../../schemas/hyper.ts"

export const Params = Schema.Struct({
  data: Schema.String.annotate({ description: "preference pairs: JSONL, JSONL.gz or Parquet with fields chosen and rejected" }),
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
})
export type Params = typeof Params.Type
