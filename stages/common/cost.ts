/**
 * What each stage would cost, from its config and the sizes of its inputs: for `caravan plan`. Estimates stand here and not in the stages' own files, so
 * that a better estimate changes no cache key (docs/decisions/0007-cost-estimates.md); a stage that computes with tensors and has none here fails
 * tests/models/cost.test.ts.
 *
 * A size that is not known is NaN, so that what is reckoned from it is not known either.
 */
import {
  activationBytes,
  type CostedModel,
  decodingTraffic,
  forwardBytes,
  forwardFlops,
  generationBytes,
  generationFlops,
  type Precision,
  trainingFlops,
  trainingState,
  weightBytes
} from "../../models/cost.ts"
import { type LlamaConfig, llamaConfig, presets } from "../../models/config.ts"
import type { Sizes } from "../../runtime/define/cost.ts"
import type { Many, Optional, Stage } from "../../runtime/define/stage.ts"

/** Assumptions that the estimates make, to be shown with them. */
export const assumptions: ReadonlyArray<string> = [
  "training takes 6 N + 12 L d T FLOPs a token, reading 2 N + 4 L d T (PaLM, appendix B); N parameters, L layers of width d, T tokens a sequence",
  "decoding reads the weights once a step and the cache, and takes as long as the slower of that and its FLOPs",
  "sequences of fine-tuning are full; answers are as long as the pipeline expects, else maxNewTokens; nothing is drawn again, and PPO and filters go to their end",
  "memory is of one copy of each model, activations of the longest sequences, nothing recomputed; attention keeps no T x T matrix",
  "words that stages add to prompts (preprompts, instructions, the classifier's task) are not counted; rows of the small world are as long as its own tokenizer of 600 pieces has them"
]

/** The size of an artifact; NaN and undefined where it is not known. */
export interface Size extends Required<Omit<Sizes, "model">> {
  readonly model: LlamaConfig | undefined
}

export const unknown: Size = {
  rows: NaN,
  prompts: NaN,
  promptTokens: NaN,
  responseTokens: NaN,
  turns: NaN,
  safetyShare: NaN,
  vocabSize: NaN,
  model: undefined
}

/** A size with some of its parts set anew; as many prompts as rows, where those are set alone. */
export const sized = (from: Size, sizes: Partial<Omit<Size, "model">> & { readonly model?: LlamaConfig | undefined }): Size => ({
  ...from,
  ...(sizes.rows === undefined ? {} : { prompts: sizes.rows }),
  ...sizes
})

/** What a pipeline expects, over what follows from the inputs. Throws a RangeError for a model that has no preset. */
export const expecting = (size: Size, { model, ...sizes }: Sizes = {}): Size => {
  if (model === undefined) return sized(size, sizes)
  if (!Object.hasOwn(presets, model))
    throw new RangeError(`There is no model of size "${model}": expected one of ${Object.keys(presets).join(", ")}.`)
  return sized(size, { ...sizes, model: presets[model as keyof typeof presets] })
}

/** Something that an estimate needs is not known. */
export class UnknownSize extends Error {}

const need = (value: number, what: string): number => {
  if (Number.isNaN(value)) throw new UnknownSize(what)
  return value
}

/** A part of a stage's computation. */
export interface Work {
  readonly what: string
  readonly tokens: number
  readonly flops: number
  /** Bytes read from memory, where decoding waits for them. */
  readonly traffic: number
  readonly precision: Precision
}

/** Memory at its peak, in bytes. */
export interface Memory {
  readonly weights: number
  readonly gradients: number
  readonly optimiser: number
  /** Activations, caches and the decoder's copies of weights: the largest that are there at once. */
  readonly activations: number
}

export interface StageCost {
  readonly work: ReadonlyArray<Work>
  readonly memory: Memory
}

type Given<P> = P extends Many<any> ? ReadonlyArray<Size> : P extends Optional<any> ? Size | undefined : Size
interface Asked<Config, Inputs> {
  readonly config: Config
  readonly inputs: { readonly [K in keyof Inputs]: Given<Inputs[K]> }
  /** What the pipeline expects of the output. */
  readonly expected: Sizes
}
/** What an artifact's size follows from, and what making it costs; no cost where no tensor is computed. */
export interface Estimator<Config = any, Inputs = any> {
  readonly size: (asked: Asked<Config, Inputs>) => Size
  readonly cost?: (asked: Asked<Config, Inputs>) => StageCost
}

