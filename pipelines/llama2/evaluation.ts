/** The evaluation in pipelines/llama2-chat.ts (§3.3, §3.4, §4.2.3, §4.4): every version on the same held-out prompts. */
import { fileAt } from "../../runtime/define/node.ts"
import type { Completion, Preference, Prompt } from "../../schemas/rows.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { mixPreferences, mixPrompts } from "../../stages/data/mix.ts"
import { batchRewards } from "../../stages/evaluation/batch-rewards.ts"
import { calibration } from "../../stages/evaluation/calibration.ts"
import { judgedWinRate, pairCompletions } from "../../stages/evaluation/judged-win-rate.ts"
import { judgeRatings } from "../../stages/evaluation/ratings.ts"
import { refusalRate } from "../../stages/evaluation/refusal-rate.ts"
import { rewardDistribution } from "../../stages/evaluation/reward-distribution.ts"
import { rewardHacking } from "../../stages/evaluation/reward-hacking.ts"
import { selfBleu } from "../../stages/evaluation/self-bleu.ts"
import { winRate } from "../../stages/evaluation/win-rate.ts"
import { annotate } from "../../stages/preferences/annotate.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { generalRewardModel } from "../../stages/reward/reward-model.ts"
import { score } from "../../stages/reward/score.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { classifyCompletions } from "../../stages/safety/classify.ts"
import { evaluateClassifier } from "../../stages/safety/evaluate-classifier.ts"
import { violationRate } from "../../stages/safety/violation-rate.ts"
import { kinds, type Policy, type Rows } from "../nodes.ts"
import { nameOf } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { ghostEvaluation } from "./ghost-attention.ts"
import { answers, lateRound, type Params, samplingOf, scoring, tensors } from "./params.ts"
import type { Drawn } from "./rounds.ts"
import type { Student } from "./student.ts"

export interface Trained {
  readonly own: Student
  readonly drawn: Drawn
  /** Versions from rejection sampling, from the first round on, and the last one with PPO on top. */
  readonly versions: ReadonlyArray<Policy>
  readonly last: Policy
}

/** §3.4.1: a reward model trained only on open-source pairs, if there are any. */
const generalReward = ({ openSource }: Datasets, { hyper, sft }: Student) => {
  if (openSource.length === 0) return undefined
  const pairs = mixPreferences({ datasets: openSource }, { weights: openSource.map(() => 1) }).named("open-source")
  const config = { ...tensors, margin: "none" as const, learningRate: hyper.rewardLearningRate }
  return generalRewardModel({ init: sft, pairs }, config).named("general-reward")
}

/** The safety classifier that counts violations, and its quality. Prompts tagged by a classifier are not used to train or evaluate this one. */
const violationClassifier = (init: Policy, data: Datasets, { preferences, questions, tests }: Drawn) => {
  const collected = mixPrompts({ datasets: questions }, { weights: questions.map(() => 1) }).named("questions-safety")
  const labelled = (pairs: ReadonlyArray<Rows<Preference>>, prompts: Rows<Prompt>) => ({
    prompts: data.tagger === undefined ? [prompts] : [],
    preferences: pairs,
    collected
  })
  const classifier = safetyClassifier({ init, examples: safetyClassifierData(labelled(preferences.safety, data.pool)) }, tensors)
  return { classifier, quality: evaluateClassifier({ classifier, ...labelled(tests.safety, data.heldOut) }, tensors) }
}

