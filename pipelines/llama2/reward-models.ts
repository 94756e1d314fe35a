/** The reward models of pipelines/llama2-chat.ts (§3.2.2): two per round, of which the best so far of each kind is used; and their quality at the end. */
import { fileAt } from "../../runtime/define/node.ts"
import { importGeneralReward } from "../../stages/data/import.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { evaluateReward, safetyRecall, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { judgePairs } from "../../stages/reward/judge-pairs.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import type { Completion, Preference } from "../../schemas/rows.ts"
import {
  type ByKind,
  byKind,
  type HelpfulnessReward,
  type Kind,
  kinds,
  type Policy,
  type Rewards,
  type Rows,
  type SafetyReward
} from "../nodes.ts"
import { bestRewards, type Named, rewardModels } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { type Params, scoring, tensors } from "./params.ts"
import type { Collected } from "./preferences.ts"
import type { Student } from "./student.ts"

type PairScores = ReturnType<typeof scorePairs>
type Accuracy = ReturnType<typeof evaluateReward>

const pairScores = (reward: Parameters<typeof scorePairs>[0]["reward"], pairs: Rows<Preference>): PairScores =>
  scorePairs({ reward, pairs }, { ...tensors, batchPairs: 8 })

/** The combined reward (§3.2.3) of completions. */
export const scoredBy = (rewards: Rewards, completions: Rows<Completion>, named: Named, name: string) =>
  named(scoreCombined({ completions, ...rewards }, scoring), name)

export interface RoundRewards {
  /** Of this round and all previous ones. */
  readonly candidates: { readonly helpfulness: ReadonlyArray<HelpfulnessReward>; readonly safety: ReadonlyArray<SafetyReward> }
  /** Each candidate's scores on each round's held-out pairs, computed once. */
  readonly scores: ByKind<ReadonlyArray<ReadonlyArray<PairScores>>>
  /** Each candidate's accuracy on the held-out pairs of all rounds so far. */
  readonly accuracies: ByKind<ReadonlyArray<Accuracy>>
  readonly best: Rewards
}

export const rewardsOfRound = (
  round: number,
  { margin }: Params,
  { harmless, openSource }: Datasets,
  { hyper, named }: Student,
  init: Policy,
  { preferences, tests }: Collected,
  last: RoundRewards | undefined
): RoundRewards => {
  const ofRound: Named = (node, name) => named(node, `${name}-${round}`)
  const training = { ...tensors, margin, learningRate: hyper.rewardLearningRate }
  const trained = rewardModels(init, { preferences, openSource, harmless }, training, ofRound)
  const candidates = {
    helpfulness: [...(last?.candidates.helpfulness ?? []), trained.helpfulness],
    safety: [...(last?.candidates.safety ?? []), trained.safety]
  }
  const scores = byKind((kind) =>
    candidates[kind].map((reward, i) =>
      tests[kind].map((pairs, j) => last?.scores[kind][i]?.[j] ?? named(pairScores(reward, pairs), `${kind}-reward-${i + 1}-on-${j + 1}`))
    )
  )
  const accuracies = byKind((kind) =>
    scores[kind].map((ofOne, i) => named(evaluateReward({ scores: ofOne }), `${kind}-reward-${i + 1}-accuracy-${round}`))
  )
  return { candidates, scores, accuracies, best: bestRewards(candidates, accuracies, ofRound) }
}

/** Further rows of table 7: another open reward model, and the judge unless it labelled the pairs itself. */
const othersBySource = (
  { annotator, judge: model, keyVariable, openReward, url }: Params,
  sets: ReadonlyArray<{ readonly name: string; readonly pairs: Rows<Preference> }>,
  named: Named
) => {
  const open = openReward === "" ? undefined : importGeneralReward({ folder: fileAt(openReward) }).named("open-reward")
  const bySource = (name: string, scoresOf: (pairs: Rows<Preference>) => PairScores) => {
    const scores = sets.map((set) => named(scoresOf(set.pairs), `${name}-on-${set.name}`))
    return [`accuracy-${name}-by-source`, named(evaluateReward({ scores }), `${name}-by-source`)] as const
  }
  return [
    ...(open === undefined ? [] : [bySource("open-reward", (pairs) => pairScores(open, pairs))]),
    ...(url === "" || annotator === "judge" ? [] : [bySource("judge", (pairs) => judgePairs({ pairs }, { url, model, keyVariable }))])
  ]
}

/**
 * The accuracy of each round's new reward models on the held-out pairs so far; and of the final models on the held-out pairs of both kinds and of the
 * open-source sets (table 7).
 */
export const rewardReports = (
  params: Params,
  rounds: ReadonlyArray<RoundRewards>,
  { openTests }: Datasets,
  tests: Collected["tests"],
  named: Named
) => {
  const { best } = rounds.at(-1)!
  const all = (kind: Kind) => mixPreferences({ datasets: tests[kind] }, { weights: tests[kind].map(() => 1) })
  const heldOut = { helpfulness: named(all("helpfulness"), "tests-helpfulness"), safety: all("safety") }
  // These sets are not used to select a model.
  const sets = [...kinds.map((name) => ({ name: name as string, pairs: heldOut[name] })), ...openTests]
  const bySource = (kind: Kind) => {
    const scores = sets.map(({ name, pairs }) => named(pairScores(best[kind], pairs), `best-${kind}-on-${name}`))
    return named(evaluateReward({ scores }), `best-${kind}-by-source`)
  }
  const accuracies = rounds.flatMap((round, i) =>
    kinds.map((kind) => [`accuracy-${kind}-${i + 1}`, round.accuracies[kind].at(-1)!] as const)
  )
  return {
    recall: named(safetyRecall({ reward: best.safety, pairs: heldOut.safety }, scoring), "safety-recall"),
    reports: Object.fromEntries([
      ...accuracies,
      ...kinds.map((kind) => [`accuracy-${kind}-by-source`, bySource(kind)] as const),
      ...othersBySource(params, sets, named)
    ])
  }
}
