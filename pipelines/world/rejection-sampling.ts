/** Rejection sampling on the small world (§3.2.3): K answers per prompt, the best of this version's and of all previous versions' answers. */
import type { Completion, Prompt } from "../../schemas/rows.ts"
import { keepBest } from "../../stages/rejection-sampling/keep-best.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { selectBest } from "../../stages/rejection-sampling/select-best.ts"
import { sampleAtTemperature, temperatureSweep } from "../../stages/rejection-sampling/temperature-sweep.ts"
import type { Policy, Rows } from "../nodes.ts"
import { has, samplingOf, type WorldParams } from "./params.ts"
import { promptsOfBoth } from "./prompts.ts"
import { scoredBy, type Scorers } from "./reward-models.ts"

const temperatures = [0.7, 1, 1.3]

/** Figure 8: one model's answers at several temperatures, scored by the reward models in use. */
export const sweepOf = (policy: Policy, models: Scorers, prompts: Rows<Prompt>, params: WorldParams, name: string) => {
  const samples = temperatures.map((temperature) => ({
    temperature,
    completions: sample({ policy, prompts }, { ...samplingOf(params), k: Math.max(8, params.k), temperature }).named(
      `${name}-samples-${temperature}`
    )
  }))
  const scored = samples.map(({ completions, temperature }) => scoredBy(models, completions, params, `${name}-scores-${temperature}`))
  return { samples, report: temperatureSweep({ scored }, { n: params.k }).named(name) }
}
export type Sweep = ReturnType<typeof sweepOf>

/** The sweep from which the next round takes its temperature. */
export const sweepOfRound = (round: number, policy: Policy, models: Scorers, params: WorldParams): Sweep =>
  sweepOf(policy, models, promptsOfBoth(`sweep-prompts-${round}`, "train", [40, 20], 10 + round), params, `sweep-${round}`)

/** A round's answers: all of them, the best per prompt, and the best per prompt including all previous rounds. */
export type RoundSamples = ReturnType<typeof rejectionSampling>

/** The reward models of this round also score the best answers of every previous version. */
export const rejectionSampling = (
  round: number,
  params: WorldParams,
  { policy, prompts }: { readonly policy: Policy; readonly prompts: Rows<Prompt> },
  models: Scorers,
  { earlier, sweep }: { readonly earlier: ReadonlyArray<Rows<Completion>>; readonly sweep: Sweep | undefined }
) => {
  const drawing = { ...samplingOf(params), k: params.k }
  const drawn = (
    sweep === undefined
      ? sample({ policy, prompts }, { ...drawing, temperature: params.temperature })
      : sampleAtTemperature({ policy, prompts, sweep: sweep.report }, drawing)
  ).named(`samples-${round}`)
  const scored = scoredBy(models, drawn, params, `scores-${round}`)
  const prior = has(params, "prior-versions")
    ? earlier.map((completions, i) => scoredBy(models, completions, params, `scores-${round}-of-${i + 1}`))
    : []
  return {
    drawn,
    kept: keepBest({ scored }).named(`kept-${round}`),
    selected: selectBest({ scored: [...prior, scored] }).named(`selected-${round}`)
  }
}
