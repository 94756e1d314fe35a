/** What is always evaluated on the small world (§3.4): every version and two controls on the same held-out prompts, and the reward models in use. */
import { mixPreferences } from "../../stages/data/mix.ts"
import { worldPreferenceStatistics } from "../../stages/world/preference-statistics.ts"
import { rewardBaselines } from "../../stages/reward/evaluate-reward.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { selectRandom } from "../../stages/rejection-sampling/select-best.ts"
import { byKind, type Policy, type Rewards } from "../nodes.ts"
import type { FirstModels } from "./base-and-sft.ts"
import { has, samplingOf, type WorldParams } from "./params.ts"
import type { Collected } from "./preferences.ts"
import type { PromptSets } from "./prompts.ts"
import { type RoundSamples } from "./rejection-sampling.ts"
import { accuracyOf, scoredBy, type Scorers } from "./reward-models.ts"

export interface Version {
  readonly name: string
  readonly policy: Policy
}

/** What the last version must be better than: as many steps of SFT alone; a random one of the answers in place of the best. */
export const controlsOf = (
  { demonstrations, tune }: FirstModels,
  samples: ReadonlyArray<RoundSamples>,
  params: WorldParams
): Array<Version> => {
  const ppoSteps = has(params, "ppo") ? 4 * params.ppoIterations : 0
  const completions = (has(params, "prior-versions") ? samples : samples.slice(-1)).map(({ drawn }) => drawn)
  const [longer, random] = ["sft-as-many-steps", "random-of-k"] as const
  return [
    { name: longer, policy: tune(demonstrations, params.sftSteps + params.steps + ppoSteps, longer) },
    { name: random, policy: tune(selectRandom({ completions }), params.steps, random) }
  ]
}

/** A version's answers to the held-out prompts, and their scores by the last round's reward models. */
export const judgedVersion = ({ name, policy }: Version, models: Scorers, { heldOut }: PromptSets, params: WorldParams) => {
  const said = sample({ policy, prompts: heldOut }, { ...samplingOf(params), k: params.answers, temperature: 1 }).named(`answers-${name}`)
  return { name, said, judged: scoredBy(models, said, params, `judged-${name}`) }
}
export type JudgedVersion = ReturnType<typeof judgedVersion>

/** The reward models in use, and what could be told without reading the answers, on the held-out pairs of all rounds. */
export const rewardModelQuality = (rewards: Rewards, { preferences, test }: Collected, params: WorldParams) =>
  byKind((kind) => ({
    accuracy: accuracyOf(rewards[kind], test[kind], params, `best-${kind}`),
    baselines: rewardBaselines({
      train: mixPreferences({ datasets: preferences[kind] }, { weights: preferences[kind].map(() => 1) }).named(`${kind}-pairs`),
      test: mixPreferences({ datasets: test[kind] }, { weights: test[kind].map(() => 1) }).named(`${kind}-test-pairs`)
    }).named(`${kind}-baselines`)
  }))

/** Table 6. */
export const statisticsOf = (policy: Policy, { pairs, preferences }: Collected) =>
  worldPreferenceStatistics({ policy, ...preferences, helpfulnessPairs: pairs.helpfulness, safetyPairs: pairs.safety }).named(
    "preference-statistics"
  )