type EstimatorOf<S> = S extends Stage<infer C, infer I, any> ? Estimator<C["Type"], I> : never
/** The estimator of a stage: its config and inputs are the stage's. */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller names the stage; what it gives follows
const of = <S>(estimator: EstimatorOf<S>): EstimatorOf<S> => estimator

// ---- models and datasets ----------------------------------------------------------------------------------------------------------------

const languageModel = ({ model }: Size, what: string): CostedModel => {
  if (model === undefined) throw new UnknownSize(`how large ${what} is`)
  return { config: model, scalarHead: false }
}
const scalarModel = (size: Size, what: string): CostedModel => ({ ...languageModel(size, what), scalarHead: true })

const rowsOf = (size: Size, what: string): number => need(size.rows, `how many ${what} there are`)
const promptOf = (size: Size, what: string): number => need(size.promptTokens, `how long the prompts of ${what} are`)
const dialogueOf = (size: Size, what: string): number => need(size.promptTokens + size.responseTokens, `how long ${what} are`)

/** Several datasets as one. */
const pool = (sets: ReadonlyArray<Size>): Size => {
  // What is empty has no lengths, and adds nothing to those of the others.
  const some = sets.filter(({ rows }) => rows !== 0)
  const rows = some.reduce((sum, set) => sum + set.rows, 0)
  const mean = (pick: (size: Size) => number) => some.reduce((sum, set) => sum + pick(set) * set.rows, 0) / rows
  return {
    ...unknown,
    rows,
    prompts: some.reduce((sum, set) => sum + set.prompts, 0),
    promptTokens: mean((size) => size.promptTokens),
    responseTokens: mean((size) => size.responseTokens),
    turns: mean((size) => size.turns),
    safetyShare: mean((size) => size.safetyShare)
  }
}

/** Each dataset by its weight. */
const mixed = (sets: ReadonlyArray<Size>, weights: ReadonlyArray<number>): Size =>
  pool(sets.map((set, i) => sized(set, { rows: Math.round(set.rows * (weights[i] ?? NaN)) })))

const nothing = (): Size => unknown

// ---- work -------------------------------------------------------------------------------------------------------------------------------

const reading = (what: string, model: CostedModel, precision: Precision, rows: number, length: number): Work => {
  const tokens = rows * length
  return { what, tokens, flops: forwardFlops(model, tokens, length), traffic: 0, precision }
}

const training = (what: string, model: CostedModel, precision: Precision, rows: number, length: number): Work => {
  const tokens = rows * length
  return { what, tokens, flops: trainingFlops(model, tokens, length), traffic: 0, precision }
}

/** Reading `rows` prompts, then decoding `batchSize` sequences at a time. */
const generating = (
  model: CostedModel,
  precision: Precision,
  rows: number,
  batchSize: number,
  lengths: { readonly prompt: number; readonly response: number }
): ReadonlyArray<Work> => {
  const { prompt, response } = lengths
  const whole = Math.floor(rows / batchSize)
  const rest = rows - whole * batchSize
  const traffic = (sequences: number) => (sequences === 0 ? 0 : decodingTraffic(model, precision, sequences, lengths))
  const prefill = forwardFlops(model, rows * prompt, prompt)
  return [
    { what: "read prompts", tokens: rows * prompt, flops: prefill, traffic: 0, precision },
    {
      what: "decode",
      tokens: rows * response,
      flops: rows * generationFlops(model, prompt, response) - prefill,
      traffic: whole * traffic(batchSize) + traffic(rest),
      precision
    }
  ]
}

const none: Memory = { weights: 0, gradients: 0, optimiser: 0, activations: 0 }
const frozen = (model: CostedModel, precision: Precision, activations: number): Memory => ({
  ...none,
  weights: weightBytes(model, precision),
  activations
})
/** Of one model that is trained. The optimiser takes float32 copies of bfloat16 gradients, once the activations are gone. */
const trained = (model: CostedModel, precision: Precision, activations: number): Memory => {
  const { gradients, optimiser, weights } = trainingState(model, precision)
  return { weights, gradients, optimiser, activations: Math.max(activations, precision === "bfloat16" ? 2 * gradients : 0) }
}
const together = (parts: ReadonlyArray<Memory>, activations: number): Memory => ({
  weights: parts.reduce((sum, part) => sum + part.weights, 0),
  gradients: parts.reduce((sum, part) => sum + part.gradients, 0),
  optimiser: parts.reduce((sum, part) => sum + part.optimiser, 0),
  activations: Math.max(activations, ...parts.map((part) => part.activations))
})
/** One after the other: what is larger at its peak. */
const larger = (a: Memory, b: Memory): Memory => (totalMemory(a) >= totalMemory(b) ? a : b)
export const totalMemory = ({ activations, gradients, optimiser, weights }: Memory): number => weights + gradients + optimiser + activations

