/**
 * Statistics of the preference data, batch by batch (Llama 2 §3.2.1, tables 6 and 26; shares of ratings: figure 25; safety labels: §3.2.1).
 *
 * An example is a prompt, including earlier turns, with one response, in the chat format; both responses of a pair count. A prompt's own tokens are those
 * of the last user message, a response's tokens those of its text, both without the format's tokens. Turns are user messages.
 *
 * Deviation: table 6 does not say over which messages tokens per prompt are counted; here it is the last one, which annotators wrote for the comparison.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import { encodeDialogue, chatFault } from "../../models/chat.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactRef, Dataset, Report } from "../../schemas/artifact.ts"
import { report } from "../../schemas/report.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { type Preference, Preferences, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import type { Kind } from "./annotator.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { PairingError } from "../common/pairing.ts"
import { mean } from "../common/statistics.ts"

const Share = Schema.Number
export const BatchStatistics = Schema.Struct({
  comparisons: Schema.Number,
  /** Means; null for an empty batch. Tokens are averaged over the comparisons that the chat format can represent; the others are counted. */
  turnsPerDialogue: Schema.NullOr(Schema.Number),
  tokensPerExample: Schema.NullOr(Schema.Number),
  tokensPerPrompt: Schema.NullOr(Schema.Number),
  tokensPerResponse: Schema.NullOr(Schema.Number),
  outsideChatFormat: Schema.Number,
  /** Shares of the rated pairs; null if none is rated. */
  ratings: Schema.NullOr(
    Schema.Struct({ significantlyBetter: Share, better: Share, slightlyBetter: Share, negligiblyBetterOrUnsure: Share })
  ),
  /** Shares of the pairs with a label for both responses; null if there are none. A pair in which only the rejected response is safe cannot occur. */
  safety: Schema.NullOr(Schema.Struct({ bothSafe: Share, chosenSafeOnly: Share, bothUnsafe: Share })),
  /** Pairs that were shown to annotators but did not become comparisons; null if the pairs were not inputs. */
  leftOut: Schema.NullOr(
    Schema.Struct({
      pairs: Schema.Number,
      /** Of these: pairs without a choice, and pairs dropped because the chosen response was unsafe and the other safe; null if the two cannot be distinguished. */
      undecided: Schema.NullOr(Schema.Number),
      droppedUnsafe: Schema.NullOr(Schema.Number)
    })
  )
})
export type BatchStatistics = typeof BatchStatistics.Type

const KindStatistics = Schema.Struct({ batches: Schema.Array(BatchStatistics), total: BatchStatistics })
export const PreferenceStatistics = Schema.Struct({ helpfulness: KindStatistics, safety: Schema.NullOr(KindStatistics) })
export type PreferenceStatistics = typeof PreferenceStatistics.Type
export const PreferenceStatisticsReport = report(PreferenceStatistics, "preference-statistics/1")

const meanOrNull = (values: ReadonlyArray<number>): number | null => (values.length === 0 ? null : mean(values))
const share = <Row>(rows: ReadonlyArray<Row>, is: (row: Row) => boolean): number => rows.filter(is).length / rows.length

const ratingsOf = (rows: ReadonlyArray<Preference>): BatchStatistics["ratings"] => {
  const rated = rows.filter(({ rating }) => rating !== null)
  const of = (wanted: number) => share(rated, ({ rating }) => rating === wanted)
  return rated.length === 0 ? null : { significantlyBetter: of(0), better: of(1), slightlyBetter: of(2), negligiblyBetterOrUnsure: of(3) }
}

const safetyOf = (rows: ReadonlyArray<Preference>): BatchStatistics["safety"] => {
  const labelled = rows.filter(({ chosenSafe, rejectedSafe }) => chosenSafe !== null && rejectedSafe !== null)
  const of = (chosen: boolean, rejected: boolean) => share(labelled, (row) => row.chosenSafe === chosen && row.rejectedSafe === rejected)
  return labelled.length === 0 ? null : { bothSafe: of(true, true), chosenSafeOnly: of(true, false), bothUnsafe: of(false, false) }
}

/** Distinguishes a pair without a choice from one that the safety rule dropped: whether the annotator would have had a choice. */
export type HasChoice = (pair: ResponsePair, kind: Kind) => boolean

const leftOutOf = (
  rows: ReadonlyArray<Preference>,
  collected: ReadonlyArray<ResponsePair>,
  hasChoice: ((pair: ResponsePair) => boolean) | undefined
): BatchStatistics["leftOut"] => {
  const kept = new Set(rows.map(({ id }) => id))
  const left = collected.filter(({ id }) => !kept.has(id))
  if (hasChoice === undefined) return { pairs: left.length, undecided: null, droppedUnsafe: null }
  const dropped = left.filter(hasChoice).length
  return { pairs: left.length, undecided: left.length - dropped, droppedUnsafe: dropped }
}

