/**
 * The whole recipe on the generated small world (data/world): pretraining, SFT in two steps, five rounds of preference collection, reward models and
 * rejection sampling, Ghost Attention from the fourth on, context distillation, PPO on top of the fifth; each version judged by the world's oracle
 * on prompts of words and phrasings that no model saw. `without` leaves one step out.
 */
import * as Schema from "effect/Schema"
import type { Node } from "../runtime/node.ts"
import type { Checkpoint, Dataset } from "../schemas/artifact.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import type { Completion, Demonstration, Preference, Prompt, ScoredCompletion } from "../schemas/rows.ts"
import { annotate } from "../stages/annotate.ts"
import { bestHelpfulnessReward, bestSafetyReward } from "../stages/best-reward.ts"
import { collectPairs } from "../stages/collect.ts"
import { distil, distillationGain, preprompt, withoutPreprompt } from "../stages/context-distillation.ts"
import { evaluateReward, rewardBaselines, scorePairs } from "../stages/evaluate-reward.ts"
import { filterDemonstrations } from "../stages/filter-demonstrations.ts"
import { evaluateGhostAttention, ghostInstructions, ghostSample, ghostTrainingData } from "../stages/ghost-attention.ts"
import { keepBest } from "../stages/keep-best.ts"
import { mixDemonstrations, mixPreferences, mixPrompts } from "../stages/mix.ts"
import { ppo } from "../stages/ppo.ts"
import { ppoDiagnostics } from "../stages/ppo-diagnostics.ts"
import { pretrain } from "../stages/pretrain.ts"
import { promptBatch } from "../stages/prompts.ts"
import { helpfulnessMixture, safetyMixture } from "../stages/reward-mixture.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../stages/reward-model.ts"
import { htmlReport } from "../stages/report.ts"
import { sample } from "../stages/sample.ts"
import { scoreCombined } from "../stages/score-combined.ts"
import { selectBest, selectRandom } from "../stages/select-best.ts"
import { sft } from "../stages/sft.ts"
import { temperatureSweep } from "../stages/temperature-sweep.ts"
import { tokenizer } from "../stages/tokenizer.ts"
import { worldConstraints, worldDemonstrations, worldPreprompts, worldPrompts, worldTexts } from "../stages/world.ts"
import { worldSummary } from "../stages/world-summary.ts"

type Model = Node<Checkpoint<"policy">>
type Helpfulness = Node<Checkpoint<"helpfulness-reward">>
type Safety = Node<Checkpoint<"safety-reward">>
type Rows<Row> = Node<Dataset<Row>>
type Kind = "helpfulness" | "safety"
interface Models {
  readonly helpfulness: Helpfulness
  readonly safety?: Safety
}

/** What can be left out, to see what it is worth (docs/ablations.md). */
export const parts = ["nothing", "margin", "ppo", "prior-versions", "safety-model", "distillation", "ghost-attention"] as const