// ---- kinds of stages --------------------------------------------------------------------------------------------------------------------

/** Dialogues packed into full sequences. */
const packedTraining = (
  init: Size,
  data: Size,
  config: {
    readonly sequenceLength: number
    readonly batchSize: number
    readonly microBatchSize: number
    readonly epochs: number
    readonly steps?: number
    readonly precision: Precision
  },
  what: string
): StageCost => {
  const { batchSize, epochs, microBatchSize, precision, steps = 0 } = config
  const model = languageModel(init, "the model to start from")
  const length = Math.min(config.sequenceLength, model.config.maxPositions)
  const rows = steps > 0 ? steps * batchSize : Math.ceil((rowsOf(data, what) * dialogueOf(data, what)) / length) * epochs
  const tokens = microBatchSize * length
  return {
    work: [training("update", model, precision, rows, length)],
    memory: trained(model, precision, activationBytes(model, precision, tokens, tokens))
  }
}

type RewardConfig = { readonly epochs: number; readonly microBatchPairs: number; readonly precision: Precision }
const rewardModel: Estimator<RewardConfig> = {
  size: ({ inputs }) => inputs.init as Size,
  cost: ({ config, inputs }) => {
    const { init, pairs } = inputs as { readonly init: Size; readonly pairs: Size }
    const { epochs, microBatchPairs, precision } = config
    const model = scalarModel(init, "the model to start from")
    const tokens = 2 * microBatchPairs * model.config.maxPositions
    return {
      work: [training("update", model, precision, 2 * rowsOf(pairs, "pairs") * epochs, dialogueOf(pairs, "the pairs"))],
      memory: trained(model, precision, activationBytes(model, precision, tokens, 0))
    }
  }
}

const scoring = (
  reward: Size,
  rows: Size,
  each: number,
  config: { readonly batchSize: number; readonly precision: Precision }
): StageCost => {
  const model = scalarModel(reward, "the reward model")
  const { batchSize, precision } = config
  return {
    work: [reading("score", model, precision, each * rowsOf(rows, "responses"), dialogueOf(rows, "the responses"))],
    memory: frozen(model, precision, forwardBytes(model, precision, batchSize * model.config.maxPositions))
  }
}

interface Sampling {
  readonly maxNewTokens: number
  readonly batchSize: number
  readonly precision: Precision
}
const sampling = (
  policy: Size,
  config: Sampling,
  rows: number,
  lengths: { readonly prompt: number; readonly response: number }
): StageCost => {
  const model = languageModel(policy, "the policy")
  const { batchSize, maxNewTokens, precision } = config
  const room = { prompt: lengths.prompt, response: maxNewTokens }
  return {
    work: generating(model, precision, rows, batchSize, lengths),
    memory: frozen(model, precision, generationBytes(model, precision, Math.min(batchSize, rows), room))
  }
}

/** K completions of each prompt. */
const sampler: Estimator<Sampling & { readonly k: number }> = {
  size: ({ config, expected, inputs }) => {
    const { prompts } = inputs as { readonly prompts: Size }
    const responseTokens = expected.responseTokens ?? config.maxNewTokens
    return sized(prompts, { rows: prompts.rows * config.k, prompts: prompts.rows, responseTokens })
  },
  cost: ({ config, expected, inputs }) => {
    const { policy, prompts } = inputs as { readonly policy: Size; readonly prompts: Size }
    const response = expected.responseTokens ?? config.maxNewTokens
    return sampling(policy, config, rowsOf(prompts, "prompts") * config.k, { prompt: promptOf(prompts, "the samples"), response })
  }
}

