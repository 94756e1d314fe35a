/**
 * Guard against reward hacking (Llama 2 §3.4.1): versions tuned to the reward models are also scored by a general reward model, which was trained
 * separately, on open data, and not used for tuning. Where both rise, the answers did improve; where the tuned-for reward rises and the general one
 * falls, the policy exploits the reward model's errors (the paper observed no such divergence).
 *
 *     change     of a version compared with the previous one: mean difference over the prompts that both answered, paired bootstrap, 95%
 *     diverges   the reward's interval is above 0 and the general one's is below 0
 *     spearman   rank correlation of both rewards over a version's completions; ties share the mean of their ranks; null if one does not vary
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { ScoredCompletions } from "../../schemas/rows.ts"
import { checkNames, meanByPrompt, PairingError, pairSamples, skipAlone } from "../common/pairing.ts"
import { bootstrapMean, type Estimate, pairedBootstrap, spearman } from "../common/statistics.ts"

export const RewardHacking = Schema.Struct({
  /** In order: each version is compared with the previous one. */
  versions: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      prompts: Schema.Number,
      completions: Schema.Number,
      /** Means over prompts of the tuned-for reward, and of the general reward model's. */
      reward: EstimateSchema,
      general: EstimateSchema,
      spearman: Schema.NullOr(Schema.Number),
      /** null for the first version. */
      change: Schema.NullOr(
        Schema.Struct({ prompts: Schema.Number, reward: EstimateSchema, general: EstimateSchema, diverges: Schema.Boolean })
      )
    })
  ),
  /** Versions whose reward rose while the general one fell. */
  diverging: Schema.Array(Schema.String)
})
export type RewardHacking = typeof RewardHacking.Type
export const RewardHackingReport = report(RewardHacking, "reward-hacking/1")

/** A completion with both rewards. */
interface Twice {
  readonly promptId: string
  readonly reward: number
  readonly general: number
}
export interface NamedVersion {
  readonly name: string
  readonly completions: ReadonlyArray<Twice>
}

const diverges = (reward: Estimate, general: Estimate): boolean => reward.low > 0 && general.high < 0

/** The trend of both rewards over versions; neighbours must share at least one prompt. */
export const rewardTrend = (versions: ReadonlyArray<NamedVersion>, seed: number): RewardHacking => {
  const means = versions.map(({ completions }) => ({
    reward: meanByPrompt(completions, (one) => one.reward),
    general: meanByPrompt(completions, (one) => one.general)
  }))
  const changeOf = (i: number) => {
    const [now, before] = [means[i]!, means[i - 1]]
    if (before === undefined) return null
    const common = [...now.reward.keys()].filter((id) => before.reward.has(id))
    const values = (of: ReadonlyMap<string, number>) => common.map((id) => of.get(id)!)
    const reward = pairedBootstrap(values(now.reward), values(before.reward), seed)
    const general = pairedBootstrap(values(now.general), values(before.general), seed)
    return { prompts: common.length, reward, general, diverges: diverges(reward, general) }
  }
  const rows = versions.map(({ name, completions }, i) => ({
    name,
    prompts: means[i]!.reward.size,
    completions: completions.length,
    reward: bootstrapMean([...means[i]!.reward.values()], seed),
    general: bootstrapMean([...means[i]!.general.values()], seed),
    spearman: spearman(
      completions.map((one) => one.reward),
      completions.map((one) => one.general)
    ),
    change: changeOf(i)
  }))
  return { versions: rows, diverging: rows.flatMap(({ name, change }) => (change?.diverges === true ? [name] : [])) }
}

export const rewardHacking = Stage.make("reward-hacking", {
  description: "§3.4.1 compares the trend of versions in the reward they were tuned for with that in a general reward model",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({
      description: "names of the versions, from the first to the last, in the order of both inputs"
    })
  }),
  inputs: { scored: Stage.many(ScoredCompletions), general: Stage.many(ScoredCompletions) },
  output: RewardHackingReport,
  run: Effect.fn("reward-hacking")(function* ({ config, inputs, output, seed, skipped }) {
    const doing = "Comparing rewards with a general reward model's"
    const { names } = config
    yield* checkNames(names, inputs.scored.length, doing)
    yield* checkNames(names, inputs.general.length, `${doing} (general)`)
    const versions: Array<NamedVersion> = []
    for (const [i, name] of names.entries()) {
      const of = `${doing}, "${name}"`
      const paired = yield* pairSamples(
        yield* readRows(inputs.scored[i]!, ScoredCompletions),
        yield* readRows(inputs.general[i]!, ScoredCompletions),
        of
      )
      yield* skipAlone(skipped, paired)
      const { pairs } = paired
      if (pairs.some(([a, b]) => a.policy !== b.policy || a.text !== b.text))
        return yield* PairingError.of({
          doing: of,
          expected: "both scores of the same completions",
          found: "other texts",
          hint: "Score the same set of completions with both reward models."
        })
      versions.push({ name, completions: pairs.map(([a, b]) => ({ promptId: a.promptId, reward: a.reward, general: b.reward })) })
    }
    for (const [i, { name, completions }] of versions.entries()) {
      const before = versions[i - 1]
      const ids = new Set(before?.completions.map(({ promptId }) => promptId))
      if (before !== undefined && !completions.some(({ promptId }) => ids.has(promptId)))
        return yield* PairingError.of({
          doing,
          expected: "versions that answered the same prompts",
          found: `no prompt that both "${before.name}" and "${name}" answered`,
          hint: "Sample every version from the same prompts."
        })
    }
    return yield* writeReport(output, rewardTrend(versions, seed))
  })
})
