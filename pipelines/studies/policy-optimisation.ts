/**
 * Compares PPO, RLOO, GRPO and DPO from one policy: the study's last version from rejection sampling, with its reward models. Each method runs with the same number of settings (weights of
 * its KL penalty); the three that sample, on the same number of scored completions; DPO on new pairs from that policy, whose labels are counted. Every result is evaluated with the world's oracle and with the
 * reward models, on prompts used for no selection, together with its KL to the initial policy. This reveals reward hacking: the reward rises but the oracle's grade does not.
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { PipelineError } from "../../runtime/errors.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { grpo } from "../../stages/critic-free/grpo.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { policyKl } from "../../stages/evaluation/policy-kl.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { evaluateVersion } from "../../stages/world/evaluate-version.ts"
import { oracleGrades } from "../../stages/world/oracle-grades.ts"
import { kinds, type Policy } from "../nodes.ts"
import { studyParams } from "../study.ts"
import { ownPairs, samplingOf, scoringOf, type WorldParams } from "../world/params.ts"
import { judgedPairs } from "../world/preferences.ts"
import { promptsOf, promptsOfBoth } from "../world/prompts.ts"
import { worldRecipe } from "../world/recipe.ts"

const Params = Schema.Struct({
  ...studyParams,
  ppoBetas: hyper("0.03,0.1,0.3", "comma-separated weights of PPO's KL penalty, one run each"),
  rlooBetas: hyper("0.03,0.1,0.3", "comma-separated weights of RLOO's KL penalty, the same number"),
  grpoBetas: hyper("0.01,0.04,0.16", "comma-separated weights of GRPO's KL penalty, the same number"),
  dpoBetas: hyper("0.05,0.1,0.3", "comma-separated weights of DPO's KL penalty, the same number"),
  groupSize: hyperInt(4, "number of responses per prompt for RLOO and GRPO", { min: 2 }),
  dpoPairs: hyperInt(4000, "number of helpfulness prompts for DPO's labelled pairs, and the same number of safety prompts", { min: 10 }),
  dpoLearningRate: hyper(3e-5, "learning rate of DPO", { min: 0 }),
  judgingSeed: hyperInt(11, "seed of the evaluation prompts", { min: 0 })
})

const numbersOf = (name: string, text: string): ReadonlyArray<number> => {
  const numbers = text.split(",").map(Number)
  if (numbers.some((number) => !(number > 0)))
    throw new PipelineError({
      message: `Reading the parameter "${name}": expected comma-separated numbers above 0, for example 0.03,0.1, found ${JSON.stringify(text)}.`
    })
  return numbers
}

const policyOptimisation = (params: typeof Params.Type) => {
  const { dpoBetas, dpoLearningRate, dpoPairs, groupSize, grpoBetas, judgingSeed, ppoBetas, rlooBetas, ...rest } = params
  const world: WorldParams = rest
  const betas = {
    ppo: numbersOf("ppoBetas", ppoBetas),
    rloo: numbersOf("rlooBetas", rlooBetas),
    grpo: numbersOf("grpoBetas", grpoBetas),
    dpo: numbersOf("dpoBetas", dpoBetas)
  }
  if (new Set(Object.values(betas).map(({ length }) => length)).size > 1)
    throw new PipelineError({
      message: `Comparing the methods: expected the same number of values in ppoBetas, rlooBetas, grpoBetas and dpoBetas, found ${Object.values(
        betas
      )
        .map(({ length }) => length)
        .join(", ")}.`
    })
  const recipe = worldRecipe(world)
  // The recipe's outputs include its versions by name.
  const start = (recipe as Readonly<Record<string, unknown>>)[`rlhf-v${world.rounds}-rs`] as Policy
  const rewards = { helpfulness: recipe.helpfulness, ...(recipe.safety === undefined ? {} : { safety: recipe.safety }) }
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
  const arms: ReadonlyArray<readonly [name: string, policy: Policy]> = [
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

  const judging = promptsOfBoth("judging", "heldOut", [world.heldOut, world.heldOut], judgingSeed)
  return Object.fromEntries(
    arms.flatMap(([name, policy]) => {
      const completions = sample({ policy, prompts: judging }, { ...samplingOf(world), k: world.answers, temperature: 1 }).named(
        `judged-answers-${name}`
      )
      const graded = oracleGrades({ completions, prompts: judging }).named(`grades-${name}`)
      const scored = scoreCombined({ completions, ...rewards }, scoringOf(world)).named(`rewards-${name}`)
      return [
        [name, evaluateVersion({ graded, scored }, { name }).named(`evaluation-${name}`)],
        [
          `kl-${name}`,
          policyKl({ completions, reference: start }, { batchSize: world.inferenceBatch, precision: world.precision }).named(`kl-${name}`)
        ]
      ] as const
    })
  )
}

export default Pipeline.make(
  "policy-optimisation",
  {
    description: "compares PPO, RLOO, GRPO and DPO from one policy over a range of KL weights, according to the world's oracle",
    params: Params
  },
  policyOptimisation
)
