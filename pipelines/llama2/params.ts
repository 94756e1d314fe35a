/**
 * Parameters of pipelines/llama2-chat.ts, and the paper's numbers that depend on the model's size or are expected of data that is not there yet.
 */
import { statSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Sizes } from "../../runtime/define/cost.ts"
import { PipelineError } from "../../runtime/errors.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { hyper, hyperInt, hyperSecretVariable, hyperUrl } from "../../schemas/hyper.ts"

/** What depends on the model's size: §3.2.2 the reward models' learning rate, §3.2.3 the weight of PPO's KL penalty. */
export const bySize = {
  "7b": { rewardLearningRate: 1e-5, beta: 0.01 },
  "13b": { rewardLearningRate: 1e-5, beta: 0.01 },
  "34b": { rewardLearningRate: 1e-5, beta: 0.005 },
  "70b": { rewardLearningRate: 5e-6, beta: 0.005 }
} as const
type Named = keyof typeof bySize
export const isNamed = (model: string): model is Named => Object.hasOwn(bySize, model)

/** The name of a size, whatever its case, or a model's folder. Throws a PipelineError for a word that is neither: no folder would be awaited in vain. */
export const modelOf = (parameter: "model" | "sampler", given: string): string => {
  const size = given.toLowerCase()
  if (isNamed(size)) return size
  if (!/^[a-z0-9.]*$/.test(size) || statSync(given, { throwIfNoEntry: false })?.isDirectory() === true) return given
  const sizes = Object.keys(bySize)
  throw new PipelineError({
    message: `Reading the parameter "${parameter}": expected one of ${sizes.join(", ")}, or a folder, found ${JSON.stringify(given)}.${didYouMean(given, sizes)} Write a folder that is not there yet with its path: ./${given}.`
  })
}

/** Throws a PipelineError when a model of a named size has no room for a prompt beside answers of that length. A folder's context is known when it is read. */
export const checkAnswers = (model: string, maxNewTokens: number): void => {
  if (!isNamed(model) || maxNewTokens < context) return
  throw new PipelineError({
    message: `Reading the parameter "maxNewTokens": expected fewer than the ${context} tokens of Llama 2's context, which also holds the prompt, found ${maxNewTokens}.`
  })
}
/** §2: tokens that Llama 2 can attend over. */
const context = 4096

/** Table 6: rows, and mean tokens of an example (one dialogue with one response) and of its last response. */
export const table6 = {
  "anthropic-helpful": [122_387, 251.5, 88.4],
  "anthropic-harmless": [43_966, 152.5, 46.4],
  "openai-summarize": [176_625, 371.1, 35.1],
  "openai-webgpt": [13_333, 237.2, 188.9],
  stackexchange: [1_038_480, 440.2, 240.2],
  "stanford-shp": [74_882, 338.3, 138.8],
  "synthetic-gptj": [33_139, 123.3, 110.3]
} as const
/** Table 6, Meta's own: 798.5 tokens an example, of them 234.1 of the last response; 31.4 a prompt. */
export const ours = { example: 798.5, prompt: 31.4, response: 234.1 }
export const exchange: Sizes = { promptTokens: ours.prompt, responseTokens: ours.response }
/** Rows that are expected; 0: not known. */
export const rows = (count: number): Sizes => (count === 0 ? {} : { rows: count })

const samples = Schema.Int.check(Schema.isGreaterThanOrEqualTo(2))

