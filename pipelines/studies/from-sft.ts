/**
 * Compares the whole recipe with iterated DPO and iterated RLOO, all from the same SFT model, with the same number of rounds and of labels per round.
 *
 *     recipe     five rounds of pairs, reward models and rejection sampling, PPO at the end (pipelines/world/recipe.ts)
 *     DPO        each round: pairs from the latest model and the one before, labels, DPO from the latest model
 *     RLOO       each round: the same, reward models on all pairs so far (the better of new and old, as in the recipe), RLOO from the latest model
 *
 * Each method runs with several weights of its KL penalty; every round's model is evaluated (arms.ts), so that reward and oracle are seen over a range of KL to SFT. The reward models of
 * the evaluation are those of the recipe's last round.
 *
 *     caravan run pipelines/studies/from-sft.ts --device cuda --seed 0 --set judgingSeed=200 --json > b-0.json        # and 1 to 4, with judgingSeed 201 to 204
 *     node bench/studies.ts from-sft b-*.json
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { Preference } from "../../schemas/rows.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { byKind, type ByKind, kinds, type Policy, type Rewards, type Rows } from "../nodes.ts"
import { bestRewards, type Named, nameOf, rewardModels } from "../rounds.ts"
import { studyParams } from "../study.ts"
import { type FirstModels, firstModels } from "../world/base-and-sft.ts"
import { ownPairs, type WorldParams } from "../world/params.ts"
import { tunedByPpo } from "../world/ppo.ts"
import { judgedPairs } from "../world/preferences.ts"
import { type PromptSets, promptSets, roundOf } from "../world/prompts.ts"
import { recipeFrom } from "../world/recipe.ts"
import { accuracyOf, rewardTraining } from "../world/reward-models.ts"
import { type Arm, armParams, checkSettings, judgedArms, numbersOf, promptsToJudge, scorersOf, versionOf } from "./arms.ts"

const Params = Schema.Struct({
  ...studyParams,
  recipeBetas: hyper("0.03,0.1,0.3", "comma-separated weights of PPO's KL penalty in the recipe, one run each"),
  dpoBetas: hyper("0.05,0.1,0.3", "comma-separated weights of DPO's KL penalty, the same number"),
  rlooBetas: hyper("0.03,0.1,0.3", "comma-separated weights of RLOO's KL penalty, the same number"),
  dpoLearningRate: hyper(3e-5, "learning rate of DPO", { min: 0 }),
  rlooIterations: hyperInt(60, "RLOO iterations per round, of ppoBatch answers each", { min: 1 }),
  groupSize: hyperInt(4, "number of responses per prompt for RLOO", { min: 2 }),
  ...armParams
})
type Params = typeof Params.Type

/** The common starting point of all methods. */
interface Common {
  readonly world: WorldParams
  readonly models: FirstModels
  readonly sets: PromptSets
}

interface Pairs {
  readonly preferences: Rows<Preference>
  readonly test: Rows<Preference>
}

/** The pairs of one round of an iterated method: the recipe's prompts, the answers of the method's own models. */
const collected = (
  arm: string,
  round: number,
  { sets, world }: Common,
  { before, latest }: { readonly before: Policy; readonly latest: Policy }
): ByKind<Pairs> =>
  byKind((kind) => {
    const collect = (prompts: typeof sets.pool, name: string) =>
      judgedPairs({ first: latest, second: before, prompts }, kind, world, {
        pairs: `${arm}-pairs-${name}-${round}`,
        preferences: `${arm}-preferences-${name}-${round}`
      }).preferences
    return {
      preferences: collect(roundOf(sets.forPairs[kind], round, world, `${arm}-batch-${kind}`), kind),
      test: collect(roundOf(sets.forTestPairs[kind], round, world, `${arm}-test-batch-${kind}`), `test-${kind}`)
    }
  })

/** Five rounds from SFT: `update` returns the next model from the latest one and the pairs of all rounds so far. */
const iterated = (
  arm: string,
  common: Common,
  update: (latest: Policy, rounds: ReadonlyArray<ByKind<Pairs>>, name: string) => Policy
): ReadonlyArray<Arm> => {
  const { models, world } = common
  let [latest, before] = [models.sft, models.bootstrapped]
  const rounds: Array<ByKind<Pairs>> = []
  return Array.from({ length: world.rounds }, (_, i) => {
    rounds.push(collected(arm, i + 1, common, { latest, before }))
    const name = `${arm}-v${i + 1}`
    ;[latest, before] = [update(latest, rounds, name).named(name), latest]
    return [name, latest] as const
  })
}

