/**
 * Compares the whole recipe with iterated DPO and iterated RLOO, all from the same SFT model, with the same number of rounds and of labels per round.
 *
 *     recipe     five rounds of pairs, reward models and rejection sampling, PPO at the end (pipelines/world/recipe.ts)
 *     DPO        each round: pairs from the latest model and the one before, labels, DPO from the latest model
 *     RLOO       each round: the same, reward models on all pairs so far (the better of new and old, as in the recipe), RLOO from the latest model
 *
 * Each method runs with several weights of its KL penalty, and every round's model is evaluated (arms.ts). Every method collects pairs in the same way: as many new prompts per round, and the
 * same share of its own dialogues continued. PPO and RLOO keep the best policy by its reward on the same held-out prompts. The reward models of the evaluation are those of the recipe's last
 * round.
 *
 *     fixed      RLOO from SFT against those reward models, for a wide range of weights of its KL penalty: reward and oracle over a range of KL to SFT. Not compared with the
 *                methods, since it uses the recipe's labels
 *
 *     caravan run pipelines/studies/from-sft.ts --device cuda --seed 0 --set judgingSeed=200 --json > b-0.json        # and 1 to 4, with judgingSeed 201 to 204
 *     node bench/studies.ts from-sft b-*.json
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { byKind, type ByKind, kinds, type Policy, type Rewards } from "../nodes.ts"
import { bestRewards, type Named, nameOf, rewardModels } from "../rounds.ts"
import { studyParams } from "../study.ts"
import { type FirstModels, firstModels } from "../world/base-and-sft.ts"
import { ownPairs, type WorldParams } from "../world/params.ts"
import { tunedByPpo } from "../world/ppo.ts"
import { collectRound, type RoundPairs } from "../world/preferences.ts"
import { type PromptSets, promptSets } from "../world/prompts.ts"
import { recipeFrom } from "../world/recipe.ts"
import { accuracyOf, rewardTraining, type Scorers } from "../world/reward-models.ts"
import { type Arm, armParams, checkSettings, judgedArms, numbersOf, promptsToJudge, scorersOf, versionOf } from "./arms.ts"

const Params = Schema.Struct({
  ...studyParams,
  recipeBetas: hyper("0.1,0.3", "comma-separated weights of PPO's KL penalty in the recipe, one run each"),
  dpoBetas: hyper("0.1,0.3", "comma-separated weights of DPO's KL penalty, the same number"),
  rlooBetas: hyper("0.1,0.3", "comma-separated weights of RLOO's KL penalty, the same number"),
  dpoLearningRate: hyper(3e-5, "learning rate of DPO", { min: 0 }),
  rlooIterations: hyperInt(60, "RLOO iterations per round, of ppoBatch answers each", { min: 1 }),
  groupSize: hyperInt(4, "number of responses per prompt for RLOO", { min: 2 }),
  fixedBetas: hyper(
    "0.01,0.05,0.3,2",
    "comma-separated weights of the KL penalty of RLOO against the recipe's last reward models, for a range of KL to SFT"
  ),
  fixedLearningRate: hyper(1.5e-4, "learning rate of these runs, higher than in the methods so that they reach several nats", { min: 0 }),
  ...armParams
})
type Params = typeof Params.Type

/** The common starting point of all methods. */
interface Common {
  readonly world: WorldParams
  readonly models: FirstModels
  readonly sets: PromptSets
}

/** Five rounds from SFT: `update` returns the next model from the latest one and the pairs of all rounds so far. */
const iterated = (
  arm: string,
  common: Common,
  update: (latest: Policy, rounds: ReadonlyArray<ByKind<RoundPairs>>, name: string) => Policy
): ReadonlyArray<Arm> => {
  const { models, sets, world } = common
  let [latest, before] = [models.sft, models.bootstrapped]
  const rounds: Array<ByKind<RoundPairs>> = []
  return Array.from({ length: world.rounds }, (_, i) => {
    rounds.push(collectRound(i + 1, world, sets, { latest, before }, { last: rounds.at(-1), prefix: `${arm}-` }))
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

const iteratedRloo = (common: Common, params: Params, beta: number) => {
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
    // As the recipe's PPO, RLOO keeps the best policy by its reward on held-out prompts.
    return rloo({ policy, ...inUse, prompts: sets.pool, heldOut: sets.ppoHeldOut }, rlooConfig(common, params, beta))
  })
}

const rlooConfig = ({ world }: Common, { groupSize, rlooIterations }: Params, beta: number) => ({
  ...{ iterations: rlooIterations, batchSize: world.ppoBatch, miniBatchSize: Math.ceil(world.ppoBatch / 4), groupSize, beta },
  ...{ learningRate: world.ppoLearningRate, maxNewTokens: world.maxNewTokens, inferenceBatchSize: world.inferenceBatch },
  ...{ evaluateEvery: 5, precision: world.precision },
  oldLogProbabilities: world.precision === "bfloat16" ? ("recomputed" as const) : ("recorded" as const)
})

/**
 * RLOO from SFT against the reward models with which all models are evaluated: they do not change, and the policy moves as far from SFT as its weight of the KL allows. No policy is kept
 * for its held-out reward, which here would be the measure itself.
 */
const optimisedFurther = (common: Common, scorers: Scorers, params: Params, beta: number): Arm => {
  const { models, sets } = common
  const name = `fixed-${beta}`
  const config = { ...rlooConfig(common, params, beta), learningRate: params.fixedLearningRate }
  return [name, rloo({ policy: models.sft, ...scorers, prompts: sets.pool }, config).named(name)]
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
      fixedBetas,
      fixedLearningRate: __,
      groupSize: ___,
      judgingSeed,
      recipeBetas,
      rlooBetas,
      rlooIterations: ____,
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
      ...betas.rlooBetas.flatMap((beta) => iteratedRloo(common, params, beta)),
      ...numbersOf("fixedBetas", fixedBetas).map((beta) => optimisedFurther(common, rewards, params, beta))
    ]
    const { judging, tuning } = promptsToJudge(world, { judgingSeed, tuningPrompts })
    const last = arms.filter(([name]) => name.endsWith(`-v${world.rounds}`))
    return {
      ...judgedArms(arms, { prompts: judging, reference: sft, rewards, world }),
      ...judgedArms(last, { prefix: "tuning-", prompts: tuning, reference: sft, rewards, world })
    }
  }
)
