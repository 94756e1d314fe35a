/**
 * The rounds of pipelines/llama2-chat.ts (§3.2): what the model that draws the samples goes through. Each round collects pairs, trains two reward models,
 * chooses the best so far, samples, and tunes the next version from the base model.
 */
import type { Demonstration } from "../../schemas/rows.ts"
import { mixDemonstrations } from "../../stages/data/mix.ts"
import { preferenceStatistics } from "../../stages/preferences/preference-statistics.ts"
import { safeDemonstrations } from "../../stages/safety/safety-sft.ts"
import { type ByKind, byKind, type Policy, type Rows } from "../nodes.ts"
import { nameOf, type Newest, winsOfRounds } from "../rounds.ts"
import { contextDistillation } from "./context-distillation.ts"
import type { Datasets } from "./data.ts"
import { ghostData } from "./ghost-attention.ts"
import { lateRound, type Params } from "./params.ts"
import { allRounds, collectRound, type RoundPairs } from "./preferences.ts"
import { rejectionSampling } from "./rejection-sampling.ts"
import { rewardReports, type RoundRewards, rewardsOfRound } from "./reward-models.ts"
import type { Student } from "./student.ts"

export const rlhf = (params: Params, data: Datasets, student: Student) => {
  const { rounds } = params
  const { base, bootstrapped, named, sft, tune } = student
  const sampling = rejectionSampling(params, data, student)
  const pairs: Array<ByKind<RoundPairs>> = []
  const rewards: Array<RoundRewards> = []
  const samples: Array<ReturnType<typeof sampling.ofRound>> = []
  /** What versions learn besides the best samples. */
  const extras: Array<Rows<Demonstration>> = [data.demonstrations]
  const tuningData: Array<Rows<Demonstration>> = []
  const versions: Array<Policy> = []
  const newest: Array<Newest> = []
  let [latest, before] = [sft, bootstrapped]
  let gain!: ReturnType<typeof contextDistillation>["gain"]

  for (let round = 1; round <= rounds; round++) {
    const name = round === 1 ? "sft" : nameOf(round - 1, rounds)
    newest.push({ policy: latest, name, over: newest.at(-1)?.name ?? "sft-bootstrap" })
    const collected = collectRound(round, params, data, named, { latest, before }, pairs.at(-1))
    pairs.push(collected)
    rewards.push(rewardsOfRound(round, params, data, student, latest, allRounds(pairs), rewards.at(-1)))
    const { best } = rewards.at(-1)!
    const earlier = samples.map(({ kept }) => kept)
    const sampled = sampling.ofRound(round, latest, name, best, earlier)
    samples.push(sampled)

    if (params.safeAnswers) extras.push(named(safeDemonstrations({ preferences: collected.safety.train }), `safe-answers-${round}`))
    // §3.3 after V3, §4.2.4 after safety RLHF: data of the latest model, for all versions from the fourth on.
    if (round === lateRound(rounds)) {
      const distilled = contextDistillation(latest, best, params, data, named)
      extras.push(ghostData(latest, params, data, named), distilled.demonstrations)
      gain = distilled.gain
    }
    const mixed = mixDemonstrations({ datasets: [sampled.selected, ...extras] }, { weights: [1, ...extras.map(() => 1)] })
    tuningData.push(named(mixed, `data-${round}`))
    ;[before, latest] = [latest, tune(base, tuningData.at(-1)!, nameOf(round, rounds))]
    versions.push(latest)
  }

  const { annotated, preferences, shown, tests } = allRounds(pairs)
  return {
    ...{ versions, data: tuningData, rewards: rewards.at(-1)!.best, preferences, tests, gain },
    /** Prompts of all rounds' safety pairs. */
    questions: pairs.map(({ safety }) => safety.questions),
    ...rewardReports(rewards, data, tests, named),
    statistics: preferenceStatistics({
      policy: base,
      ...annotated,
      helpfulnessPairs: shown.helpfulness,
      safetyPairs: shown.safety
    }),
    roundWins: winsOfRounds(
      pairs.map((round) => byKind((kind) => ({ pairs: round[kind].shown, preferences: round[kind].annotated }))),
      newest
    ),
    sweeps: samples.flatMap(({ swept }) => swept),
    sweepOf: sampling.sweepOf,
    sweepPrompts: sampling.few
  }
}
export type Drawn = ReturnType<typeof rlhf>
