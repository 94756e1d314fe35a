/**
 * Parameters of pipelines/llama2-chat.ts, and the paper's numbers that depend on the model's size or describe data that does not exist yet.
 */
import { statSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Sizes } from "../../runtime/define/cost.ts"
import { PipelineError } from "../../runtime/errors.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { hyper, hyperInt, hyperSecretVariable, hyperUrl } from "../../schemas/hyper.ts"

/** Values that depend on the model's size: the reward models' learning rate (§3.2.2), the weight of PPO's KL penalty (§3.2.3). */
export const bySize = {
  "7b": { rewardLearningRate: 1e-5, beta: 0.01 },
  "13b": { rewardLearningRate: 1e-5, beta: 0.01 },
  "34b": { rewardLearningRate: 1e-5, beta: 0.005 },
  "70b": { rewardLearningRate: 5e-6, beta: 0.005 }
} as const
type Named = keyof typeof bySize
export const isNamed = (model: string): model is Named => Object.hasOwn(bySize, model)

/** The name of a size (in lower case), or the folder of a model. Throws PipelineError for a single word that is neither: it is probably a mistyped size. */
export const modelOf = (parameter: "model" | "sampler", given: string): string => {
  const size = given.toLowerCase()
  if (isNamed(size)) return size
  if (!/^[a-z0-9.]*$/.test(size) || statSync(given, { throwIfNoEntry: false })?.isDirectory() === true) return given
  const sizes = Object.keys(bySize)
  throw new PipelineError({
    message: `Reading the parameter "${parameter}": expected one of ${sizes.join(", ")}, or a folder, found ${JSON.stringify(given)}.${didYouMean(given, sizes)} For a folder that does not exist yet, give a path: ./${given}.`
  })
}

/** Throws PipelineError if answers of that length leave no space for a prompt in Llama 2's context. The context of a model in a folder is checked later. */
export const checkAnswers = (model: string, maxNewTokens: number): void => {
  if (!isNamed(model) || maxNewTokens < context) return
  throw new PipelineError({
    message: `Reading the parameter "maxNewTokens": expected fewer than the ${context} tokens of Llama 2's context, which also holds the prompt, found ${maxNewTokens}.`
  })
}
/** §2: Llama 2's context length in tokens. */
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
/** Table 6, Meta's own data: 798.5 tokens per example, 234.1 of them in the last response; 31.4 per prompt. */
export const ours = { example: 798.5, prompt: 31.4, response: 234.1 }
export const exchange: Sizes = { promptTokens: ours.prompt, responseTokens: ours.response }
/** The expected number of rows; 0: not known. */
export const rows = (count: number): Sizes => (count === 0 ? {} : { rows: count })

const samples = Schema.Int.check(Schema.isGreaterThanOrEqualTo(2))

