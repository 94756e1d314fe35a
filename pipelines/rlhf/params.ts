/** Sizes and choices of pipelines/rlhf.ts, and values derived from them. */
import * as Schema from "effect/Schema"
import type { Sizes } from "../../runtime/define/cost.ts"
import { PipelineError } from "../../runtime/errors.ts"
import { hyper, hyperInt, hyperSecretVariable, hyperUrl } from "../../schemas/hyper.ts"

/** Learning rates for a small model from scratch, for a large one (the paper's), and for adapters on a large one. */
const rates = {
  sft: { scratch: 5e-4, paper: 2e-5, adapter: 2e-4 },
  reward: { scratch: 3e-4, paper: 1e-5, adapter: 1e-4 },
  ppo: { scratch: 5e-5, paper: 1e-6, adapter: 1e-5 }
}
type Rates = (typeof rates)[keyof typeof rates]
const rate = (of: string, { adapter, paper, scratch }: Rates) =>
  hyper(
    0,
    `peak learning rate of ${of}; 0: the paper's ${paper} for your own model, ${adapter} with loraRank, ${scratch} for a small model from scratch`,
    { min: 0 }
  )

export const Params = Schema.Struct({
  preferences: Schema.String.annotate({
    description: "preference pairs: a file, folder or pattern, or hf:datasets/owner/name, in any shape listed in docs/data.md"
  }),
  demonstrations: hyper("", "dialogues for SFT: a file, folder or pattern; empty: the chosen answers of the training pairs"),
  prompts: hyper("", "prompts for rejection sampling and PPO: a file, folder or pattern; empty: those of the training pairs"),
  xstest: hyper(
    "",
    "XSTest's prompts as published (xstest_prompts.csv), on which refusals are counted; never used for training; empty: none"
  ),
  mtBench: hyper(
    "",
    "MT-Bench's questions as published (question.jsonl), whose answers a judge grades and compares; never used for training; empty: none"
  ),
  annotator: hyper(
    "none",
    "judge: collect pairs of the chat model's own answers, have a judge label them, and train the reward models on them too (§3.2.1)",
    ["none", "judge"]
  ),
  url: hyperUrl("judge: URL of the OpenAI-compatible endpoint, for example https://host/v1"),
  judge: hyper("", "judge: name of the model at the endpoint"),
  keyVariable: hyperSecretVariable("judge: name of the environment variable with the API key; empty: no key is sent"),
  model: hyper(
    "",
    "Llama-like model to start from, a folder in the Hugging Face layout or hf:owner/name; empty: pretrain a small one on the dialogues"
  ),
  safety: hyper(
    false,
    "whether to train a safety reward model too (§3.2.2): the pairs then need safety labels, like those of PKU-SafeRLHF"
  ),
  heldOut: hyper(0.1, "share of the pairs that is held out; their questions are removed from all training data", { min: 0.01, max: 0.5 }),
  judgeShare: hyper(
    0.4,
    "share of the training pairs used only for the judges: separate reward models that evaluate the others' choices and the models tuned to them",
    { min: 0.05, max: 0.5 }
  ),
  precision: hyper("float32", "dtype of every model's weights and activations; bfloat16 for a large model on a GPU", [
    "float32",
    "bfloat16"
  ]),
  loraRank: hyperInt(0, "rank of the LoRA adapters that are trained instead of all weights; 0: all weights are trained", { min: 0 }),
  vocabSize: hyperInt(1024, "size of the tokenizer's vocabulary when starting from scratch", { min: 260 }),
  dim: hyperInt(96, "width of the small model when starting from scratch", { min: 2 }),
  layers: hyperInt(4, "number of its transformer blocks", { min: 1 }),
  heads: hyperInt(4, "number of its attention heads", { min: 1 }),
  contextLength: hyperInt(512, "its context length in tokens", { min: 64 }),
  pretrainSteps: hyperInt(200, "number of optimiser steps of pretraining, with 16 sequences of 256 tokens each", { min: 1 }),
  sequenceLength: hyperInt(2048, "tokens per sequence of fine-tuning, at most the model's context", { min: 2 }),
  batchSize: hyperInt(16, "sequences per optimiser step of fine-tuning; §3.1: 64", { min: 1 }),
  sftEpochs: hyper(2, "number of SFT's passes over the demonstrations; §3.1: 2", { min: 0 }),
  sftLearningRate: rate("SFT and of tuning on the best answers", rates.sft),
  rewardEpochs: hyper(1, "number of the reward models' passes over the pairs; §3.2.2: 1, since more overfits", { min: 0 }),
  rewardBatch: hyperInt(32, "pairs per optimiser step of the reward models; §3.2.2: 512", { min: 1 }),
  rewardLearningRate: rate("the reward models", rates.reward),
  promptCount: hyperInt(
    200,
    "number of prompts for rejection sampling and PPO, drawn at random; a tenth of them is held out for PPO's early stopping",
    {
      min: 10
    }
  ),
  k: hyperInt(8, "number of answers per prompt, of which the best is used for tuning", { min: 1 }),
  temperature: hyper(1, "sampling temperature; §3.2.3: 1.2 to 1.3 for 10 to 100 answers of a large model", { min: 0.01 }),
  maxNewTokens: hyperInt(64, "maximum number of tokens per answer", { min: 1 }),
  tuneSteps: hyperInt(20, "number of optimiser steps on the best answers", { min: 1 }),
  ppoIterations: hyperInt(20, "number of PPO iterations; §3.2.3: 200 to 400", { min: 1 }),
  ppoBatch: hyperInt(64, "answers per PPO iteration, split into four gradient steps; §3.2.3: 512", { min: 4 }),
  ppoLearningRate: rate("PPO", rates.ppo),
  beta: hyper(0.05, "weight of PPO's KL penalty; §3.2.3: 0.01 at 7B", { min: 0 }),
  evaluationPrompts: hyperInt(100, "number of held-out prompts that every version answers, drawn at random", { min: 2 }),
  inferenceBatch: hyperInt(64, "number of sequences decoded or scored in parallel, a trade-off of memory against speed", { min: 1 }),
  pairs: hyperInt(0, "for caravan plan, before the pairs have been read: the number of pairs; 0: not known", { min: 0 }),
  promptTokens: hyperInt(0, "for caravan plan: mean number of tokens in a pair's prompt; 0: not known", { min: 0 }),
  answerTokens: hyperInt(0, "for caravan plan: mean number of tokens in an answer; 0: not known", { min: 0 })
})
export type Params = typeof Params.Type

