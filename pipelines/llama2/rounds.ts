/**
 * The rounds of pipelines/llama2-chat.ts (§3.2): what the model that draws the samples goes through. Each round collects pairs, trains two reward models,
 * chooses the best so far, samples, and tunes the next version from the base model.
 */
import { join } from "node:path"
import { PipelineError } from "../../runtime/errors.ts"
import type { Node } from "../../runtime/define/node.ts"
import type { Completion, Demonstration, Preference, Prompt, ResponsePair } from "../../schemas/rows.ts"
import { annotate } from "../../stages/preferences/annotate.ts"
import { bestHelpfulnessReward, bestSafetyReward } from "../../stages/reward/best-reward.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { distil } from "../../stages/safety/distil.ts"
import { distillationGain } from "../../stages/safety/distillation-gain.ts"
import { preprompt, withoutPreprompt } from "../../stages/safety/preprompt.ts"
import { evaluateReward, safetyRecall, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import { keepBest } from "../../stages/rejection-sampling/keep-best.ts"
import { mixDemonstrations, mixPreferences, mixPrompts } from "../../stages/data/mix.ts"
import { preferenceStatistics } from "../../stages/preferences/preference-statistics.ts"
import { continueDialogues, holdOutPreferences, promptBatch } from "../../stages/data/prompts.ts"
import { helpfulnessMixture, safetyMixture } from "../../stages/reward/reward-mixture.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { safeDemonstrations } from "../../stages/safety/safety-sft.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { selectBest } from "../../stages/rejection-sampling/select-best.ts"
import { sampleAtTemperature, temperatureSweep } from "../../stages/rejection-sampling/temperature-sweep.ts"
import type { Datasets } from "./data.ts"
import {
  answers,
  type Kind,
  kinds,
  lateRound,
  nameOf,
  ours,
  type Params,
  type Policy,
  type Rewards,
  type Rows,
  samplingOf,
  scoring,
  tensors
} from "./params.ts"
import type { Student } from "./student.ts"

export const rlhf = (params: Params, data: Datasets, { base, bootstrapped, hyper: of, prefix, sft: start, tune }: Student) => {
  const { rounds } = params
  const { adversarial, demonstrations, firstQuestions, harmless, openSource, pool } = data
  const ks = typeof params.k === "number" ? Array.from({ length: rounds }, () => params.k as number) : params.k
  if (ks.length !== rounds)
    throw new PipelineError({
      message: `Reading the parameter "k": expected a number, or one for each of ${rounds} rounds, found ${ks.length}: ${JSON.stringify(ks)}. Give as many as there are rounds.`
    })
  const sampling = samplingOf(params)

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
  const tuningData: Array<Rows<Demonstration>> = []
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
      const grown = asked[kind] === undefined ? [] : [continueDialogues({ prompts: asked[kind].prompts, preferences: asked[kind].chosen })]
      // Table 6's mean over all rounds, in each.
      const prompts = named(
        mixPrompts({ datasets: [batch, ...grown] }, { weights: [1, ...grown.map(() => 1)] }),
        `questions-${kind}-${round}`
      ).expecting({ promptTokens: ours.example - ours.response })
      const pairs = named(collectPairs({ first: latest, second: before, prompts }, sampling), `pairs-${kind}-${round}`).expecting(answers)
      const judged = named(
        annotate(
          { pairs, ...(round <= params.labelled ? { labels: data.file(`labels-${kind}-${round}`) } : {}) },
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
      if (kind === "safety" && params.safeAnswers) extras.push(named(safeDemonstrations({ preferences: train }), `safe-answers-${round}`))
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
      named(safetyRewardModel({ init, pairs: named(mixtures.safety, `safety-mixture-${round}`) }, rewardTraining), `safety-reward-${round}`)
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
    if (round === lateRound(rounds)) {
      const dialogues = ghostInstructions({ prompts: data.ghostPrompts("ghost-prompts") })
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
    tuningData.push(
      named(mixDemonstrations({ datasets: [selected, ...extras] }, { weights: [1, ...extras.map(() => 1)] }), `data-${round}`)
    )
    ;[before, latest] = [latest, tune(base, tuningData.at(-1)!, nameOf(round, rounds))]
    versions.push(latest)
  }
  // Held-out pairs of all rounds.
  const allOf = (kind: Kind) => mixPreferences({ datasets: tests[kind] }, { weights: tests[kind].map(() => 1) })
  const heldOut = { helpfulness: named(allOf("helpfulness"), "tests-helpfulness"), safety: allOf("safety") }
  const recall = named(safetyRecall({ reward: rewards.safety, pairs: heldOut.safety }, scoring), "safety-recall")
  /** Table 7: the last best reward models on both kinds' held-out pairs and on those of open data. No model is chosen by these. */
  const bySource = (kind: Kind) => {
    const sets = [...kinds.map((name) => ({ name: name as string, pairs: heldOut[name] })), ...data.openTests]
    const scores = sets.map(({ name, pairs }) =>
      named(scorePairs({ reward: rewards[kind], pairs }, { ...tensors, batchPairs: 8 }), `best-${kind}-on-${name}`)
    )
    return named(evaluateReward({ scores }), `best-${kind}-by-source`)
  }
  for (const kind of kinds) reports[`accuracy-${kind}-by-source`] = bySource(kind)
  const statistics = preferenceStatistics({
    policy: base,
    ...annotated,
    helpfulnessPairs: shown.helpfulness,
    safetyPairs: shown.safety
  })
  return { versions, data: tuningData, rewards, preferences, tests, questions, gain: gain!, recall, reports, statistics, sweeps, sweepOf }
}
