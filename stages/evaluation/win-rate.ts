/**
 * Win rate of one model over another according to reward models (Llama 2 §3.4, figure 11; pairs as in figure 2): both answered the same prompts,
 * and an answer wins if its reward is higher.
 *
 *     win rate = wins / (wins + losses);   ties are counted separately
 *
 * Helpfulness is measured with R_h on the prompts that elicit nothing unsafe, safety with R_s on those that do, and both together with the reward that the
 * models were tuned for. Scores are comparable only if they come from the same reward model, so both sets must be scored by the same one. The opponent may be
 * any checkpoint: `importPolicy`, then `sample` and `score` with the same prompts and reward models; its tokenizer may differ from ours.
 *
 * If prompts have several samples, sample i is compared with sample i, and each prompt counts once: its wins and losses are divided by its number of pairs.
 * The interval is Wilson's with as many trials as remain decided: samples of one prompt are not independent, and in the worst case they all agree.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { pairSamples, skipAlone } from "../common/pairing.ts"
import { proportion } from "../common/statistics.ts"

export const Wins = Schema.Struct({
  prompts: Schema.Number,
  /** Pairs of answers. */
  wins: Schema.Number,
  losses: Schema.Number,
  ties: Schema.Number,
  /** null if every pair is a tie. */
  rate: Schema.NullOr(EstimateSchema)
})
export type Wins = typeof Wins.Type

export const WinRate = Schema.Struct({
  /** With R_h over prompts that are not safety prompts; null if the score is missing or there are no such prompts. */
  helpfulness: Schema.NullOr(Wins),
  /** With R_s over safety prompts. */
  safety: Schema.NullOr(Wins),
  /** With the reward over all prompts. */
  reward: Wins,
  /** Answers without a counterpart on the other side: empty answers and those too long for a reward model have no score. */
  unpaired: Schema.Struct({ ours: Schema.Number, opponent: Schema.Number })
})
export type WinRate = typeof WinRate.Type
export const WinRateReport = report(WinRate, "win-rate/1")

/** Our value and the opponent's, for one prompt. */
export interface Match {
  readonly promptId: string
  readonly ours: number
  readonly opponent: number
}

export const winsOf = (matches: ReadonlyArray<Match>): Wins => {
  let [wins, losses, ties, won, lost, prompts] = [0, 0, 0, 0, 0, 0]
  for (const own of Map.groupBy(matches, ({ promptId }) => promptId).values()) {
    const up = own.filter(({ ours, opponent }) => ours > opponent).length
    const down = own.filter(({ ours, opponent }) => ours < opponent).length
    prompts++
    wins += up
    losses += down
    ties += own.length - up - down
    won += up / own.length
    lost += down / own.length
  }
  return { prompts, wins, losses, ties, rate: wins + losses === 0 ? null : proportion(won, won + lost) }
}

type Pair = readonly [ours: ScoredCompletion, opponent: ScoredCompletion]

/** Matches of the pairs that both have a score. */
const matchesBy = (pairs: ReadonlyArray<Pair>, value: (one: ScoredCompletion) => number | null): ReadonlyArray<Match> =>
  pairs.flatMap(([a, b]) => {
    const [ours, opponent] = [value(a), value(b)]
    return ours === null || opponent === null ? [] : [{ promptId: a.promptId, ours, opponent }]
  })

export const winRateOf = (pairs: ReadonlyArray<Pair>): Omit<WinRate, "unpaired"> => {
  const part = (safety: boolean, value: (one: ScoredCompletion) => number | null): Wins | null => {
    const matches = matchesBy(
      pairs.filter(([one]) => one.safety === safety),
      value
    )
    return matches.length === 0 ? null : winsOf(matches)
  }
  return {
    helpfulness: part(false, (one) => one.helpfulnessScore),
    safety: part(true, (one) => one.safetyScore),
    reward: winsOf(matchesBy(pairs, (one) => one.reward))
  }
}

export const winRate = Stage.make("win-rate", {
  description: "figure 11: how often one model's answers score higher than another's for the same prompts",
  config: Schema.Struct({}),
  inputs: { ours: ScoredCompletions, opponent: ScoredCompletions },
  output: WinRateReport,
  seeded: false,
  run: Effect.fn("win-rate")(function* ({ inputs, output, skipped }) {
    const ours = yield* readRows(inputs.ours, ScoredCompletions)
    const opponent = yield* readRows(inputs.opponent, ScoredCompletions)
    const paired = yield* pairSamples(ours, opponent, "Counting the wins of one model over another")
    yield* skipAlone(skipped, paired)
    const { pairs, unpaired } = paired
    return yield* writeReport(output, { ...winRateOf(pairs), unpaired: { ours: unpaired[0], opponent: unpaired[1] } })
  })
})