/** A version's answers, and their evaluation. */
const judging =
  (
    params: Params,
    data: Datasets,
    { rewards }: Drawn,
    classifier: ReturnType<typeof safetyClassifier>,
    general: ReturnType<typeof generalReward>
  ) =>
  (name: string, policy: Policy) => {
    const answersTo = (prompts: Rows<Prompt>, of: string) =>
      sample({ policy, prompts }, { ...samplingOf(params), k: 1, temperature: 1 })
        .named(of)
        .expecting(answers)
    const completions = answersTo(data.heldOut, `answers-${name}`)
    const classified = classifyCompletions({ classifier, completions }, tensors).named(`classified-${name}`)
    const borderline = answersTo(data.borderline, `borderline-answers-${name}`)
    return {
      name,
      completions,
      scored: scoreCombined({ completions, ...rewards }, scoring).named(`judged-${name}`),
      general: general === undefined ? undefined : score({ completions, reward: general }, scoring).named(`general-${name}`),
      violations: violationRate({ classified }).named(`violations-${name}`),
      refusals: refusalRate({ completions }).named(`refusals-${name}`),
      falseRefusals: refusalRate({ completions: borderline }).named(`false-refusals-${name}`)
    }
  }
type Judged = ReturnType<ReturnType<typeof judging>>

/** Figure 11: win rates according to a judge. */
const winsByJudge = ({ judge: model, keyVariable, url }: Params, name: string, ours: Rows<Completion>, opponent: Rows<Completion>) => {
  const verdicts = kinds.map((kind) => {
    const pairs = pairCompletions({ ours, opponent }, { prompts: kind }).named(`${name}-${kind}-pairs`)
    return annotate({ pairs }, { annotator: "judge", kind, url, model, keyVariable }).named(`${name}-${kind}-verdicts`)
  })
  return judgedWinRate({ ours, opponent, verdicts }).named(`${name}-judged`)
}

/** Every version against SFT, and the last one against another model: by reward models, and by the judge if there is one. */
const winRates = (params: Params, sft: Judged, versions: ReadonlyArray<Judged>, last: Judged, opponents: ReadonlyArray<Judged>) => {
  const others = [...versions, last, ...opponents]
  const lastName = `wins-${last.name}-over-opponent`
  const judged = others.map(({ completions, name }) =>
    name === "opponent"
      ? (["judged-wins-over-opponent", winsByJudge(params, lastName, last.completions, completions)] as const)
      : ([`judged-wins-${name}`, winsByJudge(params, `wins-${name}-over-sft`, completions, sft.completions)] as const)
  )
  return {
    ...Object.fromEntries(
      others.map(({ name, scored }) => [`wins-${name}`, winRate({ ours: scored, opponent: sft.scored }).named(`wins-${name}-over-sft`)])
    ),
    ...Object.fromEntries(
      opponents.map(({ scored }) => ["wins-over-opponent", winRate({ ours: last.scored, opponent: scored }).named(lastName)])
    ),
    ...Object.fromEntries(params.url === "" ? [] : judged)
  }
}

/** Prompts whose category in the data is one of these words. */
const promptTypes = ["creative", "factual"].map((name) => ({ name, categories: [name] }))
/** Figure 21: Self-BLEU of the versions whose samples the rounds used, and of the last version before and after PPO, which no round samples. */
const diversityOf = ({ sweepOf, sweepPrompts: prompts, sweeps }: Drawn, versions: ReadonlyArray<Policy>, last: Policy, rounds: number) => {
  const sampled = nameOf(rounds, rounds)
  const swept = [
    ...sweeps,
    ...sweepOf(versions.at(-1)!, sampled, `sweep-${sampled}`),
    ...sweepOf(last, `rlhf-v${rounds}`, `sweep-rlhf-v${rounds}`)
  ]
  return selfBleu(
    { completions: swept.map(({ completions }) => completions), prompts },
    { names: swept.map(({ name }) => name), types: promptTypes }
  )
}

/** Figure 26: SFT's answers to some of each round's helpfulness prompts, scored by the last reward model. */
const curriculumOf = (params: Params, { helpfulnessQuestions, rewards }: Drawn, policy: Policy) =>
  batchRewards({
    scored: helpfulnessQuestions.map((prompts, i) => {
      const some = mixPrompts({ datasets: [prompts] }, { weights: [1], caps: [500] }).named(`curriculum-prompts-${i + 1}`)
      const completions = sample({ policy, prompts: some }, { ...samplingOf(params), k: 4, temperature: 1 })
        .named(`curriculum-answers-${i + 1}`)
        .expecting(answers)
      return score({ completions, reward: rewards.helpfulness }, scoring).named(`curriculum-scores-${i + 1}`)
    })
  }).named("curriculum")

