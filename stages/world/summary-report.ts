/** The report on a run of the recipe on the small world: its content, and its text, short enough for a terminal. */
import * as Schema from "effect/Schema"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import type { Estimate } from "../common/statistics.ts"
import { columns, digits, plusMinus, within } from "../common/text-table.ts"
import { Wins } from "../evaluation/win-rate.ts"
import { RoundWins } from "../preferences/round-wins.ts"
import { VersionGain } from "./compare-versions.ts"
import { MeanOverPrompts } from "./evaluate-version.ts"

/** Means are null if there is no prompt of the kind. */
export const VersionSummary = Schema.Struct({
  name: Schema.String,
  /** According to the oracle: over prompts without a risk (including borderline ones), and over those that must be refused. Answers that cannot be scored count too. */
  helpfulness: MeanOverPrompts,
  safety: MeanOverPrompts,
  /** Means of R_h and R_s, from the last round's reward models, over the answers to the same prompts that can be scored; null without that model. */
  rewardHelpfulness: Schema.NullOr(Schema.Number),
  rewardSafety: Schema.NullOr(Schema.Number),
  /** R_c in (0, 1) over all answers that can be scored (§3.2.3); R_h in a run without a safety model. */
  reward: MeanOverPrompts,
  /** Share of answers that do what must be refused; and share of borderline prompts that are refused (figure 33). */
  violationRate: Schema.NullOr(Schema.Number),
  falseRefusalRate: Schema.NullOr(Schema.Number),
  /** Empty answers; and answers that no reward model can score: the empty ones, and those that do not fit its context or the chat format, such as those with its tags. */
  empty: Schema.Number,
  unscored: Schema.Number
})
const WinRates = Schema.Struct({
  name: Schema.String,
  /** Win rates over SFT (figure 11), according to the oracle's grades on the prompts of each kind, and according to the last round's reward models if they can score both. */
  oracle: Schema.Struct({ helpfulness: Schema.NullOr(Wins), safety: Schema.NullOr(Wins) }),
  rewardModels: Schema.Struct({ helpfulness: Schema.NullOr(Wins), safety: Schema.NullOr(Wins), reward: Wins })
})
export const RewardModelSummary = Schema.Struct({
  accuracy: EstimateSchema,
  byRating: Schema.Array(Schema.Struct({ rating: Schema.String, pairs: Schema.Number, accuracy: EstimateSchema })),
  lengthOnly: EstimateSchema,
  bagOfWords: EstimateSchema
})
const KeptByTurn = Schema.NullOr(Schema.Array(Schema.Struct({ turn: Schema.Number, dialogues: Schema.Number, kept: EstimateSchema })))

export const WorldSummary = Schema.Struct({
  prompts: Schema.Struct({ helpfulness: Schema.Number, safety: Schema.Number }),
  versions: Schema.Array(VersionSummary),
  controls: Schema.Array(VersionSummary),
  /** The last version compared with SFT and with each control, paired by prompt: 95% bootstrap. */
  gain: Schema.Array(VersionGain),
  /** How often each version's answers are better than SFT's to the same prompts. */
  winRates: Schema.Array(WinRates),
  rewardModels: Schema.Struct({ helpfulness: RewardModelSummary, safety: Schema.NullOr(RewardModelSummary) }),
  /** How often each round's newest model was chosen in the pairs of its round (§3.4.1); null if not counted. */
  roundWins: Schema.NullOr(RoundWins.fields.rounds),
  /**
   * Share of answers that keep the instruction of the first turn, for the last version and for the one before Ghost Attention (§3.3). In a run without Ghost
   * Attention, withTurns is null and withoutTurns is the last version's; null in a run that ends before it.
   */
  ghostAttention: Schema.NullOr(Schema.Struct({ withTurns: KeptByTurn, withoutTurns: KeptByTurn })),
  /** The oracle's safety of the answers that distillation kept: the original and the distilled ones (§4.2.4); null in a run without distillation. */
  contextDistillation: Schema.NullOr(
    Schema.Struct({ before: Schema.Number, after: Schema.Number, gain: EstimateSchema, kept: Schema.Number, prompts: Schema.Number })
  )
})
export type WorldSummary = typeof WorldSummary.Type
export const WorldSummaryReport = report(WorldSummary, "world-summary/4")

const turns = (byTurn: ReadonlyArray<{ readonly kept: Estimate }>): string => byTurn.map(({ kept }) => kept.mean.toFixed(2)).join(", ")

/** One line per version, the last one's gains, the reward models, and the effects of Ghost Attention and distillation. */
export const summaryText = (summary: WorldSummary): string => {
  const { prompts, versions, controls, gain, rewardModels, roundWins, ghostAttention: ghost, contextDistillation: distilled } = summary
  const models = (["helpfulness", "safety"] as const).flatMap((name) => {
    const model = rewardModels[name]
    return model === null ? [] : [[name, within(model.accuracy), digits(model.lengthOnly.mean), digits(model.bagOfWords.mean)]]
  })
  const kept = [
    ...(ghost?.withTurns ? [`with it ${turns(ghost.withTurns)}`] : []),
    ...(ghost?.withoutTurns ? [`without ${turns(ghost.withoutTurns)}`] : [])
  ]
  return [
    `${prompts.helpfulness} held-out prompts to help with, ${prompts.safety} to refuse, answered by every version. By the oracle: helpfulness and safety`,
    "(± standard error), violations, false refusals; by the last reward models: R_h, R_s, R_c of all answers but the unscored (empty, or with",
    "tags of the chat format in them).",
    "",
    ...columns([
      ["version", "helpfulness", "safety", "R_h", "R_s", "R_c", "violations", "false refusals", "unscored"],
      ...[...versions, ...controls.map((control) => ({ ...control, name: `control: ${control.name}` }))].map((one) => [
        ...[one.name, plusMinus(one.helpfulness), plusMinus(one.safety), digits(one.rewardHelpfulness), digits(one.rewardSafety)],
        ...[digits(one.reward?.mean ?? null), digits(one.violationRate), digits(one.falseRefusalRate), `${one.unscored}`]
      ])
    ]),
    "",
    ...columns([
      [`${versions.at(-1)!.name} above`, "helpfulness (95%)", "safety (95%)"],
      ...gain.map(({ over, helpfulness, safety }) => [over, within(helpfulness), within(safety)])
    ]),
    "",
    ...columns([["reward model", "accuracy (95%)", "length alone", "bag of words"], ...models]),
    "",
    ...(roundWins === null
      ? []
      : [
          ...columns([
            ["by each round's pairs", "win rate (95%)", "pairs"],
            ...roundWins.map(({ comparisons, name, rate }) => [name, within(rate), `${comparisons}`])
          ]),
          ""
        ]),
    ...(kept.length === 0 ? [] : [`Ghost Attention, instruction of the first turn kept, turn by turn: ${kept.join("; ")}.`]),
    ...(distilled === null
      ? []
      : [
          `Context distillation kept ${distilled.kept} of ${distilled.prompts} prompts: safety ${digits(distilled.before)} before, ${digits(distilled.after)} after, gain ${within(distilled.gain)}.`
        ])
  ]
    .join("\n")
    .trimEnd()
}
