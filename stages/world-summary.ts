/**
 * What a run of the recipe on the small world came to: every version and control judged by the world's oracle on the same held-out prompts, the reward
 * models beside what can be told without one, Ghost Attention over turns, and context distillation.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, readRows, writeReport } from "../data/dataset.ts"
import { grade } from "../data/world/oracle.ts"
import * as Stage from "../runtime/stage.ts"
import { report } from "../schemas/artifact.ts"
import { EstimateSchema } from "../schemas/metrics.ts"
import { type Demonstration, Demonstrations, type ScoredCompletion, ScoredCompletions } from "../schemas/rows.ts"
import { type RewardAccuracy, RewardAccuracyReport, type RewardBaselines, RewardBaselinesReport } from "./evaluate-reward.ts"
import { GhostAttentionReport } from "./ghost-attention.ts"
import { EmptyDatasetError } from "./shared/errors.ts"
import { pairSamples } from "./shared/pairing.ts"
import { bootstrapMean, mean, standardError } from "./shared/statistics.ts"
import { winRateOf, Wins, winsOf } from "./win-rate.ts"

const Mean = Schema.Struct({ mean: Schema.Number, standardError: Schema.Number })
const Version = Schema.Struct({
  name: Schema.String,
  /** By the oracle: over prompts that hold no risk (borderline ones among them), and over those that must be refused. */
  helpfulness: Mean,
  safety: Mean,
  /** Means of R_h and R_s over the same prompts, by the last round's reward models. */
  rewardHelpfulness: Schema.Number,
  rewardSafety: Schema.Number,
  /** R_c in (0, 1) over all prompts (§3.2.3); R_h in a run without a safety model. */
  reward: Mean,
  /** Share of answers that do what must be refused; and of borderline prompts that are refused (figure 33). */
  violationRate: Schema.Number,
  falseRefusalRate: Schema.Number
})
const Gain = Schema.Struct({ over: Schema.String, helpfulness: EstimateSchema, safety: EstimateSchema })
const WinRates = Schema.Struct({
  name: Schema.String,
  /** Over SFT (figure 11), by the oracle's grades of the prompts of each kind, and by the last round's reward models. */
  oracle: Schema.Struct({ helpfulness: Schema.NullOr(Wins), safety: Schema.NullOr(Wins) }),
  rewardModels: Schema.Struct({ helpfulness: Schema.NullOr(Wins), safety: Schema.NullOr(Wins), reward: Wins })
})
const RewardModelSummary = Schema.Struct({
  accuracy: EstimateSchema,
  byRating: Schema.Array(Schema.Struct({ rating: Schema.String, pairs: Schema.Number, accuracy: EstimateSchema })),
  lengthOnly: EstimateSchema,
  bagOfWords: EstimateSchema
})
const KeptByTurn = Schema.Array(Schema.Struct({ turn: Schema.Number, dialogues: Schema.Number, kept: EstimateSchema }))

export const WorldSummary = Schema.Struct({
  prompts: Schema.Struct({ helpfulness: Schema.Number, safety: Schema.Number }),
  versions: Schema.Array(Version),
  controls: Schema.Array(Version),
  /** The last version above SFT and above each control, paired by prompt: 95% bootstrap. */
  gain: Schema.Array(Gain),
  /** How often each version's answers are better than SFT's to the same prompts. */
  winRates: Schema.Array(WinRates),
  rewardModels: Schema.Struct({ helpfulness: RewardModelSummary, safety: Schema.NullOr(RewardModelSummary) }),
  /** Share of answers that keep the instruction of the first turn, before and after Ghost Attention (§3.3); null in a run without. */
  ghostAttention: Schema.NullOr(Schema.Struct({ withTurns: KeptByTurn, withoutTurns: KeptByTurn })),
  /** The oracle's safety of what distillation kept: the original answers and the distilled ones (§4.2.4); null in a run without. */
  contextDistillation: Schema.NullOr(
    Schema.Struct({ before: Schema.Number, after: Schema.Number, gain: EstimateSchema, kept: Schema.Number, prompts: Schema.Number })
  )
})
export type WorldSummary = typeof WorldSummary.Type
export const WorldSummaryReport = report(WorldSummary, "world-summary/2")

interface Graded extends ScoredCompletion {
  readonly helpfulness: number
  readonly safetyGrade: number
  readonly violation: boolean
  readonly refusal: boolean
  readonly borderline: boolean
}

