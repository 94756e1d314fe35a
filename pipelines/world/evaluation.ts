/** The evaluation on the small world (§3.4): versions compared with controls, the reward models in use, Ghost Attention, temperatures, and the longer evaluations. */
import { calibration } from "../../stages/evaluation/calibration.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { ppoDiagnostics } from "../../stages/ppo/diagnostics.ts"
import { rewardBaselines } from "../../stages/reward/evaluate-reward.ts"
import { worldRatings } from "../../stages/world/ratings.ts"
import { worldPreferenceStatistics } from "../../stages/world/preference-statistics.ts"
import { type ByKind, byKind, type Policy, type Rewards } from "../nodes.ts"
import type { winsOfRounds } from "../rounds.ts"
import type { FirstModels } from "./base-and-sft.ts"
import type { Distillation } from "./context-distillation.ts"
import { fullEvaluation } from "./full-evaluation.ts"
import type { Ghost, GhostAttention } from "./ghost-attention.ts"
import { has, type WorldParams } from "./params.ts"
import { allRounds, type Collected, type RoundPairs } from "./preferences.ts"
import type { PromptSets } from "./prompts.ts"
import { type RoundSamples, sweepOf } from "./rejection-sampling.ts"
import { accuracyOf, type Scorers } from "./reward-models.ts"
import { controlsOf, type JudgedVersion, judgedVersion, type Version } from "./versions.ts"

/** The reward models in use, and baselines that do not read the answers, on the held-out pairs of all rounds. */
const rewardModelQuality = (rewards: Rewards, { preferences, test }: Collected, params: WorldParams) =>
  byKind((kind) => ({
    accuracy: accuracyOf(rewards[kind], test[kind], params, `best-${kind}`),
    baselines: rewardBaselines({
      train: mixPreferences({ datasets: preferences[kind] }, { weights: preferences[kind].map(() => 1) }).named(`${kind}-pairs`),
      test: mixPreferences({ datasets: test[kind] }, { weights: test[kind].map(() => 1) }).named(`${kind}-test-pairs`)
    }).named(`${kind}-baselines`)
  }))

/** Table 6. */
const statisticsOf = (policy: Policy, { pairs, preferences }: Collected) =>
  worldPreferenceStatistics({ policy, ...preferences, helpfulnessPairs: pairs.helpfulness, safetyPairs: pairs.safety }).named(
    "preference-statistics"
  )

/** Figure 29, for the versions and controls that generated no pairs, so that the reward models were trained on none of their answers. */
const calibrationOf = (judged: ReadonlyArray<JudgedVersion>, drewPairs: ReadonlySet<string>, { pairs }: Collected) => {
  const outside = judged.filter(({ name }) => !drewPairs.has(name))
  return calibration({
    scored: outside.map(({ judged }) => judged),
    ratings: outside.map(({ name, said }) => worldRatings({ completions: said }).named(`ratings-${name}`)),
    trainedOn: [...pairs.helpfulness, ...pairs.safety]
  }).named("calibration")
}

/** The results of the rounds. */
export interface Trained {
  /** From the base model to the last version. */
  readonly versions: ReadonlyArray<Version>
  readonly last: Policy
  readonly pairs: ReadonlyArray<ByKind<RoundPairs>>
  readonly roundWins: ReturnType<typeof winsOfRounds>
  /** Names of the models from whose answers pairs were collected. */
  readonly drewPairs: ReadonlySet<string>
  readonly samples: ReadonlyArray<RoundSamples>
  readonly rewards: Rewards
  readonly scorers: Scorers
  readonly ghost: Ghost | undefined
  readonly distilled: Distillation | undefined
}

export const evaluation = (params: WorldParams, models: FirstModels, prompts: PromptSets, ghosts: GhostAttention, trained: Trained) => {
  const { distilled, drewPairs, ghost, last, pairs, rewards, roundWins, samples, scorers } = trained
  const collected = allRounds(pairs)
  const judge = (version: Version) => judgedVersion(version, scorers, prompts, params)
  const versions = trained.versions.map(judge)
  const controls = controlsOf(models, samples, params).map(judge)
  const sweep = sweepOf(last, scorers, prompts.sweep, params, "sweep")
  const asked = pairs.map(({ helpfulness }) => helpfulness.prompts)
  const full = () => fullEvaluation(params, models, prompts, collected, versions, { asked, reward: scorers.helpfulness })
  return {
    versions,
    controls,
    // Without the base model, since figure 29 is about models that people chat with.
    calibration: calibrationOf([...versions.slice(1), ...controls], drewPairs, collected),
    rewards: rewardModelQuality(rewards, collected, params),
    statistics: statisticsOf(models.base, collected),
    roundWins,
    sweep,
    // A run without Ghost Attention is evaluated too, by how its last version forgets the instruction.
    withoutGhostAttention: has(params, "ghost-attention") ? ghost?.before : ghosts.evaluate(last, "ghost-attention-left-out"),
    withGhostAttention: ghost && ghosts.evaluate(last, "ghost-attention-after"),
    attention: ghost && ghosts.attention({ without: ghost.without, with: last }),
    distilled,
    ppo: has(params, "ppo") ? ppoDiagnostics({ policy: last }) : undefined,
    full: params.evaluation === "full" ? full() : undefined
  }
}
/** Parts that a run does not have are undefined. */
export type Evaluated = ReturnType<typeof evaluation>
