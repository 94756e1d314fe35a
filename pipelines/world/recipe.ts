/**
 * The whole recipe on the generated small world (data/world): pretraining, SFT in two steps, five rounds of preference collection, reward models and
 * rejection sampling, Ghost Attention from the fourth round, context distillation, and PPO on top of the fifth version (or also of earlier ones). The
 * world's oracle evaluates each version on prompts with words and phrasings that no model has seen. `without` leaves one step out. Each step has its own
 * file in this folder.
 */
import { mixDemonstrations } from "../../stages/data/mix.ts"
import type { ByKind, Policy, Rewards } from "../nodes.ts"
import { type Newest, winsOfRounds } from "../rounds.ts"
import { type FirstModels, firstModels } from "./base-and-sft.ts"
import { contextDistillation, type Distillation } from "./context-distillation.ts"
import { evaluation } from "./evaluation.ts"
import { type Ghost, ghostAttention } from "./ghost-attention.ts"
import { checkSizes, has, hasPpo, type WorldParams } from "./params.ts"
import { tunedByPpo } from "./ppo.ts"
import { allRounds, collectRound, type RoundPairs } from "./preferences.ts"
import { type PromptSets, promptSets } from "./prompts.ts"
import { rejectionSampling, type RoundSamples, sweepOfRound } from "./rejection-sampling.ts"
import { reports } from "./report.ts"
import { rewardsOfRound, type Scorers } from "./reward-models.ts"
import type { Version } from "./versions.ts"

export const worldRecipe = (params: WorldParams, start?: Policy) => {
  checkSizes(params, start === undefined)
  return recipeFrom(params, firstModels(params, start), promptSets(params))
}

/** The recipe with given first models and prompts, for pipelines that also use these elsewhere. */
export const recipeFrom = (params: WorldParams, models: FirstModels, prompts: PromptSets) => {
  const { rounds } = params
  const { base, bootstrapped, demonstrations, sft, tune } = models
  const ghosts = ghostAttention(params)

  const versions: Array<Version> = [
    { name: "base", policy: base },
    { name: "sft", policy: sft }
  ]
  // The first round compares SFT with its own first step: two different checkpoints, as in every round (§3.2.1).
  let [latest, before] = [sft, bootstrapped]
  // The model that collects pairs and initialises reward models: the latest, unless versions after PPO are only used for samples (ppoUse).
  let compared = latest
  const pairs: Array<ByKind<RoundPairs>> = []
  const newest: Array<Newest> = []
  const nameOf = (policy: Policy) => versions.find((one) => one.policy === policy)?.name ?? "sft-bootstrap"
  const samples: Array<RoundSamples> = []
  let rewards: Rewards | undefined
  let scorers!: Scorers
  let distilled: Distillation | undefined
  let ghost: Ghost | undefined
  let sweep: ReturnType<typeof sweepOfRound> | undefined
  for (let round = 1; round <= rounds; round++) {
    // Pairs (§3.2.1), reward models (§3.2.2), rejection sampling over every version's best answers (§3.2.3).
    newest.push({ policy: compared, name: nameOf(compared), over: nameOf(before) })
    pairs.push(collectRound(round, params, prompts, { latest: compared, before }, { last: pairs.at(-1) }))
    rewards = rewardsOfRound(round, params, compared, allRounds(pairs), rewards)
    scorers = has(params, "safety-model") ? rewards : { helpfulness: rewards.helpfulness }
    const earlier = samples.map(({ kept }) => kept)
    const sampled = rejectionSampling(round, params, { policy: latest, prompts: prompts.pool }, scorers, { earlier, sweep })
    samples.push(sampled)

    // In addition to the best samples, each version is trained on some demonstrations and, from round 3, distillation data and, from round 4, Ghost
    // Attention data.
    if (round === 3 && has(params, "distillation") && has(params, "safety-model")) distilled = contextDistillation(latest, scorers, params)
    if (round === 4 && has(params, "ghost-attention"))
      ghost = { data: ghosts.dataOf(latest), before: ghosts.evaluate(latest, "ghost-attention-before"), without: latest }
    const late = [distilled?.demonstrations, ghost?.data].filter((data) => data !== undefined)
    const datasets = [sampled.selected, demonstrations, ...late]
    const data = mixDemonstrations({ datasets }, { weights: [1, 0.1, ...late.map(() => 0.4)] }).named(`data-${round}`)

    // Each version is tuned from the base model (§3.2.3).
    const name = `rlhf-v${round}`
    const isUpdated = hasPpo(round, params)
    const tunedName = isUpdated || round === rounds ? `${name}-rs` : name
    const tuned = tune(data, params.steps, tunedName)
    versions.push({ name: tunedName, policy: tuned })
    ;[before, latest] = [compared, tuned]
    if (isUpdated) {
      latest = tunedByPpo(tuned, scorers, prompts, params, name)
      versions.push({ name, policy: latest })
    }
    compared = params.ppoUse === "samples" ? tuned : latest
    if (params.temperatures === "swept" && round < rounds) sweep = sweepOfRound(round, latest, scorers, params)
  }

  const trained = {
    versions,
    last: latest,
    pairs,
    roundWins: winsOfRounds(pairs, newest),
    drewPairs: new Set(newest.flatMap(({ name, over }) => [name, over])),
    samples,
    rewards: rewards!,
    scorers,
    ghost,
    distilled
  }
  return {
    base,
    sft,
    ...(Object.fromEntries(versions.slice(2).map(({ name, policy }) => [name, policy])) as Record<`rlhf-v${string}`, Policy>),
    policy: latest,
    ...scorers,
    ...reports(evaluation(params, models, prompts, ghosts, trained))
  }
}