const gradeAll = (completions: ReadonlyArray<ScoredCompletion>): Array<Graded> =>
  completions.map((completion) => {
    const { helpfulness, safety, violation, refusal, borderline } = grade(completion.prompt, completion.text)
    return { ...completion, helpfulness, safetyGrade: safety, violation, refusal, borderline }
  })

/** A value for each prompt: the mean over its samples. */
const byPrompt = (graded: ReadonlyArray<Graded>, value: (one: Graded) => number): ReadonlyMap<string, number> =>
  new Map([...Map.groupBy(graded, ({ promptId }) => promptId)].map(([id, samples]) => [id, mean(samples.map(value))]))

const meanOf = (values: ReadonlyMap<string, number>) => ({
  mean: mean([...values.values()]),
  standardError: standardError([...values.values()])
})
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
const share = (graded: ReadonlyArray<Graded>, is: (one: Graded) => boolean): number =>
  graded.length === 0 ? 0 : graded.filter(is).length / graded.length

/** One version's line of the table. */
export const versionOf = (name: string, graded: ReadonlyArray<Graded>): typeof Version.Type => {
  const [harmless, adversarial] = [graded.filter(({ safety }) => !safety), graded.filter(({ safety }) => safety)]
  return {
    name,
    helpfulness: meanOf(byPrompt(harmless, (one) => one.helpfulness)),
    safety: meanOf(byPrompt(adversarial, (one) => one.safetyGrade)),
    rewardHelpfulness: mean(harmless.map((one) => one.helpfulnessScore ?? 0)),
    rewardSafety: mean(adversarial.map((one) => one.safetyScore ?? 0)),
    reward: meanOf(byPrompt(graded, (one) => sigmoid(one.reward))),
    violationRate: share(adversarial, (one) => one.violation),
    falseRefusalRate: share(
      harmless.filter((one) => one.borderline),
      (one) => one.refusal
    )
  }
}

/** How much better `ours` is, prompt by prompt. */
export const gainOver = (over: string, ours: ReadonlyArray<Graded>, theirs: ReadonlyArray<Graded>, seed: number): typeof Gain.Type => {
  const difference = (adversarial: boolean, value: (one: Graded) => number) => {
    const [a, b] = [ours, theirs].map((graded) =>
      byPrompt(
        graded.filter(({ safety }) => safety === adversarial),
        value
      )
    ) as [ReadonlyMap<string, number>, ReadonlyMap<string, number>]
    return bootstrapMean(
      [...a].flatMap(([id, mine]) => (b.has(id) ? [mine - b.get(id)!] : [])),
      seed
    )
  }
  return { over, helpfulness: difference(false, (one) => one.helpfulness), safety: difference(true, (one) => one.safetyGrade) }
}

/** How often a version's answer is better than SFT's; a prompt that one of them left empty is none of theirs. */
const winRatesOf = Effect.fnUntraced(function* (name: string, version: ReadonlyArray<Graded>, sft: ReadonlyArray<Graded>) {
  const { pairs } = yield* pairSamples(version, sft, `Counting the wins of ${name} over sft`)
  const byOracle = (safety: boolean, value: (one: Graded) => number) => {
    const matches = pairs.flatMap(([a, b]) => (a.safety === safety ? [{ promptId: a.promptId, ours: value(a), opponent: value(b) }] : []))
    return matches.length === 0 ? null : winsOf(matches)
  }
  const oracle = { helpfulness: byOracle(false, (one) => one.helpfulness), safety: byOracle(true, (one) => one.safetyGrade) }
  return { name, oracle, rewardModels: winRateOf(pairs) }
})

const rewardModelOf = (accuracy: RewardAccuracy, baselines: RewardBaselines): typeof RewardModelSummary.Type => ({
  accuracy: accuracy.accuracy,
  byRating: accuracy.byRating,
  lengthOnly: baselines.lengthOnly,
  bagOfWords: baselines.bagOfWords
})

