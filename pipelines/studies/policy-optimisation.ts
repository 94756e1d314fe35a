/**
 * Compares PPO, RLOO, GRPO and DPO from one policy: the study's last version from rejection sampling, with its reward models. Each method runs with the same number of settings (weights of
 * its KL penalty); the three that sample, on the same number of scored completions; DPO on new pairs from that policy, whose labels are counted. The setting of each method is chosen with the
 * oracle on tuning prompts (bench/studies.ts); the results come from other prompts (arms.ts).
 *
 *     caravan run pipelines/studies/policy-optimisation.ts --device cuda --seed 0 --set judgingSeed=100 --json > a-0.json        # and 1 to 4, with judgingSeed 101 to 104
 *     node bench/studies.ts policy-optimisation a-*.json
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { grpo } from "../../stages/critic-free/grpo.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { kinds } from "../nodes.ts"
import { studyParams } from "../study.ts"
import { ownPairs, type WorldParams } from "../world/params.ts"
import { judgedPairs } from "../world/preferences.ts"
import { promptsOf, promptsOfBoth } from "../world/prompts.ts"
import { worldRecipe } from "../world/recipe.ts"
import { type Arm, armParams, checkSettings, judgedArms, numbersOf, promptsToJudge, scorersOf, versionOf } from "./arms.ts"

const Params = Schema.Struct({
  ...studyParams,
  ppoBetas: hyper("0.03,0.1,0.3", "comma-separated weights of PPO's KL penalty, one run each"),
  rlooBetas: hyper("0.03,0.1,0.3", "comma-separated weights of RLOO's KL penalty, the same number"),
  grpoBetas: hyper("0.01,0.04,0.16", "comma-separated weights of GRPO's KL penalty, the same number"),
  dpoBetas: hyper("0.05,0.1,0.3", "comma-separated weights of DPO's KL penalty, the same number"),
  groupSize: hyperInt(4, "number of responses per prompt for RLOO and GRPO", { min: 2 }),
  dpoPairs: hyperInt(4000, "number of helpfulness prompts for DPO's labelled pairs, and the same number of safety prompts", { min: 10 }),
  dpoLearningRate: hyper(3e-5, "learning rate of DPO", { min: 0 }),
  ...armParams
})

const policyOptimisation = (params: typeof Params.Type) => {
  const { dpoBetas, dpoLearningRate, dpoPairs, groupSize, grpoBetas, judgingSeed, ppoBetas, rlooBetas, tuningPrompts, ...rest } = params
  const world: WorldParams = rest
  const betas = {
    ppo: numbersOf("ppoBetas", ppoBetas),
    rloo: numbersOf("rlooBetas", rlooBetas),
    grpo: numbersOf("grpoBetas", grpoBetas),
    dpo: numbersOf("dpoBetas", dpoBetas)
  }
  checkSettings({ ppoBetas: betas.ppo, rlooBetas: betas.rloo, grpoBetas: betas.grpo, dpoBetas: betas.dpo })
  const recipe = worldRecipe(world)
  const start = versionOf(recipe, `rlhf-v${world.rounds}-rs`)
  const rewards = scorersOf(recipe)
  const prompts = promptsOfBoth("update-prompts", "train", [world.prompts, Math.ceil(world.prompts / 2)], 2)

  const common = {
    ...{
      iterations: world.ppoIterations,
      batchSize: world.ppoBatch,
      maxNewTokens: world.maxNewTokens,
      inferenceBatchSize: world.inferenceBatch
    },
    ...{ learningRate: world.ppoLearningRate, precision: world.precision },
    oldLogProbabilities: world.precision === "bfloat16" ? ("recomputed" as const) : ("recorded" as const)
  }
  const miniBatchSize = Math.ceil(world.ppoBatch / 4)
  const given = { policy: start, ...rewards, prompts }
  const pairs = mixPreferences(
    {
      datasets: kinds.map((kind) => {
        const asked = promptsOf(kind, "train", dpoPairs, "dpo-prompts", 12)
        return judgedPairs({ first: start, second: start, prompts: asked }, kind, world, {
          pairs: `dpo-pairs-${kind}`,
          preferences: `dpo-preferences-${kind}`
        }).preferences
      })
    },
    { weights: [1, 1] }
  ).named("dpo-pairs")
  const { valueLearningRate } = world
  const arms: ReadonlyArray<Arm> = [
    ["start", start],
    ...betas.ppo.map(
      (beta) => [`ppo-${beta}`, ppo(given, { ...common, miniBatchSize, beta, valueLearningRate }).named(`ppo-${beta}`)] as const
    ),
    ...betas.rloo.map(
      (beta) => [`rloo-${beta}`, rloo(given, { ...common, miniBatchSize, groupSize, beta }).named(`rloo-${beta}`)] as const
    ),
    ...betas.grpo.map(
      (beta) => [`grpo-${beta}`, grpo(given, { ...common, miniBatchSize, groupSize, beta }).named(`grpo-${beta}`)] as const
    ),
    ...betas.dpo.map((beta) => {
      const tuned = dpo({ policy: start, pairs }, { beta, learningRate: dpoLearningRate, warmupSteps: 10, precision: world.precision })
      return [`dpo-${beta}`, tuned.named(`dpo-${beta}`).limited(ownPairs)] as const
    })
  ]

  const { judging, tuning } = promptsToJudge(world, { judgingSeed, tuningPrompts })
  return {
    ...judgedArms(arms, { prompts: judging, reference: start, rewards, world }),
    ...judgedArms(arms, { prefix: "tuning-", prompts: tuning, reference: start, rewards, world })
  }
}

export default Pipeline.make(
  "policy-optimisation",
  {
    description: "compares PPO, RLOO, GRPO and DPO from one policy over a range of KL weights, according to the world's oracle",
    params: Params
  },
  policyOptimisation
)