/** Dialogues that grow, as long as there is room in the context: the prompt of turn t holds t questions and t - 1 answers. */
const conversing = (policy: Size, dialogues: Size, config: Sampling, expected: Sizes): StageCost => {
  const { config: shape } = languageModel(policy, "the policy")
  const rows = rowsOf(dialogues, "dialogues")
  const turns = need(dialogues.turns, "how many turns the dialogues have")
  const question = promptOf(dialogues, "the dialogues")
  const response = expected.responseTokens ?? config.maxNewTokens
  const each = Array.from({ length: Math.round(turns) }, (_, turn) => (turn + 1) * question + turn * response)
    .filter((prompt) => prompt <= shape.maxPositions - config.maxNewTokens)
    .map((prompt) => sampling(policy, config, rows, { prompt, response }))
  return { work: each.flatMap(({ work }) => work), memory: each.map(({ memory }) => memory).reduce(larger, none) }
}

/** Both verdicts of each text; categories of what is unsafe are not counted. */
const judging = (
  classifier: Size,
  rows: number,
  length: number,
  config: { readonly batchSize: number; readonly precision: Precision }
): StageCost => {
  const model = languageModel(classifier, "the classifier")
  const { batchSize, precision } = config
  return {
    work: [reading("judge", model, precision, 2 * rows, length)],
    memory: frozen(model, precision, forwardBytes(model, precision, 2 * batchSize * model.config.maxPositions))
  }
}

/**
 * Tokens of the small world's dialogues by a tokenizer of 600 pieces that was trained on them (the demo's; tests/models/cost.test.ts measures them):
 * what comes before the last answer, and that answer.
 */
export const worldLengths = {
  prompts: 21,
  demonstrations: { promptTokens: 61, responseTokens: 13 },
  preferences: { promptTokens: 31, responseTokens: 38 }
}

const passing = (port: string): Estimator => ({ size: ({ inputs }) => inputs[port] as Size })
const imported = passing("file")
const importedModel = passing("folder")
const reportOnly: Estimator = { size: nothing }

const evaluateGhostAttention = of<typeof import("../ghost-attention/evaluate.ts").evaluateGhostAttention>({
  size: nothing,
  cost: ({ config, expected, inputs }) => conversing(inputs.policy, inputs.dialogues, config, expected)
})

