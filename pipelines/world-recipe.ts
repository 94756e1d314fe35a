/**
 * The whole recipe on the generated small world (data/world): pretraining, SFT in two steps, five rounds of preference collection, reward models and
 * rejection sampling, Ghost Attention from the fourth on, context distillation, PPO on top of the fifth; each version judged by the world's oracle
 * on prompts of words and phrasings that no model saw. `without` leaves one step out.
 */
import * as Schema from "effect/Schema"
import type { Node } from "../runtime/define/node.ts"
import type { Checkpoint, Dataset } from "../schemas/artifact.ts"
import type { Completion, Demonstration, Preference, Prompt, ResponsePair } from "../schemas/rows.ts"
import { annotate } from "../stages/preferences/annotate.ts"
import { bestHelpfulnessReward, bestSafetyReward } from "../stages/reward/best-reward.ts"
import { collectPairs } from "../stages/preferences/collect-pairs.ts"
import { distil, distillationGain, preprompt, withoutPreprompt } from "../stages/safety/context-distillation.ts"
import { evaluateClassifier, violationRate } from "../stages/safety/evaluate-classifier.ts"
import { evaluateReward, rewardBaselines, scorePairs } from "../stages/reward/evaluate-reward.ts"
import { filterDemonstrations } from "../stages/data/filter-demonstrations.ts"
import { evaluateGhostAttention, ghostInstructions, ghostSample, ghostTrainingData } from "../stages/ghost-attention/ghost-attention.ts"
import { keepBest } from "../stages/rejection-sampling/keep-best.ts"
import { mixDemonstrations, mixPreferences, mixPrompts } from "../stages/data/mix.ts"
import { ppo } from "../stages/ppo/ppo.ts"
import { ppoDiagnostics } from "../stages/ppo/diagnostics.ts"
import { pretrain } from "../stages/training/pretrain.ts"
import { preferenceStatistics } from "../stages/preferences/preference-statistics.ts"
import { continueDialogues, promptBatch } from "../stages/data/prompts.ts"
import { helpfulnessMixture, safetyMixture } from "../stages/reward/reward-mixture.ts"
import { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "../stages/reward/reward-model.ts"
import { rewardHacking } from "../stages/evaluation/reward-hacking.ts"
import { htmlReport } from "../stages/report/report.ts"
import { classifyCompletions, safetyClassifier, safetyClassifierData } from "../stages/safety/safety-classifier.ts"
import { sample } from "../stages/rejection-sampling/sample.ts"
import { score } from "../stages/reward/score.ts"
import { scoreCombined } from "../stages/reward/score-combined.ts"
import { selectBest, selectRandom } from "../stages/rejection-sampling/select-best.ts"
import { selfBleu } from "../stages/evaluation/self-bleu.ts"
import { sft } from "../stages/training/sft.ts"
import { sampleAtTemperature, temperatureSweep } from "../stages/rejection-sampling/temperature-sweep.ts"
import { tokenizer } from "../stages/training/tokenizer.ts"
import { worldConstraints, worldDemonstrations, worldPreprompts, worldPrompts, worldTexts } from "../stages/world/world.ts"
import { worldSummary } from "../stages/world/summary.ts"
import { type parts, worldParams } from "./world-params.ts"

type Model = Node<Checkpoint<"policy">>
type Helpfulness = Node<Checkpoint<"helpfulness-reward">>
type Safety = Node<Checkpoint<"safety-reward">>
type Rows<Row> = Node<Dataset<Row>>
type Kind = "helpfulness" | "safety"
interface Models {
  readonly helpfulness: Helpfulness
  readonly safety?: Safety
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
  const promptsOf = (
    kind: Kind | "adversarial",
    split: "train" | "heldOut",
    count: number,
    name: string,
    seed: number,
    followUps = 0
  ): Rows<Prompt> => worldPrompts({}, { kind, split, count, seed, followUps }).named(`${name}-${kind}`)
  const both = (name: string, split: "train" | "heldOut", counts: readonly [number, number], seed: number): Rows<Prompt> =>
    mixPrompts(
      { datasets: [promptsOf("helpfulness", split, counts[0], name, seed), promptsOf("safety", split, counts[1], name, seed)] },
      { weights: [1, 1] }
    ).named(name)
  const annotated = {
    helpfulness: promptsOf("helpfulness", "train", rounds * params.pairs, "prompts-for-pairs", 1, params.multiTurn > 0 ? 2 : 0),
    safety: promptsOf("safety", "train", rounds * params.pairs, "prompts-for-pairs", 1)
  }
  const pool = both("pool", "train", [params.prompts, Math.ceil(params.prompts / 2)], 2)
  const heldOut = both("held-out", "heldOut", [params.heldOut, params.heldOut], 3)

  /** §3.2.1: pairs of the latest model's answers and of the one before, at two temperatures, judged by the oracle. */
  const pairsOf = (latest: Model, before: Model, prompts: Rows<Prompt>, kind: Kind, name: string) => {
    const pairs = collectPairs(
      { first: latest, second: before, prompts },
      { ...sampling, temperatureFirst: 1, temperatureSecond: 1.3 }
    ).named(`pairs-${name}`)
    return { pairs, preferences: annotate({ pairs }, { annotator: "oracle", kind, noise: params.noise }).named(`preferences-${name}`) }
  }

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
    const prompts = promptsOf("adversarial", "train", Math.ceil(params.prompts / 2), "distillation", 6)
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
    helpfulness: promptsOf("helpfulness", "heldOut", params.testPairs, "test-prompts", 4),
    safety: promptsOf("safety", "heldOut", params.testPairs, "test-prompts", 4)
  }
  const testPairs: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
  const preferences: Record<Kind, Array<Rows<Preference>>> = { helpfulness: [], safety: [] }
  const collected: Record<Kind, Array<Rows<ResponsePair>>> = { helpfulness: [], safety: [] }
  let asked: Rows<Prompt> | undefined
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
  // The first round compares SFT with its own first step: two different checkpoints, as every round (§3.2.1).
  let [latest, before] = [first, bootstrapped]
  let best: { readonly helpfulness: Helpfulness; readonly safety: Safety } | undefined
  let models!: Models
  let selected!: Rows<Demonstration>
  let allSamples: Array<Rows<Completion>> = []
  let distilled: ReturnType<typeof distillation> | undefined
  let ghost: Rows<Demonstration> | undefined
  let ghostBefore: ReturnType<typeof keeping> | undefined

  /** A batch of new dialogues and of some of the round before that go on. */
  const goingOn = (first: Rows<Prompt>, round: number): Rows<Prompt> => {
    const last = preferences.helpfulness.at(-1)
    const grown =
      params.multiTurn === 0 || asked === undefined || last === undefined
        ? undefined
        : continueDialogues({ prompts: asked, preferences: last }).named(`dialogues-${round}`)
    asked =
      grown === undefined ? first : mixPrompts({ datasets: [first, grown] }, { weights: [1, params.multiTurn] }).named(`prompts-${round}`)
    return asked
  }
  /** §3.2.3, figure 8: one model's samples at several temperatures, scored by the reward models in use. */
  const temperatures = [0.7, 1, 1.3]
  const sweepOf = (policy: Model, models: Models, prompts: Rows<Prompt>, name: string) => {
    const samples = temperatures.map((temperature) =>
      sample({ policy, prompts }, { ...sampling, k: Math.max(8, params.k), temperature }).named(`${name}-samples-${temperature}`)
    )
    const scored = samples.map((completions, i) =>
      scoreCombined({ completions, ...models }, scoring).named(`${name}-scores-${temperatures[i]!}`)
    )
    return { samples, report: temperatureSweep({ scored }, { n: params.k }).named(name) }
  }
  let sweptBefore: ReturnType<typeof sweepOf> | undefined

  for (let round = 1; round <= rounds; round++) {
    for (const kind of ["helpfulness", "safety"] as const) {
      const first = promptBatch({ prompts: annotated[kind] }, { batches: rounds, batch: round - 1 }).named(`batch-${kind}-${round}`)
      const batch = kind === "safety" ? first : goingOn(first, round)
      const found = pairsOf(latest, before, batch, kind, `${kind}-${round}`)
      collected[kind].push(found.pairs)
      preferences[kind].push(found.preferences)
      const test = promptBatch({ prompts: testPrompts[kind] }, { batches: rounds, batch: round - 1 }).named(`test-batch-${kind}-${round}`)
      testPairs[kind].push(pairsOf(latest, before, test, kind, `test-${kind}-${round}`).preferences)
    }
    const helpfulnessPairs = helpfulnessMixture({ helpfulness: preferences.helpfulness, safety: preferences.safety, openSource: [] })
    const safetyPairs = safetyMixture({ safety: preferences.safety, harmless: [], helpfulness: preferences.helpfulness, openSource: [] })
    // From the chat model of the round, so that they know what it knows (§3.2.2).
    const helpful = helpfulnessRewardModel({ init: latest, pairs: helpfulnessPairs.named(`helpfulness-mixture-${round}`) }, training).named(
      `helpfulness-reward-${round}`
    )
    const safe = safetyRewardModel({ init: latest, pairs: safetyPairs.named(`safety-mixture-${round}`) }, training).named(
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

    const drawing = { ...sampling, k: params.k }
    const drawn = (
      sweptBefore === undefined
        ? sample({ policy: latest, prompts: pool }, { ...drawing, temperature: params.temperature })
        : sampleAtTemperature({ policy: latest, prompts: pool, sweep: sweptBefore.report }, drawing)
    ).named(`samples-${round}`)
    const scoredNow = (completions: Rows<Completion>, name: string) => scoreCombined({ completions, ...models }, scoring).named(name)
    const now = scoredNow(drawn, `scores-${round}`)
    const prior = has("prior-versions") ? earlier.map((completions, i) => scoredNow(completions, `scores-${round}-of-${i + 1}`)) : []
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
    if (params.temperatures === "swept" && round < rounds)
      sweptBefore = sweepOf(latest, models, both(`sweep-prompts-${round}`, "train", [40, 20], 10 + round), `sweep-${round}`)
  }

  // ---- PPO on top of the last one (§3.2.3) ----
  const last = has("ppo")
    ? ppo(
        {
          policy: latest,
          ...models,
          prompts: pool,
          heldOut: both("ppo-held-out", "train", [Math.ceil(params.prompts / 8), Math.ceil(params.prompts / 16)], 7)
        },
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
  const answering = (version: { readonly name: string; readonly policy: Model }) => {
    const { name, policy } = version
    const said = sample({ policy, prompts: heldOut }, { ...sampling, k: params.answers, temperature: 1 }).named(`answers-${name}`)
    return { name, said, judged: scoreCombined({ completions: said, ...models }, scoring).named(`judged-${name}`) }
  }
  const answered = versions.map(answering)
  const answers = answered.map(({ judged }) => judged)
  const answeredByControls = controls.map(answering)
  const ghostAfter = ghost === undefined ? undefined : keeping(last, "ghost-attention-after")
  // A run that leaves it out is judged too: by how its last version forgets.
  const withoutGhost = has("ghost-attention") ? ghostBefore : keeping(last, "ghost-attention-left-out")
  const baselines = (kind: Kind) =>
    rewardBaselines({
      train: mixPreferences({ datasets: preferences[kind] }, { weights: preferences[kind].map(() => 1) }).named(`${kind}-pairs`),
      test: mixPreferences({ datasets: testPairs[kind] }, { weights: testPairs[kind].map(() => 1) }).named(`${kind}-test-pairs`)
    }).named(`${kind}-baselines`)
  const inUse = (kind: Kind) => accuracyOf(best![kind], kind, `best-${kind}`)
  /** What takes longer: diversity, a reward model that took no part in tuning, a safety classifier and the violations that it finds. */
  const fullEvaluation = () => {
    // Self-BLEU at each temperature (figure 21), SFT beside the last version.
    const swept = [
      ["sft", sweepOf(first, models, sweepPrompts, "sweep-sft")],
      ["last", sweep]
    ] as const
    const diversity = selfBleu(
      { completions: swept.flatMap(([, { samples }]) => samples) },
      { names: swept.flatMap(([name]) => temperatures.map((temperature) => `${name} at ${temperature}`)) }
    ).named("diversity")
    // §3.4.1: a general reward model from pairs of models before SFT, on prompts of its own.
    const apart = (["helpfulness", "safety"] as const).map(
      (kind) =>
        pairsOf(bootstrapped, base, promptsOf(kind, "train", params.pairs, "general-prompts", 9), kind, `general-${kind}`).preferences
    )
    const general = generalRewardModel(
      { init: bootstrapped, pairs: mixPreferences({ datasets: apart }, { weights: [1, 1] }).named("general-pairs") },
      training
    ).named("general-reward")
    const guard = rewardHacking(
      {
        scored: answers,
        general: answered.map(({ name, said }) => score({ completions: said, reward: general }, scoring).named(`general-${name}`))
      },
      { names: versions.map(({ name }) => name) }
    ).named("guard")
    // In the manner of Llama Guard; its context is too short for a list of the categories.
    const task = { listed: false, messages: 2 }
    const labelled = { prompts: [annotated.safety, annotated.helpfulness], preferences: preferences.safety }
    const classifier = safetyClassifier(
      { init: base, examples: safetyClassifierData(labelled, { task }).named("classifier-data") },
      { learningRate: params.learningRate, batchSize: params.batchSize, sequenceLength: 2 * params.sequenceLength }
    ).named("safety-classifier")
    const judging = { task, batchSize }
    const classifierEvaluation = evaluateClassifier(
      { classifier, prompts: [testPrompts.safety, testPrompts.helpfulness], preferences: testPairs.safety },
      judging
    ).named("classifier-evaluation")
    const violations = ({ name, said }: (typeof answered)[number]) =>
      violationRate({
        classified: classifyCompletions({ classifier, completions: said }, judging).named(`classified-${name}`)
      }).named(`violations-${name}`)
    return {
      ...{ diversity, guard, general, classifier, classifierEvaluation },
      ...{ violationsBefore: violations(answered[1]!), violations: violations(answered.at(-1)!) }
    }
  }
  const summary = worldSummary(
    {
      versions: answered.map(({ said }) => said),
      versionScores: answers,
      controls: answeredByControls.map(({ said }) => said),
      controlScores: answeredByControls.map(({ judged }) => judged),
      helpfulness: inUse("helpfulness"),
      helpfulnessBaselines: baselines("helpfulness"),
      safety: inUse("safety"),
      safetyBaselines: baselines("safety"),
      ...(withoutGhost === undefined ? {} : { withoutGhostAttention: withoutGhost }),
      ...(ghostAfter === undefined ? {} : { withGhostAttention: ghostAfter }),
      ...(distilled === undefined ? {} : { original: distilled.original, distilled: distilled.demonstrations })
    },
    { versions: versions.map(({ name }) => name), controls: controls.map(({ name }) => name) }
  )
  // ---- the best of N at several temperatures (figure 8), statistics of the pairs (table 6), and everything on one page ----
  const sweepPrompts = both("sweep-prompts", "heldOut", [40, 20], 8)
  const sweep = sweepOf(last, models, sweepPrompts, "sweep")
  const statistics = preferenceStatistics(
    {
      policy: base,
      ...preferences,
      helpfulnessPairs: collected.helpfulness,
      safetyPairs: collected.safety
    },
    { annotator: "world" }
  )
  const full = params.evaluation === "full" ? fullEvaluation() : undefined
  const diagnostics = has("ppo") ? ppoDiagnostics({ policy: last }) : undefined
  const page = htmlReport(
    {
      summary,
      versions: answers,
      sweep: sweep.report,
      statistics,
      ...(full === undefined ? {} : { diversity: full.diversity, guard: full.guard }),
      ...(diagnostics === undefined ? {} : { ppo: diagnostics }),
      ...(distilled === undefined ? {} : { distillation: distilled.gain })
    },
    { versions: versions.map(({ name }) => name) }
  ).named("report")
  return {
    base,
    sft: first,
    ...(Object.fromEntries(versions.slice(2).map(({ name, policy }) => [name, policy])) as Record<`rlhf-v${string}`, Model>),
    policy: last,
    helpfulness: models.helpfulness,
    ...(models.safety === undefined ? {} : { safety: models.safety }),
    statistics,
    ...full,
    ...(diagnostics === undefined ? {} : { ppo: diagnostics }),
    ...(distilled === undefined ? {} : { distillation: distilled.gain }),
    summary,
    report: page
  }
}