/** Sizes that end within minutes on two cores. */
export const worldParams = {
  rounds: hyperInt(5, "of pairs, reward models and rejection sampling; §3.2.3: 5", { min: 1 }),
  without: hyper("nothing", "a step to leave out", parts),
  dim: hyperInt(96, "width of the model", { min: 2 }),
  layers: hyperInt(3, "its blocks", { min: 1 }),
  heads: hyperInt(4, "its attention heads", { min: 1 }),
  vocabSize: hyperInt(600, "of the tokenizer", { min: 300 }),
  contextLength: hyperInt(384, "tokens it can attend over", { min: 256 }),
  sequenceLength: hyperInt(128, "tokens a sequence of pretraining; twice as many when fine-tuning", { min: 128 }),
  texts: hyperInt(8000, "dialogues to pretrain on", { min: 100 }),
  pretrainSteps: hyperInt(1200, "optimiser steps of pretraining", { min: 1 }),
  pretrainBatch: hyperInt(8, "sequences a step of pretraining", { min: 1 }),
  pretrainLearningRate: hyper(3e-3, "its peak learning rate", { min: 0 }),
  bootstrap: hyperInt(200, "careless public dialogues of SFT's first step", { min: 1 }),
  demonstrations: hyperInt(400, "annotated dialogues of SFT's second step", { min: 1 }),
  learningRate: hyper(1e-3, "peak, of every fine-tuning; the paper's 2e-5 is for 7B and more", { min: 0 }),
  sftSteps: hyperInt(24, "optimiser steps of SFT's second step; half as many of its first", { min: 2 }),
  steps: hyperInt(60, "optimiser steps of each version's fine-tuning from the base model", { min: 1 }),
  batchSize: hyperInt(6, "sequences a step of fine-tuning", { min: 1 }),
  pairs: hyperInt(300, "helpfulness prompts a round that pairs are collected for, and as many safety prompts", { min: 10 }),
  noise: hyper(0.06, "of the annotators: the chance of a wrong choice is exp(-difference / noise) / 2", { min: 0 }),
  rewardLearningRate: hyper(1e-3, "peak; the paper's 1e-5 is for 7B and more", { min: 0 }),
  rewardBatch: hyperInt(16, "pairs a step of the reward models", { min: 1 }),
  prompts: hyperInt(400, "helpfulness prompts that rejection sampling and PPO answer, and half as many safety prompts", { min: 2 }),
  k: hyperInt(6, "answers a prompt", { min: 1 }),
  temperature: hyper(1, "of rejection sampling; the paper's 1.2 to 1.3 is for larger models", { min: 0 }),
  ppoIterations: hyperInt(15, "batches of PPO", { min: 1 }),
  ppoBatch: hyperInt(96, "answers a batch", { min: 1 }),
  ppoLearningRate: hyper(5e-5, "constant; the paper's 1e-6 is for 7B and more", { min: 0 }),
  valueLearningRate: hyper(1e-3, "of the value model", { min: 0 }),
  beta: hyper(0.1, "weight of the KL penalty; the paper's 0.01 is for 7B and more", { min: 0 }),
  dialogues: hyperInt(100, "dialogues of Ghost Attention, and as many held-out ones", { min: 4 }),
  heldOut: hyperInt(250, "held-out helpfulness prompts that versions are judged on, and as many safety prompts", { min: 10 }),
  maxNewTokens: hyperInt(40, "tokens an answer", { min: 8 }),
  inferenceBatch: hyperInt(64, "sequences decoded or scored at once", { min: 1 }),
  precision: hyper("float32", "of every model", ["float32", "bfloat16"])
}
const WorldParams = Schema.Struct(worldParams)
export type WorldParams = typeof WorldParams.Type