/** Every stage of the recipe, by name. */
const estimators: Readonly<Record<string, Estimator>> = {
  // ---- from files
  "import-preferences": imported,
  "import-demonstrations": imported,
  "import-prompts": imported,
  "import-policy": importedModel,
  "import-helpfulness-reward": importedModel,
  "import-safety-reward": importedModel,
  "import-general-reward": importedModel,

  // ---- language models
  tokenizer: of<typeof import("../training/tokenizer.ts").tokenizer>({
    size: ({ config }) => sized(unknown, { vocabSize: config.vocabSize })
  }),
  pretrain: of<typeof import("../training/pretrain.ts").pretrain>({
    size: ({ config, inputs }) => {
      const { vocabSize } = inputs.tokenizer
      const { contextLength: maxPositions, dim, ffn, heads, kvHeads, layers, tiedEmbeddings } = config
      return sized(unknown, {
        model: Number.isNaN(vocabSize)
          ? undefined
          : llamaConfig({ vocabSize, dim, layers, heads, kvHeads, ffn, maxPositions, tiedEmbeddings })
      })
    },
    cost: (asked) => {
      const { batchSize, contextLength, microBatchSize, precision, sequenceLength, steps } = asked.config
      const model = languageModel(estimators.pretrain!.size(asked as never), "the vocabulary")
      const length = Math.min(sequenceLength, contextLength)
      const tokens = microBatchSize * length
      return {
        work: [training("update", model, precision, steps * batchSize, length)],
        memory: trained(model, precision, activationBytes(model, precision, tokens, tokens))
      }
    }
  }),
  sft: of<typeof import("../training/sft.ts").sft>({
    size: ({ inputs }) => inputs.init,
    cost: ({ config, inputs }) => packedTraining(inputs.init, inputs.demonstrations, config, "demonstrations")
  }),
  "safety-classifier": of<typeof import("../safety/safety-classifier.ts").safetyClassifier>({
    size: ({ inputs }) => inputs.init,
    cost: ({ config, inputs }) => packedTraining(inputs.init, inputs.examples, config, "examples")
  }),

  // ---- reward models
  "helpfulness-reward-model": of<typeof import("../reward/reward-model.ts").helpfulnessRewardModel>(rewardModel),
  "safety-reward-model": of<typeof import("../reward/reward-model.ts").safetyRewardModel>(rewardModel),
  "general-reward-model": of<typeof import("../reward/reward-model.ts").generalRewardModel>(rewardModel),
  "best-helpfulness-reward": of<typeof import("../reward/best-reward.ts").bestHelpfulnessReward>({
    size: ({ inputs }) => inputs.candidates[0] ?? unknown
  }),
  "best-safety-reward": of<typeof import("../reward/best-reward.ts").bestSafetyReward>({
    size: ({ inputs }) => inputs.candidates[0] ?? unknown
  }),
  "score-pairs": of<typeof import("../reward/evaluate-reward.ts").scorePairs>({
    size: ({ inputs }) => inputs.pairs,
    cost: ({ config, inputs }) => scoring(inputs.reward, inputs.pairs, 2, { batchSize: 2 * config.batchPairs, precision: config.precision })
  }),
  "safety-recall": of<typeof import("../reward/evaluate-reward.ts").safetyRecall>({
    size: nothing,
    cost: ({ config, inputs }) => scoring(inputs.reward, inputs.pairs, 2, config)
  }),
  score: of<typeof import("../reward/score.ts").score>({
    size: ({ inputs }) => inputs.completions,
    cost: ({ config, inputs }) => scoring(inputs.reward, inputs.completions, 1, config)
  }),
  "score-combined": of<typeof import("../reward/score-combined.ts").scoreCombined>({
    size: ({ inputs }) => inputs.completions,
    cost: ({ config, inputs }) => {
      // One model after the other: withReward frees the first.
      const { completions, helpfulness, safety } = inputs
      const each = [helpfulness, ...(safety === undefined ? [] : [safety])].map((model) => scoring(model, completions, 1, config))
      return { work: each.flatMap(({ work }) => work), memory: each.map(({ memory }) => memory).reduce(larger) }
    }
  }),

  // ---- sampling
  sample: of<typeof import("../rejection-sampling/sample.ts").sample>(sampler),
  "sample-at-temperature": of<typeof import("../rejection-sampling/temperature-sweep.ts").sampleAtTemperature>(sampler),
  "collect-pairs": of<typeof import("../preferences/collect-pairs.ts").collectPairs>({
    size: ({ config, expected, inputs }) => sized(inputs.prompts, { responseTokens: expected.responseTokens ?? config.maxNewTokens }),
    cost: ({ config, expected, inputs }) => {
      const lengths = { prompt: promptOf(inputs.prompts, "the pairs"), response: expected.responseTokens ?? config.maxNewTokens }
      const each = [inputs.first, inputs.second].map((policy) => sampling(policy, config, rowsOf(inputs.prompts, "prompts"), lengths))
      // Both checkpoints are loaded before the first samples.
      const memory = together(
        each.map((one) => one.memory),
        0
      )
      return { work: each.flatMap(({ work }) => work), memory }
    }
  }),
  "ghost-sample": of<typeof import("../ghost-attention/sample.ts").ghostSample>({
    size: ({ config, expected, inputs }) => sized(inputs.dialogues, { responseTokens: expected.responseTokens ?? config.maxNewTokens }),
    cost: ({ config, expected, inputs }) => conversing(inputs.policy, inputs.dialogues, config, expected)
  }),
  "evaluate-ghost-attention": evaluateGhostAttention,
  "evaluate-world-ghost-attention": evaluateGhostAttention,

  // ---- the safety classifier
  "classify-prompts": of<typeof import("../safety/safety-classifier.ts").classifyPrompts>({
    size: ({ config, inputs: { prompts } }) =>
      config.keep === "all" ? prompts : sized(prompts, { rows: Math.round(prompts.rows * prompts.safetyShare), safetyShare: 1 }),
    cost: ({ config, inputs }) =>
      judging(inputs.classifier, rowsOf(inputs.prompts, "prompts"), promptOf(inputs.prompts, "what is judged"), config)
  }),
  "classify-completions": of<typeof import("../safety/safety-classifier.ts").classifyCompletions>({
    size: ({ inputs }) => inputs.completions,
    cost: ({ config, inputs }) =>
      judging(inputs.classifier, rowsOf(inputs.completions, "completions"), dialogueOf(inputs.completions, "completions"), config)
  }),
  "evaluate-classifier": of<typeof import("../safety/evaluate-classifier.ts").evaluateClassifier>({
    size: nothing,
    cost: ({ config, inputs }) => {
      const texts = labelledSize(inputs.prompts, inputs.preferences)
      return judging(inputs.classifier, rowsOf(texts, "labelled texts"), promptOf(texts, "the labelled texts"), config)
    }
  }),

  // ---- PPO
  ppo: of<typeof import("../ppo/ppo.ts").ppo>({
    size: ({ inputs }) => inputs.policy,
    cost: ({ config, expected, inputs }) => {
      const { batchSize, epochs, evaluateEvery, inferenceBatchSize, iterations, maxNewTokens, microBatchSize, precision } = config
      const policy = languageModel(inputs.policy, "the policy")
      const rewards = [inputs.helpfulness, ...(inputs.safety === undefined ? [] : [inputs.safety])].map((size) =>
        scalarModel(size, "the reward models")
      )
      const start = config.valueInit === "policy" ? inputs.policy : inputs.helpfulness
      const value = scalarModel(start, "the value model")
      const prompt = promptOf(inputs.prompts, "PPO")
      const response = expected.responseTokens ?? maxNewTokens
      const length = prompt + response
      const rows = iterations * batchSize

      const evaluations = inputs.heldOut === undefined ? 0 : 1 + Math.ceil(iterations / evaluateEvery)
      const judged = inputs.heldOut === undefined ? 0 : evaluations * rowsOf(inputs.heldOut, "held-out prompts")
      const answered = (rows: number, what: string): ReadonlyArray<Work> =>
        [
          ...generating(policy, precision, rows, inferenceBatchSize, { prompt, response }),
          ...rewards.map((model) => reading("score", model, precision, rows, length))
        ].map((work) => ({ ...work, what: `${what}: ${work.what}` }))
      const work = [
        ...answered(rows, "rollouts"),
        reading("reference", policy, precision, rows, length),
        ...(config.oldLogProbabilities === "recomputed" ? [reading("old log-probabilities", policy, precision, rows, length)] : []),
        reading("values", value, precision, rows, length),
        training("update of the policy", policy, precision, epochs * rows, length),
        training("update of the value model", value, precision, epochs * rows, length),
        ...(judged === 0 ? [] : answered(judged, "held out"))
      ]

      const longest = prompt + maxNewTokens
      const wide = (sequences: number) => 12 * sequences * maxNewTokens * policy.config.vocabSize
      const activations = Math.max(
        generationBytes(policy, precision, Math.min(inferenceBatchSize, batchSize), { prompt, response: maxNewTokens }),
        forwardBytes(policy, precision, inferenceBatchSize * longest) + wide(inferenceBatchSize),
        activationBytes(policy, precision, microBatchSize * longest, microBatchSize * maxNewTokens),
        activationBytes(value, precision, microBatchSize * longest, 0)
      )
      // The reference, and the best policy so far; a value model that no reward model lends its weights to is a copy of its own too.
      const copies = [policy, ...(inputs.heldOut === undefined ? [] : [policy]), ...rewards].map((model) => frozen(model, precision, 0))
      return { work, memory: together([trained(policy, precision, 0), trained(value, precision, 0), ...copies], activations) }
    }
  }),
  "ppo-diagnostics": reportOnly,

  // ---- preferences
  "pair-completions": of<typeof import("../evaluation/judged-win-rate.ts").pairCompletions>({
    size: ({ config: { prompts }, inputs: { ours } }) => {
      if (prompts === "all") return ours
      const share = prompts === "safety" ? ours.safetyShare : 1 - ours.safetyShare
      return sized(ours, { rows: Math.round(ours.rows * share), safetyShare: prompts === "safety" ? 1 : 0 })
    }
  }),
  annotate: of<typeof import("../preferences/annotate.ts").annotate>({ size: ({ inputs }) => inputs.pairs }),
  "annotate-by-oracle": of<typeof import("../world/annotate.ts").annotateByOracle>({ size: ({ inputs }) => inputs.pairs }),
  "hold-out-preferences": of<typeof import("../data/prompts.ts").holdOutPreferences>({
    size: ({ config, inputs }) => {
      const { rows } = inputs.preferences
      const held = Math.min(config.count, Math.floor(rows / 2))
      return sized(inputs.preferences, { rows: config.part === "test" ? held : rows - held })
    }
  }),
  "fold-preferences": of<typeof import("../data/derive.ts").foldPreferences>({
    size: ({ config: { folds, part }, inputs }) =>
      sized(inputs.preferences, { rows: Math.round((inputs.preferences.rows * (part === "inside" ? 1 : folds - 1)) / folds) })
  }),
  "helpfulness-mixture": of<typeof import("../reward/reward-mixture.ts").helpfulnessMixture>({
    size: ({ config, inputs }) => {
      const own = pool(inputs.helpfulness)
      const others = pool([...inputs.safety, ...inputs.openSource])
      return pool([own, sized(others, { rows: Math.min(others.rows, Math.round(config.others * own.rows)) })])
    }
  }),
  "safety-mixture": of<typeof import("../reward/reward-mixture.ts").safetyMixture>({
    size: ({ config: { helpfulnessShare }, inputs }) => {
      const own = pool([...inputs.safety, ...inputs.harmless])
      const others = pool([...inputs.helpfulness, ...inputs.openSource])
      const wanted = Math.round((helpfulnessShare / (1 - helpfulnessShare)) * own.rows)
      return pool([own, sized(others, { rows: Math.min(others.rows, wanted) })])
    }
  }),
  "mix-preferences": of<typeof import("../data/mix.ts").mixPreferences>({
    size: ({ config, inputs }) => mixed(inputs.datasets, config.weights)
  }),

  // ---- demonstrations
  "select-best": of<typeof import("../rejection-sampling/select-best.ts").selectBest>({
    // The sets answer the same prompts: each prompt is there once.
    size: ({ inputs }) => sized(pool(inputs.scored), { rows: Math.max(...inputs.scored.map(({ prompts }) => prompts)) })
  }),
  "select-random": of<typeof import("../rejection-sampling/select-best.ts").selectRandom>({
    size: ({ inputs }) => sized(pool(inputs.completions), { rows: Math.max(...inputs.completions.map(({ prompts }) => prompts)) })
  }),
  "keep-best": of<typeof import("../rejection-sampling/keep-best.ts").keepBest>({
    size: ({ config, inputs }) =>
      sized(inputs.scored, { rows: Math.min(inputs.scored.rows, inputs.scored.prompts * config.count), prompts: inputs.scored.prompts })
  }),
  "filter-demonstrations": of<typeof import("../data/filter-demonstrations.ts").filterDemonstrations>({
    size: ({ inputs }) => inputs.demonstrations
  }),
  "demonstration-subset": of<typeof import("../data/filter-demonstrations.ts").demonstrationSubset>({
    size: ({ config, inputs }) => sized(inputs.demonstrations, { rows: Math.min(config.count, inputs.demonstrations.rows) })
  }),
  "safe-demonstrations": of<typeof import("../safety/safety-sft.ts").safeDemonstrations>({ size: ({ inputs }) => inputs.preferences }),
  "preference-demonstrations": of<typeof import("../data/derive.ts").preferenceDemonstrations>({
    size: ({ inputs }) => inputs.preferences
  }),
  "mix-demonstrations": of<typeof import("../data/mix.ts").mixDemonstrations>({
    size: ({ config, inputs }) => mixed(inputs.datasets, config.weights)
  }),
  distil: of<typeof import("../safety/context-distillation.ts").distil>({
    size: ({ inputs }) => sized(pool(inputs.prefixed), { rows: inputs.original.prompts })
  }),
  "distillation-gain": reportOnly,
  "ghost-instructions": of<typeof import("../ghost-attention/instructions.ts").ghostInstructions>({
    size: ({ config, inputs }) => {
      const { turns } = inputs.prompts
      return sized(inputs.prompts, { turns: Number.isNaN(turns) ? config.turns : Math.min(turns, config.turns) })
    }
  }),
  "ghost-training-data": of<typeof import("../ghost-attention/training-data.ts").ghostTrainingData>({
    size: ({ config, inputs }) => {
      const { promptTokens: question, responseTokens: answer, rows, turns } = inputs.samples
      // Rows end at turn 2 to n, on average halfway; or all at turn n.
      const turn = config.rows === "every-turn" ? (turns + 2) / 2 : turns
      return sized(inputs.samples, {
        rows: config.rows === "every-turn" ? rows * (turns - 1) : rows,
        promptTokens: turn * question + (turn - 1) * answer,
        turns: NaN
      })
    }
  }),
  "safety-classifier-data": of<typeof import("../safety/safety-classifier.ts").safetyClassifierData>({
    size: ({ inputs }) => sized(labelledSize(inputs.prompts, inputs.preferences), { responseTokens: 0 })
  }),

  // ---- prompts and texts
  "prompt-batch": of<typeof import("../data/prompts.ts").promptBatch>({
    size: ({ config: { batch, batches }, inputs: { prompts } }) =>
      sized(prompts, { rows: Math.floor(prompts.rows / batches) + (batch < prompts.rows % batches ? 1 : 0) })
  }),
  "continue-dialogues": of<typeof import("../data/prompts.ts").continueDialogues>({
    // The next question is as long as the first: what is before it grows by the exchange.
    size: ({ inputs: { preferences, prompts } }) =>
      sized(prompts, {
        rows: Math.min(prompts.rows, preferences.rows),
        promptTokens: prompts.promptTokens + preferences.responseTokens + prompts.promptTokens
      })
  }),
  "preference-prompts": of<typeof import("../data/derive.ts").preferencePrompts>({
    size: ({ config: { count, safety }, inputs: { preferences } }) =>
      sized(preferences, { rows: count === 0 ? preferences.rows : Math.min(count, preferences.rows), safetyShare: safety ? 1 : 0 })
  }),
  "mix-prompts": of<typeof import("../data/mix.ts").mixPrompts>({ size: ({ config, inputs }) => mixed(inputs.datasets, config.weights) }),
  "mix-texts": of<typeof import("../data/mix.ts").mixTexts>({ size: ({ config, inputs }) => mixed(inputs.datasets, config.weights) }),
  "preference-texts": of<typeof import("../data/derive.ts").preferenceTexts>({
    size: ({ config, inputs: { preferences } }) => sized(preferences, { rows: preferences.rows * (config.responses === "both" ? 2 : 1) })
  }),
  preprompt: of<typeof import("../safety/context-distillation.ts").preprompt>({
    size: ({ inputs: { prompts } }) => sized(prompts, { rows: Math.round(prompts.rows * prompts.safetyShare), safetyShare: 1 })
  }),
  "without-preprompt": of<typeof import("../safety/context-distillation.ts").withoutPreprompt>({
    size: ({ inputs }) => inputs.completions
  }),

  // ---- the small world
  "world-texts": of<typeof import("../world/data.ts").worldTexts>({ size: ({ config }) => sized(unknown, { rows: config.count }) }),
  "world-demonstrations": of<typeof import("../world/data.ts").worldDemonstrations>({
    size: ({ config }) => sized(unknown, { rows: config.count, ...worldLengths.demonstrations })
  }),
  "world-prompts": of<typeof import("../world/data.ts").worldPrompts>({
    size: ({ config }) =>
      sized(unknown, {
        rows: config.count,
        promptTokens: worldLengths.prompts,
        turns: 1 + config.followUps,
        safetyShare: config.kind === "adversarial" ? 1 : config.kind === "safety" ? 0.5 : 0
      })
  }),
  "world-preferences": of<typeof import("../world/data.ts").worldPreferences>({
    size: ({ config }) => sized(unknown, { rows: config.pairs, ...worldLengths.preferences })
  }),

  // ---- reports
  "evaluate-reward": reportOnly,
  "reward-baselines": reportOnly,
  "evaluate-policy": reportOnly,
  "evaluate-best-of-n": reportOnly,
  "violation-rate": reportOnly,
  "win-rate": reportOnly,
  "judged-win-rate": reportOnly,
  "refusal-rate": reportOnly,
  "oracle-grades": reportOnly,
  "evaluate-version": reportOnly,
  "compare-versions": reportOnly,
  "self-bleu": reportOnly,
  "preference-statistics": reportOnly,
  "world-preference-statistics": reportOnly,
  "temperature-sweep": reportOnly,
  "reward-distribution": reportOnly,
  "reward-hacking": reportOnly,
  "html-report": reportOnly,
  "world-summary": reportOnly,
  summary: reportOnly
}

/** Labelled texts: each prompt, and both responses of each pair with what is before them. Their length stands as the prompt's. */
const labelledSize = (prompts: ReadonlyArray<Size>, preferences: ReadonlyArray<Size>): Size =>
  pool([...prompts, ...preferences.map((set) => sized(set, { rows: 2 * set.rows, promptTokens: set.promptTokens + set.responseTokens }))])

/** Where the recipe's stages are: a stage of a user's own that has one of their names has no estimate. */
const folder = new URL("../", import.meta.url).href

/** The estimator of a stage; undefined where there is none. */
export const estimatorOf = (stage: { readonly name: string; readonly module: string }): Estimator | undefined =>
  stage.module.startsWith(folder) && Object.hasOwn(estimators, stage.name) ? estimators[stage.name] : undefined
