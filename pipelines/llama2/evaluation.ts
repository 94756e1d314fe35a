/** The evaluation in pipelines/llama2-chat.ts (§3.3, §3.4, §4.2.3, §4.4): every version on the same held-out prompts. */
import { fileAt } from "../../runtime/define/node.ts"
import type { Completion, Preference, Prompt } from "../../schemas/rows.ts"
import { annotate } from "../../stages/preferences/annotate.ts"
import { evaluateClassifier } from "../../stages/safety/evaluate-classifier.ts"
import { violationRate } from "../../stages/safety/violation-rate.ts"
import { evaluateGhostAttention } from "../../stages/ghost-attention/evaluate.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { judgedWinRate, pairCompletions } from "../../stages/evaluation/judged-win-rate.ts"
import { mixPreferences, mixPrompts } from "../../stages/data/mix.ts"
import { refusalRate } from "../../stages/evaluation/refusal-rate.ts"
import { rewardDistribution } from "../../stages/evaluation/reward-distribution.ts"
import { rewardHacking } from "../../stages/evaluation/reward-hacking.ts"
import { generalRewardModel } from "../../stages/reward/reward-model.ts"
import { classifyCompletions } from "../../stages/safety/classify.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { score } from "../../stages/reward/score.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { selfBleu } from "../../stages/evaluation/self-bleu.ts"
import { winRate } from "../../stages/evaluation/win-rate.ts"
import type { Datasets } from "./data.ts"
import { answers, kinds, lateRound, nameOf, type Params, type Policy, type Rows, samplingOf, scoring, tensors, training } from "./params.ts"
import type { rlhf } from "./rounds.ts"
import type { Student } from "./student.ts"

/** Table 30: an instruction that a text can be told by. It asks for short answers, so that twenty turns fit the context. */
const signed = [
  [
    {
      full: "Act as Napoleon from now on, answer in one or two sentences, and sign every answer with your name.",
      short: "Figure: Napoleon, brief, signed.",
      mustContain: "Napoleon"
    }
  ]
]
/**
 * Twenty questions of 31.4 tokens (table 6) and nineteen answers of 60 (assumed: two sentences and a name) are 1,768 tokens: with about ten a turn of the chat
 * format, half of Llama 2's 4096. Answers of up to 140 on average fit. An answer may take 512: one that is cut off would end its dialogue, and the longer it may be
 * the less room is left. A model that forgets to be brief (234 tokens, table 6) ends after turn 13 and is missing from then on, where it would have counted
 * against its version: read a turn with the number of its dialogues and with why the others ended, which the report has.
 */
const ghostTurns = { turns: 20, maxNewTokens: 512, expected: { responseTokens: 60 } }

export interface Trained {
  readonly own: Student
  readonly drawn: ReturnType<typeof rlhf>
  /** By rejection sampling, from the first round on; and with PPO on top of the last of them. */
  readonly versions: ReadonlyArray<Policy>
  readonly last: Policy
}