export const Params = Schema.Struct({
  model: hyper("7b", "7b, 13b, 34b or 70b; or the folder of a Llama in the Hugging Face layout"),
  weights: hyper("", "folder of the base model where `model` names a size; empty: weights/llama-2-<size>"),
  like: hyper("7b", "whose hyperparameters a model given as a folder has", ["7b", "13b", "34b", "70b"]),
  sampler: hyper(
    "",
    "size or folder of a larger model whose samples and reward models this one is tuned with (§3.2.3: 70b); empty: its own"
  ),
  samplerWeights: hyper("", "folder of the sampler's base model where `sampler` names a size; empty: weights/llama-2-<size>"),
  data: hyper(
    "llama2-chat-data",
    "folder of demonstrations, prompts, open-source preferences and labels, which pairs to label are written to; docs/decisions/0007-cost-estimates.md names its files"
  ),
  rounds: hyperInt(5, "versions by rejection sampling; §3.2.3: 5", { min: 1 }),
  k: Schema.Union([samples, Schema.Array(samples)])
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(10)))
    .annotate({ description: "samples a prompt, in all rounds, or [10,20,...] in each; §3.2.3 names none; 10 unless given" }),
  maxNewTokens: hyperInt(1024, "tokens an answer at most; the paper names none", { min: 1 }),
  margin: hyper("small", "of the reward models; table 27", ["none", "small", "large"]),
  annotator: hyper("file", "who compares responses: people through files, or a model behind an OpenAI-compatible endpoint", [
    "file",
    "judge"
  ]),
  labelled: hyperInt(
    0,
    "file: rounds whose labels are there, as labels-<kind>-<round>.jsonl; the next round's pairs are written beside them",
    {
      min: 0
    }
  ),
  url: hyperUrl("judge: address of the endpoint; where it is given, the judge compares every version with SFT too, whoever annotates"),
  judge: hyper("", "judge: name of the model"),
  keyVariable: hyperSecretVariable("judge: environment variable that holds the key"),
  openSource: hyper(true, "whether the seven open-source sets of table 6 join the preferences, and train the general reward model"),
  safeAnswers: hyper(
    false,
    "whether versions are also tuned on the chosen answers of safety pairs that were labelled safe; §4.2.2: on written ones alone"
  ),
  classifier: hyper("", "folder of the model that the safety classifier is tuned from; empty: the base model"),
  tags: hyper(
    "data",
    "where is_safety (§3.2.3) of prompts is from: the data, or a safety classifier that has learnt from the prompts that pairs are collected for",
    ["data", "classifier"]
  ),
  chatTags: hyper(
    "refuse",
    "rows of the data whose text holds a tag of the chat format, as [INST]: skipped, or kept with a backslash in each tag",
    ["refuse", "escape"]
  ),
  opponent: hyper("", "folder of any other model, to be compared with the last version"),
  publicDialogues: hyperInt(0, "expected: public instruction data; 0: not known, §3.1 says millions", { min: 0 }),
  annotations: hyperInt(27_540, "expected: annotated demonstrations, of safety too; §3.1: 27,540", { min: 0 }),
  pairs: hyperInt(1_418_091, "expected: preference pairs over all rounds; table 6: 1,418,091", { min: 0 }),
  safetyShare: hyper(0.1, "expected: share of them, and of prompts, about safety; §4.2.3: 0.1M beside 0.9M", { min: 0, max: 1 }),
  prompts: hyperInt(102_400, "expected: prompts of rejection sampling and PPO; not in the paper: each of 200 batches of 512 its own", {
    min: 0
  }),
  heldOut: hyperInt(4600, "expected: held-out prompts, an eighth of them PPO's own; §3.4.2: more than 4,000 that versions are judged on", {
    min: 0
  }),
  borderline: hyperInt(210, "expected: held-out borderline prompts; §4.2.3: 210", { min: 0 }),
  dialogues: hyperInt(1000, "expected: dialogues of Ghost Attention; not in the paper", { min: 0 })
})

export type Params = typeof Params.Type

/** Computation that leaves the result alone but for the order of sums. How many sequences are trained on at once is chosen by the GPU's memory. */
export const tensors = { precision: "bfloat16" } as const
export const scoring = { ...tensors, batchSize: 16 }

/** The round whose latest model Ghost Attention's and distillation's data are from (§3.3: after V3). */
export const lateRound = (rounds: number): number => Math.min(4, rounds)

/** How a model answers in every stage that samples, and how long its answers are expected to be. */
export const samplingOf = ({ maxNewTokens }: Params) => ({ ...tensors, batchSize: 32, maxNewTokens })
export const answers: Sizes = { responseTokens: ours.response }
