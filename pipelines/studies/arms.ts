/**
 * The arms of a comparison on the small world: policies made in different ways from one policy, all evaluated on the same prompts with the oracle, with the same reward models, and
 * by their KL to that policy. A reward that rises while the oracle's grade does not is reward hacking.
 */
import { PipelineError } from "../../runtime/errors.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { policyKl } from "../../stages/evaluation/policy-kl.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { evaluateVersion } from "../../stages/world/evaluate-version.ts"
import { oracleGrades } from "../../stages/world/oracle-grades.ts"
import type { Policy, Rows } from "../nodes.ts"
import { samplingOf, scoringOf, type WorldParams } from "../world/params.ts"
import { promptsOfBoth } from "../world/prompts.ts"
import type { Scorers } from "../world/reward-models.ts"

export type Arm = readonly [name: string, policy: Policy]

export const armParams = {
  judgingSeed: hyperInt(
    100,
    "seed of the evaluation prompts; use a different one for each run seed, so that intervals over seeds include the choice of prompts",
    {
      min: 0
    }
  ),
  tuningPrompts: hyperInt(
    200,
    "number of helpfulness prompts, and the same number of safety prompts, on which the setting of each method is chosen",
    {
      min: 10
    }
  )
}

/** Comma-separated numbers above 0. Throws a PipelineError. */
export const numbersOf = (name: string, text: string): ReadonlyArray<number> => {
  const numbers = text.split(",").map(Number)
  if (numbers.some((number) => !(number > 0)))
    throw new PipelineError({
      message: `Reading the parameter "${name}": expected comma-separated numbers above 0, for example 0.03,0.1, found ${JSON.stringify(text)}.`
    })
  return numbers
}

/** Throws a PipelineError unless each method tries the same number of settings. */
export const checkSettings = (settings: Readonly<Record<string, ReadonlyArray<number>>>): void => {
  const counts = Object.values(settings).map(({ length }) => length)
  if (new Set(counts).size > 1)
    throw new PipelineError({
      message: `Comparing the methods: expected the same number of values in ${Object.keys(settings).join(", ")}, found ${counts.join(", ")}.`
    })
}

/** A version of the recipe: its outputs have the versions under their names, such as rlhf-v5-rs. */
export const versionOf = (recipe: object, name: string): Policy => (recipe as Readonly<Record<string, Policy>>)[name]!

/** The reward models that the recipe ends with. */
export const scorersOf = ({ helpfulness, safety }: Scorers): Scorers => ({ helpfulness, ...(safety === undefined ? {} : { safety }) })

/** Held-out prompts for evaluation. */
export const judgingPrompts = ({ heldOut }: WorldParams, judgingSeed: number) =>
  promptsOfBoth("judging", "heldOut", [heldOut, heldOut], judgingSeed, "judging")

/** The evaluation prompts, and the prompts on which settings are chosen. No question is in both, whatever the two seeds: a setting is chosen on the prompts of several runs. */
export const promptsToJudge = (
  world: WorldParams,
  { judgingSeed, tuningPrompts }: { readonly judgingSeed: number; readonly tuningPrompts: number }
) => ({
  judging: judgingPrompts(world, judgingSeed),
  tuning: promptsOfBoth("tuning", "heldOut", [tuningPrompts, tuningPrompts], judgingSeed + 1_000_000, "tuning")
})

/** For each arm an evaluation and its KL, as outputs <prefix><name> and <prefix>kl-<name>. */
export const judgedArms = (
  arms: ReadonlyArray<Arm>,
  {
    prefix = "",
    prompts,
    reference,
    rewards,
    world
  }: {
    readonly prefix?: string
    readonly prompts: Rows<Prompt>
    readonly reference: Policy
    readonly rewards: Scorers
    readonly world: WorldParams
  }
) =>
  Object.fromEntries(
    arms.flatMap(([name, policy]) => {
      const sampling = { ...samplingOf(world), k: prefix === "" ? world.answers : 1, temperature: 1 }
      const completions = sample({ policy, prompts }, sampling).named(`${prefix}judged-answers-${name}`)
      const graded = oracleGrades({ completions, prompts }).named(`${prefix}grades-${name}`)
      const scored = scoreCombined({ completions, ...rewards }, scoringOf(world)).named(`${prefix}rewards-${name}`)
      const kl = policyKl({ completions, reference }, { batchSize: world.inferenceBatch, precision: world.precision })
      return [
        [`${prefix}${name}`, evaluateVersion({ graded, scored }, { name }).named(`${prefix}evaluation-${name}`)],
        ...(prefix === "" ? [[`kl-${name}`, kl.named(`kl-${name}`)] as const] : [])
      ] as const
    })
  )