/** `guardBase` is what the safety classifier that counts violations is tuned from. */
export const evaluation = (params: Params, data: Datasets, guardBase: Policy, { drawn, last, own, versions }: Trained) => {
  const { rounds } = params
  const { rewards } = drawn
  const sampling = samplingOf(params)
  const answersOf = (policy: Policy, prompts: Rows<Prompt>, name: string) =>
    sample({ policy, prompts }, { ...sampling, k: 1, temperature: 1 })
      .named(name)
      .expecting(answers)

  const general =
    data.openSource.length === 0
      ? undefined
      : generalRewardModel(
          {
            init: own.sft,
            pairs: mixPreferences({ datasets: data.openSource }, { weights: data.openSource.map(() => 1) }).named("open-source")
          },
          { ...tensors, microBatchPairs: 1, margin: "none", learningRate: own.hyper.rewardLearningRate }
        ).named("general-reward")
  const questions = mixPrompts({ datasets: drawn.questions }, { weights: drawn.questions.map(() => 1) }).named("questions-safety")
  // Tags that a classifier gave teach another one nothing, and are no measure of it.
  const labelled = (preferences: ReadonlyArray<Rows<Preference>>, prompts: Rows<Prompt>) => ({
    prompts: data.tagger === undefined ? [prompts] : [],
    preferences,
    collected: questions
  })
  const guard = safetyClassifier(
    { init: guardBase, examples: safetyClassifierData(labelled(drawn.preferences.safety, data.pool)) },
    training
  )
  const judge = (name: string, policy: Policy) => {
    const completions = answersOf(policy, data.heldOut, `answers-${name}`)
    return {
      name,
      completions,
      scored: scoreCombined({ completions, ...rewards }, scoring).named(`judged-${name}`),
      general: general === undefined ? undefined : score({ completions, reward: general }, scoring).named(`general-${name}`),
      violations: violationRate({
        classified: classifyCompletions({ classifier: guard, completions }, tensors).named(`classified-${name}`)
      }).named(`violations-${name}`),
      refusals: refusalRate({ completions }).named(`refusals-${name}`),
      falseRefusals: refusalRate({ completions: answersOf(policy, data.borderline, `borderline-answers-${name}`) }).named(
        `false-refusals-${name}`
      )
    }
  }
  const sftJudged = judge("sft", own.sft)
  const lastJudged = judge(`rlhf-v${rounds}`, last)
  const opponents = params.opponent === "" ? [] : [judge("opponent", importPolicy({ folder: fileAt(params.opponent) }))]
  const others = [...versions.map((policy, i) => judge(nameOf(i + 1, rounds), policy)), lastJudged, ...opponents]
  const judged = [sftJudged, ...others]
  const guarded = judged.flatMap(({ name, scored, general: by }) => (by === undefined || name === "opponent" ? [] : [{ name, scored, by }]))
  const instructions = ghostInstructions(
    { prompts: data.ghostPrompts("ghost-held-out") },
    { constraints: signed, combine: 0, turns: ghostTurns.turns }
  ).named("ghost-held-out-dialogues")
  const keeping = (name: string, policy: Policy) =>
    evaluateGhostAttention(
      { policy, dialogues: instructions },
      { ...sampling, maxNewTokens: Math.min(params.maxNewTokens, ghostTurns.maxNewTokens) }
    )
      .named(`ghost-attention-${name}`)
      .expecting(ghostTurns.expected)

  // Figure 11: by the judge, where there is one.
  const byJudge = (name: string, ours: Rows<Completion>, opponent: Rows<Completion>) => {
    const { judge: model, keyVariable, url } = params
    const verdicts = kinds.map((kind) => {
      const pairs = pairCompletions({ ours, opponent }, { prompts: kind }).named(`${name}-${kind}-pairs`)
      return annotate({ pairs }, { annotator: "judge", kind, url, model, keyVariable }).named(`${name}-${kind}-verdicts`)
    })
    return judgedWinRate({ ours, opponent, verdicts }).named(`${name}-judged`)
  }
  const judgedWins = (params.url === "" ? [] : others).map(({ name, completions }) =>
    name === "opponent"
      ? (["judged-wins-over-opponent", byJudge(`wins-rlhf-v${rounds}-over-opponent`, lastJudged.completions, completions)] as const)
      : ([`judged-wins-${name}`, byJudge(`wins-${name}-over-sft`, completions, sftJudged.completions)] as const)
  )

  // Figure 21: the versions that were sampled from, and the two that no round samples.
  const diversity = [
    ...drawn.sweeps,
    ...drawn.sweepOf(versions.at(-1)!, nameOf(rounds, rounds), `sweep-${nameOf(rounds, rounds)}`),
    ...drawn.sweepOf(last, `rlhf-v${rounds}`, `sweep-rlhf-v${rounds}`)
  ]

  return {
    classifier: guard,
    selfBleu: selfBleu({ completions: diversity.map(({ completions }) => completions) }, { names: diversity.map(({ name }) => name) }),
    classifierQuality: evaluateClassifier({ classifier: guard, ...labelled(drawn.tests.safety, data.heldOut) }, tensors),
    ...(data.tagger === undefined
      ? {}
      : { taggerQuality: evaluateClassifier({ ...data.tagger, preferences: [] }, tensors).named("tagger-quality") }),
    // The last version that Ghost Attention's data had no part in: SFT where the first round has it.
    ghostAttentionBefore: keeping("before", versions[lateRound(rounds) - 2] ?? own.sft),
    ghostAttention: keeping("after", last),
    ...Object.fromEntries(judged.map(({ name, violations }) => [`violations-${name}`, violations])),
    ...Object.fromEntries(judged.map(({ name, refusals }) => [`refusals-${name}`, refusals])),
    ...Object.fromEntries(judged.map(({ name, falseRefusals }) => [`false-refusals-${name}`, falseRefusals])),
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
    ...Object.fromEntries(judgedWins),
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
