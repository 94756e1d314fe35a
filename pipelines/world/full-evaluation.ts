/** The longer evaluations: diversity, a reward model that is not used for tuning, a safety classifier and the violations that it finds, attacks. */
import type { Prompt } from "../../schemas/rows.ts"
import { mixPreferences, mixPrompts } from "../../stages/data/mix.ts"
import { batchRewards } from "../../stages/evaluation/batch-rewards.ts"
import { rewardHacking } from "../../stages/evaluation/reward-hacking.ts"
import { selfBleu } from "../../stages/evaluation/self-bleu.ts"
import { generalRewardModel } from "../../stages/reward/reward-model.ts"
import { score } from "../../stages/reward/score.ts"
import { evaluateClassifier } from "../../stages/safety/evaluate-classifier.ts"
import { violationRate } from "../../stages/safety/violation-rate.ts"
import { classifyCompletions } from "../../stages/safety/classify.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { worldPrompts } from "../../stages/world/data.ts"
import { type HelpfulnessReward, kinds, type Policy, type Rows } from "../nodes.ts"
import { multiTurnAnswers, redTeam } from "./attacks.ts"
import type { FirstModels } from "./base-and-sft.ts"
import { ownPairs, samplingOf, scoringOf, type WorldParams } from "./params.ts"
import { type Collected, judgedPairs } from "./preferences.ts"
import { promptsOf, type PromptSets } from "./prompts.ts"
import { rewardTraining } from "./reward-models.ts"
import type { JudgedVersion } from "./versions.ts"

const temperatures = [0.5, 1, 1.5]
/** Lists have many right answers, as creative prompts do; the other questions have one. */
const promptTypes = [
  { name: "creative", categories: ["list"] },
  { name: "factual", categories: ["recall", "count", "spell", "translate"] }
]
/** Figure 21: Self-BLEU of every version at each temperature, by type of prompt. */
const diversityOf = (versions: ReadonlyArray<JudgedVersion>, params: WorldParams) => {
  const prompts = worldPrompts({}, { kind: "plain", split: "train", count: 80, seed: 23 }).named("diversity-prompts")
  const drawn = versions.flatMap(({ name, policy }) =>
    temperatures.map((temperature) => ({
      name: `${name} at ${temperature}`,
      completions: sample({ policy, prompts }, { ...samplingOf(params), k: 8, temperature }).named(`diversity-${name}-${temperature}`)
    }))
  )
  return selfBleu(
    { completions: drawn.map(({ completions }) => completions), prompts },
    { names: drawn.map(({ name }) => name), types: promptTypes }
  ).named("diversity")
}

/** Figure 26: SFT's answers to some of each round's helpfulness prompts, scored by the last round's reward model. */
const curriculumOf = (rounds: ReadonlyArray<Rows<Prompt>>, policy: Policy, reward: HelpfulnessReward, params: WorldParams) =>
  batchRewards({
    scored: rounds.map((prompts, i) => {
      const some = mixPrompts({ datasets: [prompts] }, { weights: [1], caps: [100] }).named(`curriculum-prompts-${i + 1}`)
      const said = sample({ policy, prompts: some }, { ...samplingOf(params), k: 6, temperature: 1 }).named(`curriculum-answers-${i + 1}`)
      return score({ completions: said, reward }, scoringOf(params)).named(`curriculum-scores-${i + 1}`)
    })
  }).named("curriculum")

/** §3.4.1: a general reward model from pairs of models before SFT, on its own prompts. */
const generalReward = ({ base, bootstrapped }: FirstModels, params: WorldParams) => {
  const apart = kinds.map((kind) => {
    const prompts = promptsOf(kind, "train", params.pairs, "general-prompts", 9)
    const names = { pairs: `pairs-general-${kind}`, preferences: `preferences-general-${kind}` }
    return judgedPairs({ first: bootstrapped, second: base, prompts }, kind, params, names).preferences
  })
  const pairs = mixPreferences({ datasets: apart }, { weights: [1, 1] }).named("general-pairs")
  return generalRewardModel({ init: bootstrapped, pairs }, rewardTraining(params)).named("general-reward").limited(ownPairs)
}

/** A safety classifier in the style of Llama Guard; its context is too short for a list of the categories. */
const guardOf = (
  init: FirstModels["base"],
  { forPairs, forTestPairs }: PromptSets,
  { preferences, test }: Collected,
  params: WorldParams
) => {
  const task = { listed: false, messages: 2 }
  const labelled = { prompts: [forPairs.safety, forPairs.helpfulness], preferences: preferences.safety }
  const classifier = safetyClassifier(
    { init, examples: safetyClassifierData(labelled, { task }).named("classifier-data") },
    {
      ...{ learningRate: params.learningRate, batchSize: params.batchSize, sequenceLength: 2 * params.sequenceLength },
      precision: params.precision
    }
  ).named("safety-classifier")
  const judging = { task, ...scoringOf(params) }
  return {
    classifier,
    evaluation: evaluateClassifier(
      { classifier, prompts: [forTestPairs.safety, forTestPairs.helpfulness], preferences: test.safety },
      judging
    ).named("classifier-evaluation"),
    violations: ({ name, said }: JudgedVersion) =>
      violationRate({
        classified: classifyCompletions({ classifier, completions: said }, judging).named(`classified-${name}`)
      }).named(`violations-${name}`)
  }
}

export const fullEvaluation = (
  params: WorldParams,
  models: FirstModels,
  prompts: PromptSets,
  collected: Collected,
  versions: ReadonlyArray<JudgedVersion>,
  { asked, reward }: { readonly asked: ReadonlyArray<Rows<Prompt>>; readonly reward: HelpfulnessReward }
) => {
  const general = generalReward(models, params)
  const { classifier, evaluation, violations } = guardOf(models.base, prompts, collected, params)
  return {
    diversity: diversityOf(versions, params),
    curriculum: curriculumOf(asked, models.sft, reward, params),
    guard: rewardHacking(
      {
        scored: versions.map(({ judged }) => judged),
        general: versions.map(({ name, said }) => score({ completions: said, reward: general }, scoringOf(params)).named(`general-${name}`))
      },
      { names: versions.map(({ name }) => name) }
    ).named("guard"),
    general,
    classifier,
    classifierEvaluation: evaluation,
    violationsBefore: violations(versions.find(({ name }) => name === "sft")!),
    violations: violations(versions.at(-1)!),
    redTeam: redTeam(
      versions.filter(({ name }) => name !== "base"),
      params
    ),
    ...Object.fromEntries(multiTurnAnswers(versions, params).map(({ completions, name }) => [`turns-${name}`, completions]))
  }
}