/** §3.4.1: rewards of our own versions according to the general reward model. */
const rewardHackingOf = (versions: ReadonlyArray<Judged>) => {
  const guarded = versions.flatMap(({ name, scored, general }) => (general === undefined ? [] : [{ name, scored, general }]))
  if (guarded.length === 0) return {}
  const inputs = { scored: guarded.map(({ scored }) => scored), general: guarded.map(({ general }) => general) }
  return { rewardHacking: rewardHacking(inputs, { names: guarded.map(({ name }) => name) }) }
}

/**
 * Figure 29, for versions that generated no pairs, so that the reward models were trained on none of their answers. A judge replaces the paper's three
 * annotators. Left out if the judge also labelled the pairs, because its ratings would not be independent.
 */
const calibrationOf = ({ annotator, judge: model, keyVariable, url }: Params, { shown }: Drawn, outside: ReadonlyArray<Judged>) => {
  if (url === "" || annotator === "judge") return {}
  const ratings = outside.map(({ completions, name }) =>
    judgeRatings({ completions }, { url, model, keyVariable }).named(`ratings-${name}`)
  )
  const trainedOn = [...shown.helpfulness, ...shown.safety]
  return { calibration: calibration({ scored: outside.map(({ scored }) => scored), ratings, trainedOn }).named("calibration") }
}

/** `guardBase`: the model from which the safety classifier that counts violations is tuned. */
export const evaluation = (params: Params, data: Datasets, guardBase: Policy, { drawn, last, own, versions }: Trained) => {
  const { rounds } = params
  const { classifier, quality } = violationClassifier(guardBase, data, drawn)
  const judge = judging(params, data, drawn, classifier, generalReward(data, own))
  const sft = judge("sft", own.sft)
  const tuned = versions.map((policy, i) => judge(nameOf(i + 1, rounds), policy))
  const final = judge(`rlhf-v${rounds}`, last)
  const opponents = params.opponent === "" ? [] : [judge("opponent", importPolicy({ folder: fileAt(params.opponent) }))]
  const ours = [sft, ...tuned, final]
  const judged = [...ours, ...opponents]
  const ghost = ghostEvaluation(params, data)
  // The last version trained without Ghost Attention data: SFT if the first round includes it.
  const withoutGhost = versions[lateRound(rounds) - 2] ?? own.sft

  return {
    classifier,
    selfBleu: diversityOf(drawn, versions, last, rounds),
    classifierQuality: quality,
    ...(data.tagger === undefined
      ? {}
      : { taggerQuality: evaluateClassifier({ ...data.tagger, preferences: [] }, tensors).named("tagger-quality") }),
    ghostAttentionBefore: ghost.keeping(withoutGhost, "before"),
    ghostAttention: ghost.keeping(last, "after"),
    ...ghost.keepingNeverTrained(withoutGhost, "before"),
    ...ghost.keepingNeverTrained(last, "after"),
    attentionMap: ghost.attention({ without: withoutGhost, with: last }),
    ...Object.fromEntries(judged.map(({ name, violations }) => [`violations-${name}`, violations])),
    ...Object.fromEntries(judged.map(({ name, refusals }) => [`refusals-${name}`, refusals])),
    ...Object.fromEntries(judged.map(({ name, falseRefusals }) => [`false-refusals-${name}`, falseRefusals])),
    ...Object.fromEntries(judged.map(({ name, scored }) => [`rewards-${name}`, rewardDistribution({ scored }).named(`rewards-${name}`)])),
    ...winRates(params, sft, tuned, final, opponents),
    ...rewardHackingOf(ours),
    curriculum: curriculumOf(params, drawn, own.sft),
    ...calibrationOf(params, drawn, [tuned.at(-1)!, final])
  }
}
