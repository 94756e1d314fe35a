/** Versions on the small world, and the controls that the last version must outperform, evaluated on the same held-out prompts. */
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { selectRandom } from "../../stages/rejection-sampling/select-best.ts"
import type { Policy } from "../nodes.ts"
import type { FirstModels } from "./base-and-sft.ts"
import { has, samplingOf, type WorldParams } from "./params.ts"
import type { PromptSets } from "./prompts.ts"
import type { RoundSamples } from "./rejection-sampling.ts"
import { scoredBy, type Scorers } from "./reward-models.ts"

export interface Version {
  readonly name: string
  readonly policy: Policy
}

/** The controls: the same number of steps of SFT alone, and random answers instead of the best ones. */
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

/** A version's answers to the held-out prompts, and their scores from the last round's reward models. */
export const judgedVersion = ({ name, policy }: Version, models: Scorers, { heldOut }: PromptSets, params: WorldParams) => {
  const said = sample({ policy, prompts: heldOut }, { ...samplingOf(params), k: params.answers, temperature: 1 }).named(`answers-${name}`)
  return { name, policy, said, judged: scoredBy(models, said, params, `judged-${name}`) }
}
export type JudgedVersion = ReturnType<typeof judgedVersion>