export const worldRecipe = (params: WorldParams, start?: Model) => {
  const has = (part: (typeof parts)[number]) => params.without !== part
  const { maxNewTokens, inferenceBatch: batchSize, precision, rounds } = params
  const sampling = { maxNewTokens, batchSize, precision }
  const scoring = { batchSize, precision }

  // ---- a base model, and SFT in two steps (§2.2, §3.1) ----
  const scratch = (): Model => {
    const texts = worldTexts({}, { count: params.texts })
    const sampleOfTexts = worldTexts({}, { count: Math.min(1500, params.texts) }).named("tokenizer-texts")
    return pretrain(
      { tokenizer: tokenizer({ texts: sampleOfTexts }, { vocabSize: params.vocabSize }), texts },
      {
        dim: params.dim,
        layers: params.layers,
        heads: params.heads,
        kvHeads: params.heads,
        ffn: Math.ceil((params.dim * 8) / 3 / 16) * 16,
        contextLength: params.contextLength,
        sequenceLength: params.sequenceLength,
        steps: params.pretrainSteps,
        batchSize: params.pretrainBatch,
        microBatchSize: params.pretrainBatch,
        learningRate: params.pretrainLearningRate,
        warmupSteps: Math.ceil(params.pretrainSteps / 25),
        precision
      }
    ).named("base")
  }
  const base = start ?? scratch()
  const tune = (init: Model, demonstrations: Rows<Demonstration>, steps: number): Model =>
    sft(
      { init, demonstrations },
      {
        steps,
        learningRate: params.learningRate,
        batchSize: params.batchSize,
        microBatchSize: params.batchSize,
        sequenceLength: 2 * params.sequenceLength,
        precision
      }
    )
  const careless = filterDemonstrations({
    demonstrations: worldDemonstrations({}, { count: params.bootstrap, quality: "public" }).named("public-dialogues")
  })
  const demonstrations = worldDemonstrations({}, { count: params.demonstrations, quality: "annotated" }).named("demonstrations")
  const bootstrapped = tune(base, careless, Math.ceil(params.sftSteps / 2)).named("sft-bootstrap")
  const first = tune(bootstrapped, demonstrations, params.sftSteps).named("sft")

  // ---- prompts: for pairs, for rejection sampling and PPO, held out ----
  const promptsOf = (kind: Kind, split: "train" | "heldOut", count: number, name: string, seed: number): Rows<Prompt> =>
    worldPrompts({}, { kind, split, count, seed }).named(`${name}-${kind}`)
  const both = (name: string, split: "train" | "heldOut", counts: readonly [number, number], seed: number): Rows<Prompt> =>
    mixPrompts(
      { datasets: [promptsOf("helpfulness", split, counts[0], name, seed), promptsOf("safety", split, counts[1], name, seed)] },
      { weights: [1, 1] }
    ).named(name)
  const annotated = {
    helpfulness: promptsOf("helpfulness", "train", rounds * params.pairs, "prompts-for-pairs", 1),
    safety: promptsOf("safety", "train", rounds * params.pairs, "prompts-for-pairs", 1)
  }
  const pool = both("pool", "train", [params.prompts, Math.ceil(params.prompts / 2)], 2)
  const heldOut = both("held-out", "heldOut", [params.heldOut, params.heldOut], 3)

  /** §3.2.1: pairs of the latest model's answers and of the one before, at two temperatures, judged by the oracle. */
  const pairsOf = (latest: Model, before: Model, prompts: Rows<Prompt>, kind: Kind, name: string): Rows<Preference> =>
    annotate(
      {
        pairs: collectPairs({ first: latest, second: before, prompts }, { ...sampling, temperatureFirst: 1, temperatureSecond: 1.3 }).named(
          `pairs-${name}`
        )
      },
      { annotator: "oracle", kind, noise: params.noise }
    ).named(`preferences-${name}`)

  // ---- Ghost Attention (§3.3) and context distillation (§4.2.4) ----
  const ghostDialogues = (split: "train" | "heldOut", name: string) =>
    ghostInstructions(
      { prompts: worldPrompts({}, { kind: "plain", split, count: params.dialogues, followUps: 5, seed: 5 }).named(`${name}-prompts`) },
      { constraints: worldConstraints, combine: 0, turns: 6 }
    ).named(name)
  const heldOutDialogues = ghostDialogues("heldOut", "held-out-dialogues")
  const ghostOf = (policy: Model): Rows<Demonstration> =>
    ghostTrainingData({ samples: ghostSample({ policy, dialogues: ghostDialogues("train", "dialogues") }, sampling) })
  const keeping = (policy: Model, name: string) =>
    evaluateGhostAttention({ policy, dialogues: heldOutDialogues }, { ...sampling, checker: "world" }).named(name)

  const distillation = (policy: Model, models: Models) => {
    const prompts = promptsOf("safety", "train", params.prompts, "adversarial", 6)
    const draw = (of: Rows<Prompt>, name: string) => sample({ policy, prompts: of }, { ...sampling, k: 1, temperature: 1 }).named(name)
    const scored = (completions: Rows<Completion>, name: string) => scoreCombined({ completions, ...models }, scoring).named(name)
    const prefixed = preprompt({ prompts }, worldPreprompts)
    const original = scored(draw(prompts, "distillation-original"), "distillation-original-scores")
    const answers = withoutPreprompt({ completions: draw(prefixed, "distillation-prefixed"), prompts })
    const under = [scored(answers, "distillation-prefixed-scores")]
    return {
      original,
      demonstrations: distil({ original, prefixed: under }),
      gain: distillationGain({ original, prefixed: under }, { kinds: ["generic"] })
    }
  }

  // ---- rounds (§3.2): pairs, reward models, rejection sampling over every version's samples, each version from the base model ----
  /** Held out of every round (§3.2.2): pairs on prompts of words and phrasings that no model saw. */
  const testPrompts = {
    helpfulness: promptsOf("helpfulness", "heldOut", params.heldOut, "test-prompts", 4),
    safety: promptsOf("safety", "heldOut", params.heldOut, "test-prompts", 4)
  }
  const testPairs: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
  const preferences: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
  const training = {
    margin: has("margin") ? ("small" as const) : ("none" as const),
    learningRate: params.rewardLearningRate,
    batchPairs: params.rewardBatch,
    microBatchPairs: params.rewardBatch,
    precision
  }
  /** On all test pairs so far. */
  const accuracyOf = (reward: Helpfulness | Safety, kind: Kind, name: string) =>
    evaluateReward({
      scores: testPairs[kind].map((pairs, i) =>
        scorePairs({ reward, pairs }, { batchPairs: batchSize, precision }).named(`${name}-on-${i + 1}`)
      )
    }).named(`${name}-accuracy`)

  /** The best answers of the latest version, and of all versions before by their rounds' reward models. */
  const earlier: Array<Rows<Completion>> = []
  const versions: Array<{ readonly name: string; readonly policy: Model }> = [
    { name: "base", policy: base },
    { name: "sft", policy: first }
  ]
  let [latest, before] = [first, first]
  let best: { readonly helpfulness: Helpfulness; readonly safety: Safety } | undefined
  let models!: Models
  let selected!: Rows<Demonstration>
  let allSamples: Array<Rows<Completion>> = []
  let distilled: ReturnType<typeof distillation> | undefined
  let ghost: Rows<Demonstration> | undefined
  let ghostBefore: ReturnType<typeof keeping> | undefined

  for (let round = 1; round <= rounds; round++) {
    for (const kind of ["helpfulness", "safety"] as const) {
      const batch = promptBatch({ prompts: annotated[kind] }, { batches: rounds, batch: round - 1 }).named(`batch-${kind}-${round}`)
      preferences[kind].push(pairsOf(latest, before, batch, kind, `${kind}-${round}`))
      const test = promptBatch({ prompts: testPrompts[kind] }, { batches: rounds, batch: round - 1 }).named(`test-batch-${kind}-${round}`)
      testPairs[kind].push(pairsOf(latest, before, test, kind, `test-${kind}-${round}`))
    }
    const helpfulnessPairs = helpfulnessMixture({ helpfulness: preferences.helpfulness, safety: preferences.safety, openSource: [] })
    const safetyPairs = safetyMixture({ safety: preferences.safety, harmless: [], helpfulness: preferences.helpfulness, openSource: [] })
    const helpful = helpfulnessRewardModel({ init: first, pairs: helpfulnessPairs.named(`helpfulness-mixture-${round}`) }, training).named(
      `helpfulness-reward-${round}`
    )
    const safe = safetyRewardModel({ init: first, pairs: safetyPairs.named(`safety-mixture-${round}`) }, training).named(
      `safety-reward-${round}`
    )
    // The best so far: the one in use, or the new one.
    const rivals = {
      helpfulness: best === undefined ? [helpful] : [best.helpfulness, helpful],
      safety: best === undefined ? [safe] : [best.safety, safe]
    }
    const scores = (kind: Kind) =>
      rivals[kind].map((reward, i) =>
        accuracyOf(reward, kind, `${kind}-${i === rivals[kind].length - 1 ? "reward" : "best-before"}-${round}`)
      )
    const helpfulness = bestHelpfulnessReward({ candidates: rivals.helpfulness, scores: scores("helpfulness") }).named(
      `best-helpfulness-${round}`
    )
    const safety = bestSafetyReward({ candidates: rivals.safety, scores: scores("safety") }).named(`best-safety-${round}`)
    best = { helpfulness, safety }
    models = has("safety-model") ? { helpfulness, safety } : { helpfulness }

    const drawn = sample({ policy: latest, prompts: pool }, { ...sampling, k: params.k, temperature: params.temperature }).named(
      `samples-${round}`
    )
    const score = (completions: Rows<Completion>, name: string) => scoreCombined({ completions, ...models }, scoring).named(name)
    const now = score(drawn, `scores-${round}`)
    const prior = has("prior-versions") ? earlier.map((completions, i) => score(completions, `scores-${round}-of-${i + 1}`)) : []
    selected = selectBest({ scored: [...prior, now] }).named(`selected-${round}`)
    allSamples = has("prior-versions") ? [...allSamples, drawn] : [drawn]
    earlier.push(keepBest({ scored: now }).named(`kept-${round}`))

    // What later versions learn besides the best samples: some of the demonstrations, Ghost Attention from the fourth on, distillation from the third on.
    if (round === 3 && has("distillation") && has("safety-model")) distilled = distillation(latest, models)
    if (round === 4 && has("ghost-attention")) {
      ghost = ghostOf(latest)
      ghostBefore = keeping(latest, "ghost-attention-before")
    }
    const besides = [
      demonstrations,
      ...(distilled === undefined ? [] : [distilled.demonstrations]),
      ...(ghost === undefined ? [] : [ghost])
    ]
    const data = mixDemonstrations({ datasets: [selected, ...besides] }, { weights: [1, 0.1, ...besides.slice(1).map(() => 0.4)] }).named(
      `data-${round}`
    )
    const name = round < rounds ? `rlhf-v${round}` : `rlhf-v${rounds}-rs`
    ;[before, latest] = [latest, tune(base, data, params.steps).named(name)]
    versions.push({ name, policy: latest })
  }

  // ---- PPO on top of the last one (§3.2.3) ----
  const last = has("ppo")
    ? ppo(
        { policy: latest, ...models, prompts: pool, heldOut: both("ppo-held-out", "train", [64, 32], 7) },
        {
          iterations: params.ppoIterations,
          batchSize: params.ppoBatch,
          miniBatchSize: Math.ceil(params.ppoBatch / 4),
          microBatchSize: Math.ceil(params.ppoBatch / 4),
          learningRate: params.ppoLearningRate,
          valueLearningRate: params.valueLearningRate,
          beta: params.beta,
          maxNewTokens,
          inferenceBatchSize: batchSize,
          evaluateEvery: 5,
          precision,
          oldLogProbabilities: precision === "bfloat16" ? "recomputed" : "recorded"
        }
      ).named(`rlhf-v${rounds}`)
    : latest
  if (has("ppo")) versions.push({ name: `rlhf-v${rounds}`, policy: last })

  // ---- controls: as many steps of SFT alone; a random sample in place of the best ----
  const ppoSteps = has("ppo") ? 4 * params.ppoIterations : 0
  const controls = [
    { name: "sft-as-many-steps", policy: tune(base, demonstrations, params.sftSteps + params.steps + ppoSteps).named("sft-as-many-steps") },
    { name: "random-of-k", policy: tune(base, selectRandom({ completions: allSamples }), params.steps).named("random-of-k") }
  ]

  // ---- judged on held-out prompts by the oracle and by the last round's reward models ----
  const judged = ({ name, policy }: { readonly name: string; readonly policy: Model }): Rows<ScoredCompletion> =>
    scoreCombined(
      { completions: sample({ policy, prompts: heldOut }, { ...sampling, k: 1, temperature: 1 }).named(`answers-${name}`), ...models },
      scoring
    ).named(`judged-${name}`)
  const answers = versions.map(judged)
  const ghostAfter = ghost === undefined ? undefined : keeping(last, "ghost-attention-after")
  const baselines = (kind: Kind) =>
    rewardBaselines({
      train: mixPreferences({ datasets: preferences[kind] }, { weights: preferences[kind].map(() => 1) }).named(`${kind}-pairs`),
      test: mixPreferences({ datasets: testPairs[kind] }, { weights: testPairs[kind].map(() => 1) }).named(`${kind}-test-pairs`)
    }).named(`${kind}-baselines`)
  const inUse = (kind: Kind) => accuracyOf(best![kind], kind, `best-${kind}`)
  const summary = worldSummary(
    {
      versions: answers,
      controls: controls.map(judged),
      helpfulness: inUse("helpfulness"),
      helpfulnessBaselines: baselines("helpfulness"),
      safety: inUse("safety"),
      safetyBaselines: baselines("safety"),
      ...(ghostBefore === undefined || ghostAfter === undefined ? {} : { ghostBefore, ghostAfter }),
      ...(distilled === undefined ? {} : { original: distilled.original, distilled: distilled.demonstrations })
    },
    { versions: versions.map(({ name }) => name), controls: controls.map(({ name }) => name) }
  )
  // ---- the best of N at several temperatures (figure 8), and everything on one page ----
  const sweepPrompts = both("sweep", "heldOut", [40, 20], 8)
  const sweep = temperatureSweep({
    scored: [0.7, 1, 1.3].map((temperature) =>
      scoreCombined(
        {
          completions: sample({ policy: last, prompts: sweepPrompts }, { ...sampling, k: Math.max(8, params.k), temperature }).named(
            `sweep-samples-${temperature}`
          ),
          ...models
        },
        scoring
      ).named(`sweep-scores-${temperature}`)
    )
  })
  const diagnostics = has("ppo") ? ppoDiagnostics({ policy: last }) : undefined
  const page = htmlReport(
    {
      summary,
      versions: answers,
      sweep,
      ...(diagnostics === undefined ? {} : { ppo: diagnostics }),
      ...(distilled === undefined ? {} : { distillation: distilled.gain })
    },
    { versions: versions.map(({ name }) => name) }
  ).named("report")
  return {
    report: page,
    summary,
    policy: last,
    sft: first,
    base,
    helpfulness: models.helpfulness,
    ...(models.safety === undefined ? {} : { safety: models.safety }),
    ...(diagnostics === undefined ? {} : { ppo: diagnostics }),
    ...(distilled === undefined ? {} : { distillation: distilled.gain })
  }
}
