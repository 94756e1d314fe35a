/**
 * The figures of a run on your own data: every version and control on the same held-out prompts, evaluated by the judges (reward models not used for tuning); the
 * last version compared with the others; the reward models on held-out pairs; and the gain from choosing the best of K.
 */
import * as Schema from "effect/Schema"
import { EstimateSchema } from "../../schemas/metrics.ts"
import type { ScoredCompletion } from "../../schemas/rows.ts"
import { estimateByPrompt, meanByPrompt } from "../common/pairing.ts"
import { mean, pairedBootstrap } from "../common/statistics.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import { RewardAccuracy, type RewardBaselines, SafetyRecall } from "../reward/evaluate-reward.ts"
import { BestOfN } from "./evaluate-policy.ts"
import { MtBench } from "./mt-bench/summary.ts"
import { winsOf, Wins } from "./win-rate.ts"
import { XsTest } from "./xstest.ts"

/** Over the answers that can be scored: an empty answer, or one with tags of the chat format, has no score. */
const VersionFigures = Schema.Struct({
  name: Schema.String,
  prompts: Schema.Number,
  answers: Schema.Number,
  /** Share of answers that ended by themselves, and mean tokens per answer. */
  ended: Schema.Number,
  tokens: Schema.Number,
  /** R_c in (0, 1) (§3.2.3), and its component scores; R_s is null without a safety model. */
  reward: EstimateSchema,
  helpfulness: Schema.NullOr(EstimateSchema),
  safety: Schema.NullOr(EstimateSchema)
})
export type VersionFigures = typeof VersionFigures.Type

export const RewardModelFigures = Schema.Struct({
  pairs: Schema.Number,
  accuracy: EstimateSchema,
  judge: EstimateSchema,
  byRating: RewardAccuracy.fields.byRating,
  /** Baselines that use only length or words, and randomly swapped labels. */
  lengthOnly: EstimateSchema,
  bagOfWords: EstimateSchema,
  shuffledLabels: EstimateSchema
})

/** A statement about the run, and whether its figures support it (conclusions.ts). */
export const Conclusion = Schema.Struct({ verdict: Schema.Literals(["holds", "not shown", "the opposite"]), text: Schema.String })
export type Conclusion = typeof Conclusion.Type

export const RunSummary = Schema.Struct({
  versions: Schema.Array(VersionFigures),
  controls: Schema.Array(VersionFigures),
  /** The last version's R_c minus each other version's and control's, and its win rate, on the prompts that both have a score for. */
  gain: Schema.Array(Schema.Struct({ over: Schema.String, reward: EstimateSchema, wins: Wins })),
  rewardModels: Schema.Struct({ helpfulness: RewardModelFigures, safety: Schema.NullOr(RewardModelFigures) }),
  safetyRecall: Schema.NullOr(SafetyRecall),
  /** Chosen by the reward models, evaluated by the judges: rewards are logit(R_c). */
  bestOfK: BestOfN,
  /** Null if XSTest was not used. */
  xsTest: Schema.NullOr(XsTest),
  /** Null if MT-Bench was not used. */
  mtBench: Schema.NullOr(MtBench),
  conclusions: Schema.Array(Conclusion)
})
export type RunSummary = typeof RunSummary.Type

type Scored = ReadonlyArray<ScoredCompletion>
export interface ScoredVersion {
  readonly name: string
  readonly scored: Scored
}

const rewardOf = ({ reward }: ScoredCompletion): number => scoreOf(reward)

/** A version's row; at least one answer must have a score. */
export const figuresOf = ({ name, scored }: ScoredVersion, seed: number): VersionFigures => ({
  name,
  prompts: new Set(scored.map(({ promptId }) => promptId)).size,
  answers: scored.length,
  ended: scored.filter(({ finished }) => finished).length,
  tokens: mean(scored.map(({ tokens }) => tokens.length)),
  reward: estimateByPrompt(scored, rewardOf, seed)!,
  helpfulness: estimateByPrompt(scored, (one) => one.helpfulnessScore, seed),
  safety: estimateByPrompt(scored, (one) => one.safetyScore, seed)
})

/** The difference of one version to another on the prompts that both have a score for; undefined if there are none. */
export const gainOver = (ours: Scored, { name, scored }: ScoredVersion, seed: number): RunSummary["gain"][number] | undefined => {
  const [own, others] = [meanByPrompt(ours, rewardOf), meanByPrompt(scored, rewardOf)]
  const matches = [...own].flatMap(([promptId, value]) => {
    const opponent = others.get(promptId)
    return opponent === undefined ? [] : [{ promptId, ours: value, opponent }]
  })
  if (matches.length === 0) return undefined
  const sides = [matches.map((one) => one.ours), matches.map(({ opponent }) => opponent)] as const
  return { over: name, reward: pairedBootstrap(...sides, seed), wins: winsOf(matches) }
}

/** A reward model and its judge on the same held-out pairs. */
export const rewardModelFigures = (
  { accuracy, byRating, controls, pairs }: RewardAccuracy,
  judge: RewardAccuracy,
  { bagOfWords, lengthOnly }: RewardBaselines
): typeof RewardModelFigures.Type => ({
  ...{ pairs, accuracy, judge: judge.accuracy, byRating, lengthOnly, bagOfWords, shuffledLabels: controls.shuffledLabels }
})