const iteratedDpo = (common: Common, { dpoLearningRate }: Params, beta: number) =>
  iterated(`dpo-${beta}`, common, (policy, rounds, name) => {
    const pairs = mixPreferences({ datasets: kinds.map((kind) => rounds.at(-1)![kind].preferences) }, { weights: [1, 1] }).named(
      `${name}-data`
    )
    return dpo({ policy, pairs }, { beta, learningRate: dpoLearningRate, warmupSteps: 10, precision: common.world.precision }).limited(
      ownPairs
    )
  })

const iteratedRloo = (common: Common, { groupSize, rlooIterations }: Params, beta: number) => {
  const { sets, world } = common
  let inUse: Rewards | undefined
  return iterated(`rloo-${beta}`, common, (policy, rounds, name) => {
    const named: Named = (node, part) => node.named(`${name}-${part}`)
    const preferences = byKind((kind) => rounds.map((round) => round[kind].preferences))
    const trained = rewardModels(policy, { preferences, openSource: [], harmless: [] }, rewardTraining(world), (node, part) =>
      named(node, part).limited(ownPairs)
    )
    const candidates = {
      helpfulness: [...(inUse === undefined ? [] : [inUse.helpfulness]), trained.helpfulness],
      safety: [...(inUse === undefined ? [] : [inUse.safety]), trained.safety]
    }
    const tests = byKind((kind) => rounds.map((round) => round[kind].test))
    const accuracies = byKind((kind) =>
      candidates[kind].map((reward, i) =>
        accuracyOf(reward, tests[kind], world, `${name}-${kind}-${i === candidates[kind].length - 1 ? "reward" : "best-before"}`)
      )
    )
    inUse = bestRewards(candidates, accuracies, named)
    return rloo(
      { policy, ...inUse, prompts: sets.pool },
      {
        ...{ iterations: rlooIterations, batchSize: world.ppoBatch, miniBatchSize: Math.ceil(world.ppoBatch / 4), groupSize, beta },
        ...{ learningRate: world.ppoLearningRate, maxNewTokens: world.maxNewTokens, inferenceBatchSize: world.inferenceBatch },
        precision: world.precision,
        oldLogProbabilities: world.precision === "bfloat16" ? "recomputed" : "recorded"
      }
    )
  })
}

/** The recipe's versions. Only the last one, after PPO, depends on PPO's beta. */
const recipeArms = (common: Common, betas: ReadonlyArray<number>) => {
  const { models, sets, world } = common
  const recipe = recipeFrom({ ...world, without: "ppo" }, models, sets)
  const scorers = scorersOf(recipe)
  const sampled = Array.from({ length: world.rounds }, (_, i) => nameOf(i + 1, world.rounds)).map((name): Arm => [
    name,
    versionOf(recipe, name)
  ])
  const start = sampled.at(-1)![1]
  const optimised = betas.map((beta) => {
    const name = `recipe-${beta}-v${world.rounds}`
    return [name, tunedByPpo(start, scorers, sets, { ...world, beta }, name)] as const
  })
  return { scorers, arms: [...sampled, ...optimised] satisfies ReadonlyArray<Arm> }
}

export default Pipeline.make(
  "from-sft",
  { description: "compares the whole recipe with iterated DPO and RLOO from the same SFT model at equal labels", params: Params },
  (params) => {
    const {
      dpoBetas,
      dpoLearningRate: _,
      groupSize: __,
      judgingSeed,
      recipeBetas,
      rlooBetas,
      rlooIterations: ___,
      tuningPrompts,
      ...rest
    } = params
    const world: WorldParams = rest
    const betas = {
      recipeBetas: numbersOf("recipeBetas", recipeBetas),
      dpoBetas: numbersOf("dpoBetas", dpoBetas),
      rlooBetas: numbersOf("rlooBetas", rlooBetas)
    }
    checkSettings(betas)
    const common: Common = { world, models: firstModels(world), sets: promptSets(world) }
    const { arms: versions, scorers: rewards } = recipeArms(common, betas.recipeBetas)
    const { sft } = common.models
    const arms: ReadonlyArray<Arm> = [
      ["sft", sft],
      ...versions,
      ...betas.dpoBetas.flatMap((beta) => iteratedDpo(common, params, beta)),
      ...betas.rlooBetas.flatMap((beta) => iteratedRloo(common, params, beta))
    ]
    const { judging, tuning } = promptsToJudge(world, { judgingSeed, tuningPrompts })
    const last = arms.filter(([name]) => name.endsWith(`-v${world.rounds}`))
    return {
      ...judgedArms(arms, { prompts: judging, reference: sft, rewards, world }),
      ...judgedArms(last, { prefix: "tuning-", prompts: tuning, reference: sft, rewards, world })
    }
  }
)
