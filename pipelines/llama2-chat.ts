/**
 * Llama 2-Chat as the paper made it (§3 and §4): SFT in two steps, five rounds of preference pairs, reward models and rejection sampling, each version
 * tuned from the base model; Ghost Attention and context distillation from the fourth round on; PPO on top of the fifth version; an evaluation of every
 * version. Hyperparameters are the paper's for the model's size, and stages' defaults where they are the same for all.
 *
 *     caravan plan pipelines/llama2-chat.ts --set model=70b
 *     caravan run pipelines/llama2-chat.ts --set model=<folder> --set data=<folder> --device cuda
 *
 * The folder `data` holds JSONL files (docs/decisions/0007-cost-estimates.md names them); those that are not there yet can be planned with the paper's
 * sizes. Sizes named as expected below are for plans alone.
 *
 * Not in the paper, so chosen here: K, the prompts of rejection sampling and PPO, the length of answers; how rejection sampling's answers are mixed with
 * demonstrations (each once), and their fine-tuning (as SFT). Deviations: every round chooses among all prior versions' best samples (the paper from its
 * fourth on, after the third had regressed); a model draws its own samples unless `sampler` names a larger one, as the paper's 70B was for all others.
 */
import { statSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Sizes } from "../runtime/cost.ts"
import { PipelineError } from "../runtime/errors.ts"
import { fileAt, type Node } from "../runtime/node.ts"
import * as Pipeline from "../runtime/pipeline.ts"
import type { Checkpoint, Dataset } from "../schemas/artifact.ts"
import { didYouMean } from "../schemas/did-you-mean.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import type { Completion, Demonstration, Preference, Prompt, ResponsePair } from "../schemas/rows.ts"
import { annotate } from "../stages/annotate.ts"
import { bestHelpfulnessReward, bestSafetyReward } from "../stages/best-reward.ts"
import { collectPairs } from "../stages/collect.ts"
import { distil, distillationGain, preprompt, withoutPreprompt } from "../stages/context-distillation.ts"
import { evaluateClassifier, violationRate } from "../stages/evaluate-classifier.ts"
import { evaluateReward, safetyRecall, scorePairs } from "../stages/evaluate-reward.ts"
import { filterDemonstrations } from "../stages/filter-demonstrations.ts"
import { evaluateGhostAttention, ghostInstructions, ghostSample, ghostTrainingData } from "../stages/ghost-attention.ts"
import { importDemonstrations, importPolicy, importPreferences } from "../stages/import.ts"
import { importPrompts } from "../stages/import-prompts.ts"
import { keepBest } from "../stages/keep-best.ts"
import { mixDemonstrations, mixPreferences, mixPrompts } from "../stages/mix.ts"
import { ppo } from "../stages/ppo.ts"
import { ppoDiagnostics } from "../stages/ppo-diagnostics.ts"
import { preferenceStatistics } from "../stages/preference-statistics.ts"
import { continueDialogues, holdOutPreferences, promptBatch } from "../stages/prompts.ts"
import { rewardDistribution } from "../stages/reward-distribution.ts"
import { rewardHacking } from "../stages/reward-hacking.ts"
import { helpfulnessMixture, safetyMixture } from "../stages/reward-mixture.ts"
import { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "../stages/reward-model.ts"
import { classifyCompletions, classifyPrompts, safetyClassifier, safetyClassifierData } from "../stages/safety-classifier.ts"
import { sample } from "../stages/sample.ts"
import { score } from "../stages/score.ts"
import { scoreCombined } from "../stages/score-combined.ts"
import { selectBest } from "../stages/select-best.ts"
import { selfBleu } from "../stages/self-bleu.ts"
import { sft } from "../stages/sft.ts"
import { sampleAtTemperature, temperatureSweep } from "../stages/temperature-sweep.ts"
import { winRate } from "../stages/win-rate.ts"

type Policy = Node<Checkpoint<"policy">>
type Rows<Row> = Node<Dataset<Row>>
type Kind = "helpfulness" | "safety"
const kinds: ReadonlyArray<Kind> = ["helpfulness", "safety"]
interface Rewards {
  readonly helpfulness: Node<Checkpoint<"helpfulness-reward">>
  readonly safety: Node<Checkpoint<"safety-reward">>
}

/** What depends on the model's size: §3.2.2 the reward models' learning rate, §3.2.3 the weight of PPO's KL penalty. */
const bySize = {
  "7b": { rewardLearningRate: 1e-5, beta: 0.01 },
  "13b": { rewardLearningRate: 1e-5, beta: 0.01 },
  "34b": { rewardLearningRate: 1e-5, beta: 0.005 },
  "70b": { rewardLearningRate: 5e-6, beta: 0.005 }
} as const
type Named = keyof typeof bySize
const isNamed = (model: string): model is Named => Object.hasOwn(bySize, model)

/** The name of a size, whatever its case, or a model's folder. Throws a PipelineError for a word that is neither: no folder would be awaited in vain. */
const modelOf = (parameter: "model" | "sampler", given: string): string => {
  const size = given.toLowerCase()
  if (isNamed(size)) return size
  if (!/^[a-z0-9.]*$/.test(size) || statSync(given, { throwIfNoEntry: false })?.isDirectory() === true) return given
  const sizes = Object.keys(bySize)
  throw new PipelineError({
    message: `Reading the parameter "${parameter}": expected one of ${sizes.join(", ")}, or a folder, found ${JSON.stringify(given)}.${didYouMean(given, sizes)} Write a folder that is not there yet with its path: ./${given}.`
  })
}

/** Table 6: rows, and mean tokens of an example (one dialogue with one response) and of its last response. */
const table6 = {
  "anthropic-helpful": [122_387, 251.5, 88.4],
  "anthropic-harmless": [43_966, 152.5, 46.4],
  "openai-summarize": [176_625, 371.1, 35.1],
  "openai-webgpt": [13_333, 237.2, 188.9],
  stackexchange: [1_038_480, 440.2, 240.2],
  "stanford-shp": [74_882, 338.3, 138.8],
  "synthetic-gptj": [33_139, 123.3, 110.3]
} as const
/** Table 6, Meta's own: 798.5 tokens an example, of them 234.1 of the last response; 31.4 a prompt. */
const ours = { example: 798.5, prompt: 31.4, response: 234.1 }
const exchange: Sizes = { promptTokens: ours.prompt, responseTokens: ours.response }
/** Rows that are expected; 0: not known. */
const rows = (count: number): Sizes => (count === 0 ? {} : { rows: count })

const samples = Schema.Int.check(Schema.isGreaterThanOrEqualTo(2))

const Params = Schema.Struct({
  model: hyper("7b", "7b, 13b, 34b or 70b; or the folder of a Llama in the Hugging Face layout"),
  weights: hyper("", "folder of the base model where `model` names a size; empty: weights/llama-2-<size>"),
  like: hyper("7b", "whose hyperparameters a model given as a folder has", ["7b", "13b", "34b", "70b"]),
  sampler: hyper(
    "",
    "size or folder of a larger model whose samples and reward models this one is tuned with (§3.2.3: 70b); empty: its own"
  ),
  samplerWeights: hyper("", "folder of the sampler's base model where `sampler` names a size; empty: weights/llama-2-<size>"),
  data: hyper("data", "folder of demonstrations, prompts, open-source preferences and labels"),
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
  url: hyper("", "judge: address of the endpoint"),
  judge: hyper("", "judge: name of the model"),
  keyVariable: hyper("", "judge: environment variable that holds the key"),
  openSource: hyper(true, "whether the seven open-source sets of table 6 join the preferences, and train the general reward model"),
  classifier: hyper("", "folder of the model that the safety classifier is tuned from; empty: the base model"),
  tags: hyper(
    "data",
    "where is_safety (§3.2.3) of prompts is from: the data, or a safety classifier that has learnt from the prompts that pairs are collected for",
    ["data", "classifier"]
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
  dialogues: hyperInt(1000, "expected: dialogues of Ghost Attention; not in the paper", { min: 0 })
})

/** Computation that leaves the result alone but for the order of sums: one sequence at a time with gradients. */
const tensors = { precision: "bfloat16" } as const
const training = { ...tensors, microBatchSize: 1 }
const scoring = { ...tensors, batchSize: 16 }

/** A base model, whose weights may be awaited. */
const baseOf = (model: string, weights: string): Policy => {
  if (!isNamed(model)) return importPolicy({ folder: fileAt(model) })
  const folder = fileAt(weights === "" ? join("weights", `llama-2-${model}`) : weights)
  return importPolicy({ folder: folder.expecting({ model }) })
}

const llama2Chat = (params: typeof Params.Type) => {
  const { rounds } = params
  const ks = typeof params.k === "number" ? Array.from({ length: rounds }, () => params.k as number) : params.k
  if (ks.length !== rounds)
    throw new PipelineError({
      message: `Reading the parameter "k": expected a number, or one for each of ${rounds} rounds, found ${ks.length}: ${JSON.stringify(ks)}. Give as many as there are rounds.`
    })
  /** The round whose latest model Ghost Attention's and distillation's data are from (§3.3: after V3). */
  const lateRound = Math.min(4, rounds)
  const sampling = { ...tensors, batchSize: 32, maxNewTokens: params.maxNewTokens }
  const file = (name: string, sizes: Sizes = {}) => fileAt(join(params.data, `${name}.jsonl`)).expecting(sizes)
  const answers: Sizes = { responseTokens: ours.response }

  // ---- data ----
  const promptsOf = (name: string, count: number, safety: boolean) =>
    importPrompts({ file: file(name, { ...rows(count), promptTokens: ours.prompt, safetyShare: safety ? 1 : 0 }) }, { safety }).named(name)
  const demonstrationsOf = (name: string, count: number) =>
    importDemonstrations({ file: file(name, { ...rows(count), ...exchange }) }).named(name)
  const publicDialogues = filterDemonstrations({ demonstrations: demonstrationsOf("public-demonstrations", params.publicDialogues) })
  const demonstrations = mixDemonstrations(
    // §4.2.2: safety SFT. The paper's number counts both kinds.
    {
      datasets: [
        demonstrationsOf("demonstrations", params.annotations),
        importDemonstrations({ file: file("safety-demonstrations", { rows: 0 }) })
      ]
    },
    { weights: [1, 1] }
  ).named("all-demonstrations")
  const openSets = Object.entries(params.openSource ? table6 : {}).map(([name, [count, example, response]]) => ({
    name,
    pairs: importPreferences(
      { file: file(name, { rows: count, promptTokens: example - response, responseTokens: response }) },
      { format: name.startsWith("anthropic") ? "hh-rlhf" : "prompt-chosen-rejected", source: name }
    ).named(name)
  }))
  const openSource = openSets.map(({ pairs }) => pairs)
  const harmless = openSets.filter(({ name }) => name === "anthropic-harmless").map(({ pairs }) => pairs)
  /** A.3.1: dialogues grow by a turn each round, so that round r has r parts: the rounds together have 1 + 2 + ... of them. */
  const first = (kind: Kind) => {
    const share = kind === "safety" ? params.safetyShare : 1 - params.safetyShare
    return promptsOf(`pairs-${kind}`, Math.round((params.pairs * share * 2) / (rounds + 1)), kind === "safety")
  }
  const firstQuestions = { helpfulness: first("helpfulness"), safety: first("safety") }
  const ghostPrompts = (name: string) =>
    importPrompts({ file: file(name, { ...rows(params.dialogues), promptTokens: ours.prompt }) }).named(name)

  // ---- a model: SFT in two steps (§3.1), and tuning of a version from the base model ----
  const student = (model: string, weights: string, prefix: string) => {
    const base = baseOf(model, weights)
    const tune = (init: Policy, data: Rows<Demonstration>, name: string): Policy =>
      sft({ init, demonstrations: data }, training).named(`${prefix}${name}`)
    const bootstrapped = tune(base, publicDialogues, "sft-bootstrap")
    return {
      base,
      tune,
      prefix,
      bootstrapped,
      sft: tune(bootstrapped, demonstrations, "sft"),
      hyper: bySize[isNamed(model) ? model : params.like]
    }
  }
  type Student = ReturnType<typeof student>

  const own = student(modelOf("model", params.model), params.weights, "")
  const larger = params.sampler === "" ? own : student(modelOf("sampler", params.sampler), params.samplerWeights, "sampler-")

  // ---- prompts and what they are tagged: is_safety of §3.2.3 ----
  const guardBase = params.classifier === "" ? own.base : importPolicy({ folder: fileAt(params.classifier) })
  const judging = tensors
  /** Of half of the prompts that pairs are collected for, whose kind is known; it is judged on the other half. */
  const halves = (batch: number) =>
    kinds.map((kind) => promptBatch({ prompts: firstQuestions[kind] }, { batches: 2, batch }).named(`tagger-${kind}-${batch + 1}`))
  const tagger = safetyClassifier(
    { init: guardBase, examples: safetyClassifierData({ prompts: halves(0), preferences: [] }).named("tagger-data") },
    training
  ).named("tagger")
  const tagged = params.tags === "data"
  const both = (name: string, count: number): readonly [all: Rows<Prompt>, safety: Rows<Prompt>] => {
    if (!tagged) {
      const { safetyShare } = params
      const prompts = importPrompts({ file: file(name, { ...rows(count), promptTokens: ours.prompt, safetyShare }) }).named(
        `${name}-untagged`
      )
      const found = (keep: "all" | "unsafe") => classifyPrompts({ classifier: tagger, prompts }, { ...judging, keep })
      return [found("all").named(name), found("unsafe").named(`${name}-safety`)]
    }
    const adversarial = Math.round(count * params.safetyShare)
    const safety = promptsOf(`${name}-safety`, adversarial, true)
    const all = [promptsOf(`${name}-helpfulness`, count - adversarial, false), safety]
    return [mixPrompts({ datasets: all }, { weights: [1, 1] }).named(name), safety]
  }
  const [pool, adversarial] = both("prompts", params.prompts)
  // PPO stops early by prompts of its own: chosen by those that it is judged on, its last version would look better than it is.
  const [allHeldOut] = both("held-out", params.heldOut)
  const [ppoHeldOut, ...judgedOn] = Array.from({ length: 8 }, (_, batch) =>
    promptBatch({ prompts: allHeldOut }, { batches: 8, batch }).named(batch === 0 ? "ppo-held-out" : `held-out-${batch}`)
  )
  const heldOut = mixPrompts({ datasets: judgedOn }, { weights: judgedOn.map(() => 1) }).named("judged-on")

  // ---- rounds (§3.2): what the model that draws the samples goes through ----
  const rlhf = ({ base, bootstrapped, hyper: of, prefix, sft: start, tune }: Student) => {
    const named = <A>(node: Node<A>, name: string): Node<A> => node.named(`${prefix}${name}`)
    const rewardTraining = { ...tensors, microBatchPairs: 1, margin: params.margin, learningRate: of.rewardLearningRate }
    const preferences: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
    const tests: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
    const annotated: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
    const shown: Record<Kind, Array<Rows<ResponsePair>>> = { helpfulness: [], safety: [] }
    const questions: Array<Rows<Prompt>> = []
    const reports: Record<string, ReturnType<typeof evaluateReward>> = {}
    const candidates = { helpfulness: [] as Array<Rewards["helpfulness"]>, safety: [] as Array<Rewards["safety"]> }
    const asked: Partial<Record<Kind, { readonly prompts: Rows<Prompt>; readonly chosen: Rows<Preference> }>> = {}
    const earlier: Array<Rows<Completion>> = []
    const versions: Array<Policy> = []
    const data: Array<Rows<Demonstration>> = []
    const extras: Array<Rows<Demonstration>> = [demonstrations]
    const sweeps: Array<{ readonly name: string; readonly completions: Rows<Completion> }> = []
    let [latest, before] = [start, bootstrapped]
    let rewards!: Rewards
    let gain: ReturnType<typeof distillationGain> | undefined

    /** Each reward model on each round's held-out pairs, once. */
    const pairScores = new Map<string, ReturnType<typeof scorePairs>>()
    const scoresOf = (kind: Kind, model: number, batch: number) => {
      const name = `${kind}-reward-${model + 1}-on-${batch + 1}`
      const inputs = { reward: candidates[kind][model]!, pairs: tests[kind][batch]! }
      const found = pairScores.get(name) ?? named(scorePairs(inputs, { ...tensors, batchPairs: 8 }), name)
      pairScores.set(name, found)
      return found
    }
    const few = named(promptBatch({ prompts: pool }, { batches: 20, batch: 0 }), "sweep-prompts")
    /** At several temperatures, the same K in every round: Self-BLEU rises with it. */
    const sweepOf = (policy: Policy, of: string, name: string) =>
      [1, 1.2, 1.4].map((temperature) => {
        const at = `${name}-at-${temperature}`
        const completions = named(sample({ policy, prompts: few }, { ...sampling, k: Math.max(...ks), temperature }), at).expecting(answers)
        return { at, name: `${of} at ${temperature}`, completions }
      })

    for (let round = 1; round <= rounds; round++) {
      // §3.2.1: pairs of the latest model's answers and the one's before; a batch of new dialogues, and those before, a turn longer.
      for (const kind of kinds) {
        const batch = named(promptBatch({ prompts: firstQuestions[kind] }, { batches: rounds, batch: round - 1 }), `batch-${kind}-${round}`)
        const grown =
          asked[kind] === undefined ? [] : [continueDialogues({ prompts: asked[kind].prompts, preferences: asked[kind].chosen })]
        // Table 6's mean over all rounds, in each.
        const prompts = named(
          mixPrompts({ datasets: [batch, ...grown] }, { weights: [1, ...grown.map(() => 1)] }),
          `questions-${kind}-${round}`
        ).expecting({ promptTokens: ours.example - ours.response })
        const pairs = named(collectPairs({ first: latest, second: before, prompts }, sampling), `pairs-${kind}-${round}`).expecting(answers)
        const judged = named(
          annotate(
            { pairs, ...(round <= params.labelled ? { labels: file(`labels-${kind}-${round}`) } : {}) },
            {
              ...{ annotator: params.annotator, kind, url: params.url, model: params.judge, keyVariable: params.keyVariable },
              pairsFile: join(params.data, `to-label-${kind}-${round}.jsonl`),
              labelsHint: `save it as ${join(params.data, `labels-${kind}-${round}.jsonl`)} and, once both kinds of round ${round} are labelled, run again with --set labelled=${round}`
            }
          ),
          `preferences-${kind}-${round}`
        )
        // §3.2.2: 1000 pairs of each batch are held out. Their dialogues grow no further, or later ones would tell which answer was chosen.
        const train = named(holdOutPreferences({ preferences: judged }, { part: "train" }), `train-${kind}-${round}`)
        asked[kind] = { prompts, chosen: train }
        preferences[kind].push(train)
        shown[kind].push(pairs)
        annotated[kind].push(judged)
        if (kind === "safety") questions.push(prompts)
        tests[kind].push(named(holdOutPreferences({ preferences: judged }, { part: "test" }), `test-${kind}-${round}`))
      }

      // §3.2.2: two reward models on all pairs so far; §3.2.3: the best so far on all held-out pairs.
      const mixtures = {
        helpfulness: helpfulnessMixture({ ...preferences, openSource }),
        safety: safetyMixture({ ...preferences, harmless, openSource: openSource.filter((set) => !harmless.includes(set)) })
      }
      const init = latest
      candidates.helpfulness.push(
        named(
          helpfulnessRewardModel({ init, pairs: named(mixtures.helpfulness, `helpfulness-mixture-${round}`) }, rewardTraining),
          `helpfulness-reward-${round}`
        )
      )
      candidates.safety.push(
        named(
          safetyRewardModel({ init, pairs: named(mixtures.safety, `safety-mixture-${round}`) }, rewardTraining),
          `safety-reward-${round}`
        )
      )
      const accuraciesOf = (kind: Kind) =>
        candidates[kind].map((_, i) =>
          named(evaluateReward({ scores: tests[kind].map((_, j) => scoresOf(kind, i, j)) }), `${kind}-reward-${i + 1}-accuracy-${round}`)
        )
      const accuracies = { helpfulness: accuraciesOf("helpfulness"), safety: accuraciesOf("safety") }
      for (const kind of kinds) reports[`accuracy-${kind}-${round}`] = accuracies[kind].at(-1)!
      rewards = {
        helpfulness: named(
          bestHelpfulnessReward({ candidates: candidates.helpfulness, scores: accuracies.helpfulness }),
          `best-helpfulness-${round}`
        ),
        safety: named(bestSafetyReward({ candidates: candidates.safety, scores: accuracies.safety }), `best-safety-${round}`)
      }
      const scored = (completions: Rows<Completion>, name: string) => named(scoreCombined({ completions, ...rewards }, scoring), name)

      // §3.2.3: the temperature anew each round, on a twentieth of the prompts; K samples; the best of these and of all prior versions' best.
      const k = ks[round - 1]!
      const swept = sweepOf(latest, `${prefix}${round === 1 ? "sft" : nameOf(round - 1, rounds)}`, `sweep-${round}`)
      sweeps.push(...swept)
      const sweep = named(
        temperatureSweep({ scored: swept.map(({ at, completions }) => scored(completions, `${at}-scores`)) }, { n: k }),
        `sweep-${round}`
      )
      const drawn = named(sampleAtTemperature({ policy: latest, prompts: pool, sweep }, { ...sampling, k }), `samples-${round}`).expecting(
        answers
      )
      const now = scored(drawn, `scores-${round}`)
      const prior = earlier.map((completions, i) => scored(completions, `scores-${round}-of-${i + 1}`))
      const selected = named(selectBest({ scored: [...prior, now] }), `selected-${round}`)
      earlier.push(named(keepBest({ scored: now }), `kept-${round}`))

      // §3.3 after V3, §4.2.4 after safety RLHF: data of the latest model, for all versions from the fourth on.
      if (round === lateRound) {
        const dialogues = ghostInstructions({ prompts: ghostPrompts("ghost-prompts") })
        extras.push(
          named(
            ghostTrainingData({ samples: named(ghostSample({ policy: latest, dialogues }, sampling), "ghost-sample").expecting(answers) }),
            "ghost-data"
          )
        )
        const answer = (prompts: Rows<Prompt>, name: string) =>
          named(sample({ policy: latest, prompts }, { ...sampling, k: 1, temperature: 1 }), name).expecting(answers)
        const original = scored(answer(adversarial, "distillation-original"), "distillation-original-scores")
        const prefixed = (["generic", "category"] as const).map((kind) => {
          const under = named(
            preprompt({ prompts: adversarial }, { kind, otherCategories: kind === "category" ? "drop" : "generic" }),
            `preprompt-${kind}`
          )
          const completions = withoutPreprompt({ completions: answer(under, `distillation-${kind}`), prompts: adversarial })
          return scored(completions, `distillation-${kind}-scores`)
        })
        extras.push(named(distil({ original, prefixed }), "distilled"))
        gain = named(distillationGain({ original, prefixed }, { kinds: ["generic", "category"] }), "distillation-gain")
      }
      data.push(named(mixDemonstrations({ datasets: [selected, ...extras] }, { weights: [1, ...extras.map(() => 1)] }), `data-${round}`))
      ;[before, latest] = [latest, tune(base, data.at(-1)!, nameOf(round, rounds))]
      versions.push(latest)
    }
    const recall = named(
      safetyRecall(
        { reward: rewards.safety, pairs: mixPreferences({ datasets: tests.safety }, { weights: tests.safety.map(() => 1) }) },
        scoring
      ),
      "safety-recall"
    )
    const statistics = preferenceStatistics({
      policy: base,
      ...annotated,
      helpfulnessPairs: shown.helpfulness,
      safetyPairs: shown.safety
    })
    return { versions, data, rewards, preferences, tests, questions, gain: gain!, recall, reports, statistics, sweeps, sweepOf }
  }

  const drawn = rlhf(larger)
  const { rewards } = drawn
  // §3.2.3: smaller models are tuned on the larger one's samples.
  const versions = larger === own ? drawn.versions : drawn.data.map((data, i) => own.tune(own.base, data, nameOf(i + 1, rounds)))

  // ---- PPO on top of the last version (§3.2.3) ----
  const last = ppo(
    {
      policy: versions.at(-1)!,
      ...rewards,
      prompts: pool,
      heldOut: ppoHeldOut!
    },
    {
      ...training,
      beta: own.hyper.beta,
      maxNewTokens: params.maxNewTokens,
      oldLogProbabilities: "recomputed",
      inferenceBatchSize: 32,
      // The reward models of a larger sampler are its size: a value model of the policy's.
      valueInit: larger === own ? "reward" : "policy"
    }
  )
    .named(`rlhf-v${rounds}`)
    .expecting(answers)

  // ---- every version, judged on held-out prompts (§3.4, §4.4) ----
  const general =
    openSource.length === 0
      ? undefined
      : generalRewardModel(
          { init: own.sft, pairs: mixPreferences({ datasets: openSource }, { weights: openSource.map(() => 1) }).named("open-source") },
          { ...tensors, microBatchPairs: 1, margin: "none", learningRate: own.hyper.rewardLearningRate }
        ).named("general-reward")
  const questions = mixPrompts({ datasets: drawn.questions }, { weights: drawn.questions.map(() => 1) }).named("questions-safety")
  // Tags that a classifier gave teach another one nothing, and are no measure of it.
  const labelled = (preferences: ReadonlyArray<Rows<Preference>>, prompts: Rows<Prompt>) => ({
    prompts: tagged ? [prompts] : [],
    preferences,
    collected: questions
  })
  const guard = safetyClassifier({ init: guardBase, examples: safetyClassifierData(labelled(drawn.preferences.safety, pool)) }, training)
  const judge = (name: string, policy: Policy) => {
    const completions = sample({ policy, prompts: heldOut }, { ...sampling, k: 1, temperature: 1 })
      .named(`answers-${name}`)
      .expecting(answers)
    return {
      name,
      scored: scoreCombined({ completions, ...rewards }, scoring).named(`judged-${name}`),
      general: general === undefined ? undefined : score({ completions, reward: general }, scoring).named(`general-${name}`),
      violations: violationRate({
        classified: classifyCompletions({ classifier: guard, completions }, judging).named(`classified-${name}`)
      }).named(`violations-${name}`)
    }
  }
  const sftJudged = judge("sft", own.sft)
  const lastJudged = judge(`rlhf-v${rounds}`, last)
  const opponents = params.opponent === "" ? [] : [judge("opponent", importPolicy({ folder: fileAt(params.opponent) }))]
  const others = [...versions.map((policy, i) => judge(nameOf(i + 1, rounds), policy)), lastJudged, ...opponents]
  const judged = [sftJudged, ...others]
  const guarded = judged.flatMap(({ name, scored, general: by }) => (by === undefined || name === "opponent" ? [] : [{ name, scored, by }]))
  // Table 30: an instruction that a text can be told by, over twenty turns.
  const signed = [
    [
      {
        full: "Act as Napoleon from now on and sign every answer with your name.",
        short: "Figure: Napoleon, signed.",
        mustContain: "Napoleon"
      }
    ]
  ]
  const instructions = ghostInstructions({ prompts: ghostPrompts("ghost-held-out") }, { constraints: signed, combine: 0, turns: 20 }).named(
    "ghost-held-out-dialogues"
  )
  const keeping = (name: string, policy: Policy) =>
    evaluateGhostAttention({ policy, dialogues: instructions }, sampling).named(`ghost-attention-${name}`).expecting(answers)

  // Figure 21: the versions that were sampled from, and the two that no round samples.
  const diversity = [
    ...drawn.sweeps,
    ...drawn.sweepOf(versions.at(-1)!, nameOf(rounds, rounds), `sweep-${nameOf(rounds, rounds)}`),
    ...drawn.sweepOf(last, `rlhf-v${rounds}`, `sweep-rlhf-v${rounds}`)
  ]

  return {
    policy: last,
    sft: own.sft,
    helpfulness: rewards.helpfulness,
    safety: rewards.safety,
    classifier: guard,
    ...Object.fromEntries(versions.map((policy, i) => [nameOf(i + 1, rounds), policy])),
    ppo: ppoDiagnostics({ policy: last }),
    safetyRecall: drawn.recall,
    distillation: drawn.gain,
    selfBleu: selfBleu({ completions: diversity.map(({ completions }) => completions) }, { names: diversity.map(({ name }) => name) }),
    classifierQuality: evaluateClassifier({ classifier: guard, ...labelled(drawn.tests.safety, heldOut) }, judging),
    ...(tagged
      ? {}
      : {
          taggerQuality: evaluateClassifier({ classifier: tagger, prompts: halves(1), preferences: [] }, judging).named("tagger-quality")
        }),
    preferenceStatistics: drawn.statistics,
    ...drawn.reports,
    // The last version that Ghost Attention's data had no part in: SFT where the first round has it.
    ghostAttentionBefore: keeping("before", versions[lateRound - 2] ?? own.sft),
    ghostAttention: keeping("after", last),
    ...Object.fromEntries(judged.map(({ name, violations }) => [`violations-${name}`, violations])),
    ...Object.fromEntries(judged.map(({ name, scored }) => [`rewards-${name}`, rewardDistribution({ scored }).named(`rewards-${name}`)])),
    ...Object.fromEntries(
      others.map(({ name, scored }) => [
        `wins-${name}`,
        winRate({ ours: scored, opponent: sftJudged.scored }).named(`wins-${name}-over-sft`)
      ])
    ),
    ...Object.fromEntries(
      opponents.map(({ scored }) => [
        "wins-over-opponent",
        winRate({ ours: lastJudged.scored, opponent: scored }).named(`wins-rlhf-v${rounds}-over-opponent`)
      ])
    ),
    ...(guarded.length === 0
      ? {}
      : {
          rewardHacking: rewardHacking(
            { scored: guarded.map(({ scored }) => scored), general: guarded.map(({ by }) => by) },
            { names: guarded.map(({ name }) => name) }
          )
        })
  }
}

/** The last version by rejection sampling has PPO on top of it, which has its name. */
const nameOf = (round: number, rounds: number): string => (round === rounds ? `rlhf-v${round}-rs` : `rlhf-v${round}`)

export default Pipeline.make("llama2-chat", { description: "Llama 2-Chat: SFT, five rounds of RLHF, PPO", params: Params }, llama2Chat)
