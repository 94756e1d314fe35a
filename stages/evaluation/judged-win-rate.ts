/**
 * Win rate of one model over another according to people or a judge model (Llama 2 §3.4.1 and figure 11: "another judge" in addition to the reward models;
 * pairs in random order, as in figure 2). Both models answered the same prompts:
 *
 *     pairCompletions -> annotate (annotator "judge" or "file") -> judgedWinRate
 *
 * Helpfulness is judged on prompts that elicit nothing unsafe, safety on those that do, each with its own guidelines: call `annotate` for each.
 *
 * Every pair of answers counts. A tie is a pair of equal answers, which the annotator is not asked about, or a pair without a verdict, which is also counted as undecided:
 * the annotator gave no readable choice, or chose an unsafe answer over a safe one, which `annotate` drops as it does for training (§3.2.1).
 * Neither model wins such a pair: a verdict that contradicts its own safety labels does not show which answer is better. The report includes their number.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type Completion, Completions, type Preference, Preferences, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { pairSamples, PairingError, sampleId, skipAlone } from "../common/pairing.ts"
import { type Match, Wins, winsOf } from "./win-rate.ts"

export const pairCompletions = Stage.make("pair-completions", {
  description: "figure 11: pairs of two models' answers to the same prompts, for an annotator; equal answers are left out",
  config: Schema.Struct({
    prompts: hyper("all", "prompts whose answers to pair: all, only helpfulness prompts, or only safety prompts", [
      "all",
      "helpfulness",
      "safety"
    ])
  }),
  inputs: { ours: Completions, opponent: Completions },
  output: ResponsePairs,
  run: Effect.fn("pair-completions")(function* ({ config, inputs, output, seed, skipped }) {
    const ours = yield* readRows(inputs.ours, Completions)
    const opponent = yield* readRows(inputs.opponent, Completions)
    const paired = yield* pairSamples(ours, opponent, "Pairing two models' answers")
    yield* skipAlone(skipped, paired)
    const { pairs, unpaired } = paired
    const wanted = pairs.filter(([{ safety }]) => config.prompts === "all" || safety === (config.prompts === "safety"))
    const rows = wanted
      .filter(([a, b]) => a.text !== b.text)
      .map((pair): ResponsePair => {
        const id = sampleId(pair[0])
        const [A, B] = new Random(seed, "pair", "order", id).next() < 0.5 ? pair : [pair[1], pair[0]]
        return {
          ...{ id, prompt: A.prompt, safety: A.safety, category: null, followUps: [] },
          ...{ responseA: A.text, responseB: B.text, policyA: A.policy, policyB: B.policy },
          ...{ temperatureA: A.temperature, temperatureB: B.temperature }
        }
      })
    return yield* writeDataset(output, rows, {
      metrics: { pairs: rows.length, equal: wanted.length - rows.length, unpaired: unpaired[0] + unpaired[1] }
    })
  })
})

export const JudgedWins = Schema.Struct({
  ...Wins.fields,
  /** Ties without a verdict: pairs of different answers. */
  undecided: Schema.Number
})
export type JudgedWins = typeof JudgedWins.Type

const JudgedWinRate = Schema.Struct({
  /** Over prompts that elicit nothing unsafe, and over those that do; null if there are none. */
  helpfulness: Schema.NullOr(JudgedWins),
  safety: Schema.NullOr(JudgedWins),
  /** Answers without a counterpart on the other side. */
  unpaired: Schema.Struct({ ours: Schema.Number, opponent: Schema.Number })
})
type JudgedWinRate = typeof JudgedWinRate.Type
export const JudgedWinRateReport = report(JudgedWinRate, "judged-win-rate/1")

type Pair = readonly [ours: Completion, opponent: Completion]

const judgedWinsOf = (pairs: ReadonlyArray<Pair>, verdicts: ReadonlyMap<string, Preference>): JudgedWins | null => {
  let undecided = 0
  const matches = pairs.map(([ours, opponent]): Match => {
    const verdict = verdicts.get(sampleId(ours))
    if (verdict === undefined && ours.text !== opponent.text) undecided++
    const value = (text: string) => (verdict?.chosen === text ? 1 : 0)
    return { promptId: ours.promptId, ours: value(ours.text), opponent: value(opponent.text) }
  })
  return matches.length === 0 ? null : { ...winsOf(matches), undecided }
}

/** Verdicts by pair. Fails for a verdict that belongs to no pair or to other answers, and for duplicates, since it would be counted for a pair that nobody judged. */
const verdictsOf = Effect.fn("verdictsOf")(function* (pairs: ReadonlyArray<Pair>, verdicts: ReadonlyArray<Preference>) {
  const textsOf = new Map(pairs.map(([ours, opponent]) => [sampleId(ours), [ours.text, opponent.text]]))
  const found = new Map<string, Preference>()
  for (const verdict of verdicts) {
    const texts = textsOf.get(verdict.id)
    const fits = texts !== undefined && texts.includes(verdict.chosen) && texts.includes(verdict.rejected)
    if (!fits || found.has(verdict.id))
      return yield* PairingError.of({
        doing: "Counting judged wins",
        expected: "at most one verdict per pair of these answers",
        found: `${fits ? "two verdicts" : texts === undefined ? "a verdict on another pair" : "a verdict on other answers"}: "${verdict.id}"`,
        hint: "Annotate the output of pairCompletions for the same two sets, once per kind of prompts."
      })
    found.set(verdict.id, verdict)
  }
  return found
})

export const judgedWinRate = Stage.make("judged-win-rate", {
  description: "figure 11: how often an annotator prefers one model's answers to another's for the same prompts",
  config: Schema.Struct({}),
  inputs: { ours: Completions, opponent: Completions, verdicts: Stage.many(Preferences) },
  output: JudgedWinRateReport,
  seeded: false,
  run: Effect.fn("judged-win-rate")(function* ({ inputs, output, skipped }) {
    const ours = yield* readRows(inputs.ours, Completions)
    const opponent = yield* readRows(inputs.opponent, Completions)
    const paired = yield* pairSamples(ours, opponent, "Counting judged wins")
    yield* skipAlone(skipped, paired)
    const { pairs, unpaired } = paired
    const verdicts = yield* verdictsOf(pairs, (yield* Effect.forEach(inputs.verdicts, (set) => readRows(set, Preferences))).flat())
    const part = (safety: boolean) =>
      judgedWinsOf(
        pairs.filter(([one]) => one.safety === safety),
        verdicts
      )
    return yield* writeReport(output, {
      helpfulness: part(false),
      safety: part(true),
      unpaired: { ours: unpaired[0], opponent: unpaired[1] }
    })
  })
})

export const pairCompletionsCost = costOf(pairCompletions, {
  size: ({ config: { prompts }, inputs: { ours } }) => {
    if (prompts === "all") return ours
    const share = prompts === "safety" ? ours.safetyShare : 1 - ours.safetyShare
    return sized(ours, { rows: Math.round(ours.rows * share), safetyShare: prompts === "safety" ? 1 : 0 })
  }
})
