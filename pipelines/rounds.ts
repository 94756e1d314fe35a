/** Parts of RLHF rounds (§3.2) shared by all recipes: names of versions, preferences of all rounds, two reward models per round. */
import type { Node } from "../runtime/define/node.ts"
import type { Preference, ResponsePair } from "../schemas/rows.ts"
import { roundWins } from "../stages/preferences/round-wins.ts"
import { bestHelpfulnessReward, bestSafetyReward } from "../stages/reward/best-reward.ts"
import type { evaluateReward } from "../stages/reward/evaluate-reward.ts"
import { helpfulnessMixture, safetyMixture } from "../stages/reward/reward-mixture.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../stages/reward/reward-model.ts"
import { type ByKind, byKind, type HelpfulnessReward, kinds, type Policy, type Rewards, type Rows, type SafetyReward } from "./nodes.ts"

/** The name of a round's version. The last version from rejection sampling gets the suffix -rs, since PPO is added on top of it. */
export const nameOf = (round: number, rounds: number): string => (round === rounds ? `rlhf-v${round}-rs` : `rlhf-v${round}`)

/** One part of every round so far, by kind. */
export const everyRound = <Round, Part>(rounds: ReadonlyArray<ByKind<Round>>, part: (of: Round) => Part): ByKind<ReadonlyArray<Part>> =>
  byKind((kind) => rounds.map((round) => part(round[kind])))

/** The newest model of a round, and the names of both models that the round's pairs compare. */
export interface Newest {
  readonly policy: Policy
  readonly name: string
  readonly over: string
}

/** §3.4.1: how often annotators chose each round's newest model, by kind. `newest` is in the order of the rounds. */
export const winsOfRounds = (
  rounds: ReadonlyArray<ByKind<{ readonly pairs: Rows<ResponsePair>; readonly preferences: Rows<Preference> }>>,
  newest: ReadonlyArray<Newest>
) => {
  const all = kinds.flatMap((kind) =>
    rounds.map((round, i) => ({ ...round[kind], newer: newest[i]!.policy, name: `${newest[i]!.name} over ${newest[i]!.over}, ${kind}` }))
  )
  return roundWins(
    {
      newer: all.map(({ newer }) => newer),
      pairs: all.map(({ pairs }) => pairs),
      preferences: all.map(({ preferences }) => preferences)
    },
    { names: all.map(({ name }) => name) }
  ).named("round-wins")
}

/** Gives a node its full name, with its round or its model. */
export type Named = <A>(node: Node<A>, name: string) => Node<A>

/** Training data of the reward models. */
export interface RewardData {
  readonly preferences: ByKind<ReadonlyArray<Rows<Preference>>>
  readonly openSource: ReadonlyArray<Rows<Preference>>
  /** The open-source sets that are about safety. */
  readonly harmless: ReadonlyArray<Rows<Preference>>
}

/** §3.2.2: two reward models on all pairs so far, initialised from the chat model of the round, so that they have its knowledge. */
export const rewardModels = (
  init: Policy,
  { preferences, openSource, harmless }: RewardData,
  training: NonNullable<Parameters<typeof helpfulnessRewardModel>[1]>,
  named: Named
): Rewards => {
  const others = openSource.filter((set) => !harmless.includes(set))
  const forHelpfulness = named(helpfulnessMixture({ ...preferences, openSource }), "helpfulness-mixture")
  const forSafety = named(safetyMixture({ ...preferences, harmless, openSource: others }), "safety-mixture")
  return {
    helpfulness: named(helpfulnessRewardModel({ init, pairs: forHelpfulness }, training), "helpfulness-reward"),
    safety: named(safetyRewardModel({ init, pairs: forSafety }, training), "safety-reward")
  }
}

/** §3.2.3: selects the best reward model by accuracy on held-out pairs. */
export const bestRewards = (
  candidates: { readonly helpfulness: ReadonlyArray<HelpfulnessReward>; readonly safety: ReadonlyArray<SafetyReward> },
  accuracies: ByKind<ReadonlyArray<ReturnType<typeof evaluateReward>>>,
  named: Named
): Rewards => ({
  helpfulness: named(bestHelpfulnessReward({ candidates: candidates.helpfulness, scores: accuracies.helpfulness }), "best-helpfulness"),
  safety: named(bestSafetyReward({ candidates: candidates.safety, scores: accuracies.safety }), "best-safety")
})