export const Params = Schema.Struct({
  model: hyper("7b", "model to tune: 7b, 13b, 34b or 70b, or the folder of a Llama in the Hugging Face layout"),
  weights: hyper("", "folder of the base model if `model` is a size; empty: weights/llama-2-<size>"),
  like: hyper("7b", "size whose hyperparameters to use if `model` is a folder", ["7b", "13b", "34b", "70b"]),
  sampler: hyper(
    "",
    "size or folder of a larger model whose samples and reward models are used for tuning (§3.2.3: 70b); empty: the model's own"
  ),
  samplerWeights: hyper("", "folder of the sampler's base model if `sampler` is a size; empty: weights/llama-2-<size>"),
  data: hyper(
    "llama2-chat-data",
    "folder with demonstrations, prompts, open-source preferences and labels, to which pairs to label are written; docs/how-to/llama2-chat.md lists its files"
  ),
  rounds: hyperInt(5, "number of rounds, each with a version from rejection sampling; §3.2.3: 5", { min: 1 }),
  k: Schema.Union([samples, Schema.Array(samples)])
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(10)))
    .annotate({
      description: "samples per prompt, one number for all rounds or a list with one per round, [10,20,...]; §3.2.3 gives none; default 10"
    }),
  maxNewTokens: hyperInt(1024, "maximum number of tokens per answer; the paper gives none", { min: 1 }),
  margin: hyper("small", "margin of the reward models' loss; §3.2.2, table 27", ["none", "small", "large"]),
  annotator: hyper("file", "who compares responses: file, people who fill in files; judge, a model behind an OpenAI-compatible endpoint", [
    "file",
    "judge"
  ]),
  labelled: hyperInt(
    0,
    "with annotator file: number of rounds whose labels exist, as labels-<kind>-<round>.jsonl; the next round's pairs are written to the same folder",
    {
      min: 0
    }
  ),
  url: hyperUrl("judge: URL of the OpenAI-compatible endpoint; if set, the judge also compares every version with SFT, whoever annotates"),
  judge: hyper("", "judge: name of the model at the endpoint"),
  keyVariable: hyperSecretVariable("judge: name of the environment variable with the API key; empty: no key is sent"),
  openSource: hyper(
    true,
    "whether to add the seven open-source sets of table 6 to the preferences, and to train the general reward model on them"
  ),
  safeAnswers: hyper(
    false,
    "whether versions are also tuned on the chosen answers of safety pairs that were labelled safe; §4.2.2: only on written demonstrations"
  ),
  ghostLists: hyper(
    "built-in",
    "source of the hobbies and public figures in Ghost Attention's instructions: the built-in lists, or lists generated by the model (§3.3)",
    ["built-in", "model"]
  ),
  openReward: hyper("", "folder of another open reward model with one logit, as a further row of table 7; empty: none"),
  classifier: hyper("", "folder of the model from which the safety classifier is tuned; empty: the base model"),
  tags: hyper(
    "data",
    "source of the prompts' is_safety tag (§3.2.3): the data, or a safety classifier trained on the prompts for which pairs are collected",
    ["data", "classifier"]
  ),
  chatTags: hyper(
    "refuse",
    "what to do with rows whose text contains a tag of the chat format, such as [INST]: skip the row, or insert a backslash into each tag",
    ["refuse", "escape"]
  ),
  opponent: hyper("", "folder of another model to compare with the last version; empty: none"),
  publicDialogues: hyperInt(0, "expected: dialogues of public instruction data; 0: not known, §3.1 says millions", { min: 0 }),
  annotations: hyperInt(27_540, "expected: annotated demonstrations, including safety; §3.1: 27,540", { min: 0 }),
  pairs: hyperInt(1_418_091, "expected: preference pairs over all rounds; table 6: 1,418,091", { min: 0 }),
  safetyShare: hyper(0.1, "expected: share of safety pairs among them, and of safety prompts among the prompts; §4.2.3: 0.1M and 0.9M", {
    min: 0,
    max: 1
  }),
  prompts: hyperInt(
    102_400,
    "expected: prompts of rejection sampling and PPO; not in the paper; the default gives each of 200 batches its own 512",
    {
      min: 0
    }
  ),
  heldOut: hyperInt(
    4600,
    "expected: held-out prompts, an eighth of them for PPO's early stopping; §3.4.2: more than 4,000 for the evaluation",
    {
      min: 0
    }
  ),
  borderline: hyperInt(210, "expected: held-out borderline prompts; §4.2.3: 210", { min: 0 }),
  dialogues: hyperInt(1000, "expected: dialogues of Ghost Attention; not in the paper", { min: 0 })
})

export type Params = typeof Params.Type

/** Settings of all stages that compute with tensors. Micro-batch sizes are left to be chosen from the GPU's memory. */
export const tensors = { precision: "bfloat16" } as const
export const scoring = { ...tensors, batchSize: 16 }

/** The round whose initial model generates the data for Ghost Attention and distillation (§3.3: after V3). */
export const lateRound = (rounds: number): number => Math.min(4, rounds)

/** Settings of all stages that sample. */
export const samplingOf = ({ maxNewTokens }: Params) => ({ ...tensors, batchSize: 32, maxNewTokens })
/** The expected length of answers. */
export const answers: Sizes = { responseTokens: ours.response }