/** The oracle's safety of the answers that distillation kept, and of what the model had said to the same prompts. */
const distillationOf = (original: ReadonlyArray<ScoredCompletion>, distilled: ReadonlyArray<Demonstration>, seed: number) => {
  const before = byPrompt(gradeAll(original), (one) => one.safetyGrade)
  const pairs = distilled.flatMap(({ id, messages }) => {
    const was = before.get(id)
    return was === undefined ? [] : [{ was, is: grade(messages.slice(0, -1), messages.at(-1)!.content).safety }]
  })
  if (pairs.length === 0) return null
  return {
    before: mean(pairs.map(({ was }) => was)),
    after: mean(pairs.map(({ is }) => is)),
    gain: bootstrapMean(
      pairs.map(({ was, is }) => is - was),
      seed
    ),
    kept: pairs.length,
    prompts: before.size
  }
}

const names = (description: string) => Schema.Array(Schema.String).annotate({ description })

export const worldSummary = Stage.make("world-summary", {
  description: "versions and controls by the oracle on held-out prompts, reward models, Ghost Attention and distillation in one report",
  config: Schema.Struct({
    versions: names("names of the versions, in the order of the input; `sft` is among them, the last one is what the run came to"),
    controls: names("names of the controls, in the order of the input")
  }),
  inputs: {
    versions: Stage.many(ScoredCompletions),
    controls: Stage.many(ScoredCompletions),
    helpfulness: RewardAccuracyReport,
    helpfulnessBaselines: RewardBaselinesReport,
    safety: Stage.optional(RewardAccuracyReport),
    safetyBaselines: Stage.optional(RewardBaselinesReport),
    ghostBefore: Stage.optional(GhostAttentionReport),
    ghostAfter: Stage.optional(GhostAttentionReport),
    original: Stage.optional(ScoredCompletions),
    distilled: Stage.optional(Demonstrations)
  },
  output: WorldSummaryReport,
  run: Effect.fn("world-summary")(function* ({ config, inputs, output, seed }) {
    const read = (sets: typeof inputs.versions) => Effect.forEach(sets, (set) => Effect.map(readRows(set, ScoredCompletions), gradeAll))
    const versions = yield* read(inputs.versions)
    const controls = yield* read(inputs.controls)
    for (const [what, given, wanted] of [
      ["versions", versions.length, config.versions.length],
      ["controls", controls.length, config.controls.length]
    ] as const)
      if (given !== wanted) return yield* EmptyDatasetError.of(`summarise ${wanted} ${what}`, `${given} sets of completions`)
    const last = versions.at(-1)!
    const sft = versions[config.versions.indexOf("sft")]
    if (sft === undefined) return yield* EmptyDatasetError.of("compare with", "no version named sft")
    const safety =
      inputs.safety === undefined || inputs.safetyBaselines === undefined
        ? null
        : rewardModelOf(
            yield* readReport(inputs.safety, RewardAccuracyReport),
            yield* readReport(inputs.safetyBaselines, RewardBaselinesReport)
          )
    const count = (adversarial: boolean) =>
      byPrompt(last, () => 0).size && new Set(last.filter((one) => one.safety === adversarial).map(({ promptId }) => promptId)).size
    const others = config.versions.flatMap((name, i) => (name === "sft" ? [] : [{ name, graded: versions[i]! }]))
    const winRates = yield* Effect.forEach(others, ({ name, graded }) => winRatesOf(name, graded, sft))
    return yield* writeReport(output, {
      prompts: { helpfulness: count(false), safety: count(true) },
      versions: versions.map((graded, i) => versionOf(config.versions[i]!, graded)),
      controls: controls.map((graded, i) => versionOf(config.controls[i]!, graded)),
      gain: [gainOver("sft", last, sft, seed), ...controls.map((graded, i) => gainOver(config.controls[i]!, last, graded, seed))],
      winRates,
      rewardModels: {
        helpfulness: rewardModelOf(
          yield* readReport(inputs.helpfulness, RewardAccuracyReport),
          yield* readReport(inputs.helpfulnessBaselines, RewardBaselinesReport)
        ),
        safety
      },
      ghostAttention:
        inputs.ghostBefore === undefined || inputs.ghostAfter === undefined
          ? null
          : {
              withTurns: (yield* readReport(inputs.ghostAfter, GhostAttentionReport)).byTurn,
              withoutTurns: (yield* readReport(inputs.ghostBefore, GhostAttentionReport)).byTurn
            },
      contextDistillation:
        inputs.original === undefined || inputs.distilled === undefined
          ? null
          : distillationOf(yield* readRows(inputs.original, ScoredCompletions), yield* readRows(inputs.distilled, Demonstrations), seed)
    })
  })
})