/** Throws PipelineError for inconsistent parameters, before anything runs. */
export const checkParams = ({ annotator, contextLength, judge, maxNewTokens, model, mtBench, url }: Params): void => {
  const asks = annotator === "judge" ? "annotator=judge" : mtBench === "" ? "" : "mtBench"
  if (asks !== "" && (url === "" || judge === ""))
    throw new PipelineError({
      message: `Reading the parameters "url" and "judge": expected both, since ${asks} uses a judge, found url ${JSON.stringify(url)} and judge ${JSON.stringify(judge)}. Set the URL of the endpoint (https://host/v1) and the name of its model.`
    })
  if (model === "" && maxNewTokens >= contextLength)
    throw new PipelineError({
      message: `maxNewTokens ${maxNewTokens} leaves no space for a prompt in the model's context: set it below contextLength ${contextLength}.`
    })
}

const rateOf = ({ loraRank, model }: Params, given: number, { adapter, paper, scratch }: Rates): number =>
  given > 0 ? given : model === "" ? scratch : loraRank > 0 ? adapter : paper

export const sftTraining = (params: Params) => {
  const { batchSize, loraRank, precision, sequenceLength } = params
  return { batchSize, sequenceLength, loraRank, precision, learningRate: rateOf(params, params.sftLearningRate, rates.sft) }
}
export const rewardTraining = (params: Params) => {
  const { loraRank, precision, rewardBatch: batchPairs, rewardEpochs: epochs } = params
  return { batchPairs, epochs, loraRank, precision, learningRate: rateOf(params, params.rewardLearningRate, rates.reward) }
}
/** Number of gradient steps, four per iteration. */
export const ppoSteps = ({ ppoBatch, ppoIterations }: Params): number => ppoIterations * Math.ceil(ppoBatch / Math.ceil(ppoBatch / 4))
export const ppoTraining = (params: Params) => {
  const { beta, inferenceBatch, loraRank, maxNewTokens, ppoBatch, ppoIterations: iterations, precision, temperature } = params
  const learningRate = rateOf(params, params.ppoLearningRate, rates.ppo)
  return {
    ...{ iterations, batchSize: ppoBatch, miniBatchSize: Math.ceil(ppoBatch / 4), beta, maxNewTokens, temperature, loraRank, precision },
    ...{ learningRate, valueLearningRate: 9 * learningRate, inferenceBatchSize: inferenceBatch, evaluateEvery: 5 },
    oldLogProbabilities: precision === "bfloat16" ? ("recomputed" as const) : ("recorded" as const)
  }
}
export const sampling = ({ inferenceBatch: batchSize, maxNewTokens, precision, temperature }: Params) => ({
  ...{ batchSize, maxNewTokens, precision, temperature }
})
/** Greedy answers for published sets. */
export const greedy = (params: Params) => ({ ...sampling(params), k: 1, temperature: 0 })
/** The judge's settings. */
export const judgeOf = ({ judge: model, keyVariable, url }: Params) => ({ url, model, keyVariable })
export const scoring = ({ inferenceBatch: batchSize, precision }: Params) => ({ batchSize, precision })

/** The sizes of the pairs for caravan plan. */
export const sizesOf = ({ answerTokens, pairs, promptTokens }: Params): Sizes => ({
  ...(pairs === 0 ? {} : { rows: pairs }),
  ...(promptTokens === 0 ? {} : { promptTokens }),
  ...(answerTokens === 0 ? {} : { responseTokens: answerTokens })
})
