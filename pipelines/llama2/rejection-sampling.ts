/** Rejection sampling in pipelines/llama2-chat.ts (§3.2.3). Each round determines the temperature, draws K samples, and selects the best among them and the best samples of all prior versions. */
import { PipelineError } from "../../runtime/errors.ts"
import type { Completion } from "../../schemas/rows.ts"
import { promptBatch } from "../../stages/data/prompts.ts"
import { keepBest } from "../../stages/rejection-sampling/keep-best.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { selectBest } from "../../stages/rejection-sampling/select-best.ts"
import { sampleAtTemperature, temperatureSweep } from "../../stages/rejection-sampling/temperature-sweep.ts"
import type { Policy, Rewards, Rows } from "../nodes.ts"
import type { Datasets } from "./data.ts"
import { answers, type Params, samplingOf } from "./params.ts"
import { scoredBy } from "./reward-models.ts"
import type { Student } from "./student.ts"

/** K of each round. */
const ksOf = ({ k, rounds }: Params): ReadonlyArray<number> => {
  const ks = typeof k === "number" ? Array.from({ length: rounds }, () => k) : k
  if (ks.length !== rounds)
    throw new PipelineError({
      message: `Reading the parameter "k": expected one number, or one for each of ${rounds} rounds, found ${ks.length}: ${JSON.stringify(ks)}. Give one number per round.`
    })
  return ks
}

export const rejectionSampling = (params: Params, { pool }: Datasets, { named, prefix }: Student) => {
  const ks = ksOf(params)
  const sampling = samplingOf(params)
  const few = named(promptBatch({ prompts: pool }, { batches: 20, batch: 0 }), "sweep-prompts")

  /** Samples a twentieth of the prompts at several temperatures. K is the same in every round, because Self-BLEU increases with K. */
  const sweepOf = (policy: Policy, of: string, name: string) =>
    [1, 1.2, 1.4].map((temperature) => {
      const at = `${name}-at-${temperature}`
      const completions = named(sample({ policy, prompts: few }, { ...sampling, k: Math.max(...ks), temperature }), at).expecting(answers)
      return { at, name: `${of} at ${temperature}`, completions }
    })

  /** `earlier`: the best samples of all prior versions. */
  const ofRound = (round: number, policy: Policy, of: string, rewards: Rewards, earlier: ReadonlyArray<Rows<Completion>>) => {
    const k = ks[round - 1]!
    const scored = (completions: Rows<Completion>, name: string) => scoredBy(rewards, completions, named, name)
    const swept = sweepOf(policy, `${prefix}${of}`, `sweep-${round}`)
    const sweep = named(
      temperatureSweep({ scored: swept.map(({ at, completions }) => scored(completions, `${at}-scores`)) }, { n: k }),
      `sweep-${round}`
    )
    const drawn = named(sampleAtTemperature({ policy, prompts: pool, sweep }, { ...sampling, k }), `samples-${round}`).expecting(answers)
    const now = scored(drawn, `scores-${round}`)
    const prior = earlier.map((completions, i) => scored(completions, `scores-${round}-of-${i + 1}`))
    return {
      swept,
      selected: named(selectBest({ scored: [...prior, now] }), `selected-${round}`),
      kept: named(keepBest({ scored: now }), `kept-${round}`)
    }
  }
  return { few, sweepOf, ofRound }
}
