/**
 * Win rate of one model over another by people or by a model that judges (Llama 2 §3.4.1 and figure 11: beside the reward models "another judge";
 * pairwise, in an order that is drawn: figure 2). Both answered the same prompts:
 *
 *     pairCompletions -> annotate (annotator "judge" or "file") -> judgedWinRate
 *
 * Helpfulness is judged on prompts that draw out nothing unsafe, safety on those that do, each by its own guidelines: a call of `annotate` for each.
 *
 * Every pair of answers counts. A tie is two equal answers, which nobody is asked about, or a pair without a verdict, which is counted as undecided too:
 * the annotator gave no choice that can be read, or chose an unsafe answer over a safe one, which `annotate` drops as it does for training (§3.2.1).
 * Such a pair is won by neither: a verdict against its own labels of safety says nothing of which is better. How many there are is beside the rate.
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
  description: "figure 11 two models' answers to the same prompts, side by side for an annotator; equal ones are left out",
  config: Schema.Struct({
    prompts: hyper("all", "which prompts' answers: of all, of those that draw out nothing unsafe, or of those that do", [
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
  /** Of the ties: pairs of different answers that have no verdict. */
  undecided: Schema.Number
})
export type JudgedWins = typeof JudgedWins.Type

const JudgedWinRate = Schema.Struct({
  /** Over prompts that draw out nothing unsafe, and over those that do; null where there are none. */
  helpfulness: Schema.NullOr(JudgedWins),
  safety: Schema.NullOr(JudgedWins),
  /** Answers that the other side has no counterpart of. */
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

/** Verdicts by pair. Fails where one is of no pair, of other answers, or there twice: it would be counted for what nobody judged. */
const verdictsOf = Effect.fn("verdictsOf")(function* (pairs: ReadonlyArray<Pair>, verdicts: ReadonlyArray<Preference>) {
  const textsOf = new Map(pairs.map(([ours, opponent]) => [sampleId(ours), [ours.text, opponent.text]]))
  const found = new Map<string, Preference>()
  for (const verdict of verdicts) {
    const texts = textsOf.get(verdict.id)
    const fits = texts !== undefined && texts.includes(verdict.chosen) && texts.includes(verdict.rejected)
    if (!fits || found.has(verdict.id))
      return yield* PairingError.of({
        doing: "Counting the wins that were judged",
        expected: "one verdict at most on each pair of these answers",
        found: `${fits ? "two" : texts === undefined ? "one on another pair" : "one on other answers"}: "${verdict.id}"`,
        hint: "Annotate what pairCompletions makes of the same two sets, once for each kind of prompts."
      })
    found.set(verdict.id, verdict)
  }
  return found
})

export const judgedWinRate = Stage.make("judged-win-rate", {
  description: "figure 11 how often an annotator prefers one model's answers to another's to the same prompts",
  config: Schema.Struct({}),
  inputs: { ours: Completions, opponent: Completions, verdicts: Stage.many(Preferences) },
  output: JudgedWinRateReport,
  seeded: false,
  run: Effect.fn("judged-win-rate")(function* ({ inputs, output, skipped }) {
    const ours = yield* readRows(inputs.ours, Completions)
    const opponent = yield* readRows(inputs.opponent, Completions)
    const paired = yield* pairSamples(ours, opponent, "Counting the wins that were judged")
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