/** A batch's row of table 6, with the shares of ratings and of safety labels. */
export const statisticsOf = (
  rows: ReadonlyArray<Preference>,
  tokenizer: Pick<Tokenizer, "encode">,
  example: (messages: Preference["prompt"]) => number | undefined,
  collected?: ReadonlyArray<ResponsePair>,
  hasChoice?: (pair: ResponsePair) => boolean
): BatchStatistics => {
  const tokens = (text: string) => tokenizer.encode(text).length
  const counted = rows.flatMap((row) => {
    const examples = [row.chosen, row.rejected].map((content) => example([...row.prompt, { role: "assistant", content }]))
    return examples.some((count) => count === undefined) ? [] : [{ row, examples: examples as Array<number> }]
  })
  return {
    comparisons: rows.length,
    turnsPerDialogue: meanOrNull(rows.map(({ prompt }) => prompt.filter(({ role }) => role === "user").length)),
    tokensPerExample: meanOrNull(counted.flatMap(({ examples }) => examples)),
    tokensPerPrompt: meanOrNull(counted.map(({ row }) => tokens(row.prompt.at(-1)!.content))),
    tokensPerResponse: meanOrNull(counted.flatMap(({ row }) => [tokens(row.chosen), tokens(row.rejected)])),
    outsideChatFormat: rows.length - counted.length,
    ratings: ratingsOf(rows),
    safety: safetyOf(rows),
    leftOut: collected === undefined ? null : leftOutOf(rows, collected, hasChoice)
  }
}

/** Sums over batches, which may share prompt ids. */
const totalLeftOut = (batches: ReadonlyArray<BatchStatistics["leftOut"]>): BatchStatistics["leftOut"] => {
  const known = batches.filter((batch) => batch !== null)
  if (known.length === 0) return null
  const sum = (values: ReadonlyArray<number | null>) => values.reduce<number | null>((a, b) => (a === null || b === null ? null : a + b), 0)
  return {
    pairs: known.reduce((all, { pairs }) => all + pairs, 0),
    undecided: sum(known.map(({ undecided }) => undecided)),
    droppedUnsafe: sum(known.map(({ droppedUnsafe }) => droppedUnsafe))
  }
}

type Sets<Row> = ReadonlyArray<ArtifactRef<Dataset<Row>>>

const ports = {
  /** Only its tokenizer is used. */
  policy: Policy,
  helpfulness: Stage.many(Preferences),
  safety: Stage.many(Preferences),
  /** The pairs shown to annotators, batch by batch as above; none, or one set per batch. */
  helpfulnessPairs: Stage.many(ResponsePairs),
  safetyPairs: Stage.many(ResponsePairs)
}

/** The stage's definition. With `hasChoice`, which recomputes the annotator's choices, the report says why pairs were left out. */
export const statisticsStage = (hasChoice?: HasChoice) => ({
  description: "table 6 and figure 25: comparisons, turns, tokens, shares of ratings and of safety labels, batch by batch",
  config: Schema.Struct({}),
  inputs: ports,
  output: PreferenceStatisticsReport,
  seeded: false,
  run: Effect.fn("preference-statistics")(function* ({
    inputs,
    output
  }: Stage.Context<Schema.Struct<{}>, typeof ports, Report<PreferenceStatistics>>) {
    const tokenizer = yield* loadTokenizer(inputs.policy.path)
    const example = (messages: Preference["prompt"]) =>
      chatFault(tokenizer, messages) === undefined ? encodeDialogue(tokenizer, messages).tokens.length : undefined
    const of = Effect.fnUntraced(function* (kind: Kind, sets: Sets<Preference>, pairs: Sets<ResponsePair>) {
      if (pairs.length !== 0 && pairs.length !== sets.length)
        return yield* PairingError.of({
          doing: `Counting ${kind} preferences`,
          expected: "the collected pairs of every batch, or of none",
          found: `${pairs.length} sets of pairs for ${sets.length} batches`,
          hint: "Pass one set of pairs per batch, in the same order."
        })
      const batches = yield* Effect.forEach(sets, (set) => readRows(set, Preferences))
      const collected = pairs.length === 0 ? undefined : yield* Effect.forEach(pairs, (set) => readRows(set, ResponsePairs))
      for (const [i, rows] of batches.entries()) {
        const ids = new Set(collected?.[i]!.map(({ id }) => id))
        const stray = collected === undefined ? undefined : rows.find(({ id }) => !ids.has(id))
        if (stray !== undefined)
          return yield* PairingError.of({
            doing: `Counting ${kind} preferences`,
            expected: `every comparison of batch ${i + 1} to be among its collected pairs`,
            found: `"${stray.id}", which is not among them`,
            hint: "Pass the pairs in the order of the batches."
          })
      }
      const hadChoice = hasChoice === undefined ? undefined : (pair: ResponsePair) => hasChoice(pair, kind)
      const counted = batches.map((rows, i) => statisticsOf(rows, tokenizer, example, collected?.[i], hadChoice))
      const leftOut = totalLeftOut(counted.map((batch) => batch.leftOut))
      return { batches: counted, total: { ...statisticsOf(batches.flat(), tokenizer, example), leftOut } }
    })
    const helpfulness = yield* of("helpfulness", inputs.helpfulness, inputs.helpfulnessPairs)
    const safety = inputs.safety.length === 0 ? null : yield* of("safety", inputs.safety, inputs.safetyPairs)
    if (helpfulness.total.comparisons + (safety?.total.comparisons ?? 0) === 0)
      return yield* EmptyDatasetError.of("count", `${inputs.helpfulness.length + inputs.safety.length} batches, all empty`)
    return yield* writeReport(output, { helpfulness, safety })
  })
})

export const preferenceStatistics = Stage.make("preference-statistics", statisticsStage())
