/** Imports preference pairs from the user's files (Llama 2 §3.2.1, table 6). */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDatasetBatches } from "../../data/dataset.ts"
import type { Thresholds } from "../../data/shapes/judged.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError, External, written } from "../../schemas/artifact.ts"
import { hyper, hyperNames, hyperText } from "../../schemas/hyper.ts"
import { type Preference, Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { choseUnsafe } from "../common/safety-rule.ts"
import { chatTags, messagesWithoutTags, withoutTags } from "./chat-tags.ts"
import { columnsGiving, importRows, shapeHyper, unitOf } from "./import-rows.ts"

/** The error for a file in which some pairs are labelled and those on these lines are not: they were forgotten, or their label was lost. */
const halfLabelled = Effect.fnUntraced(function* (
  path: string,
  places: ReadonlyArray<string>,
  { pairs, what, lacking, hint }: { readonly pairs: number; readonly what: string; readonly lacking: string; readonly hint: string }
) {
  const unit = yield* unitOf(path)
  const first = places.slice(0, 5)
  return yield* ArtifactError.of({
    doing: `Importing the pairs of ${path}`,
    expected: `${what} for every pair, or for none`,
    found: `${places.length} of ${pairs} pairs without ${lacking}, ${first.length < places.length ? "first " : ""}on ${unit}${first.length > 1 ? "s" : ""} ${first.join(", ")}`,
    hint
  })
})

const preferenceWithoutTags = (row: Preference, tags: "refuse" | "escape"): Preference => ({
  ...row,
  prompt: messagesWithoutTags(row.prompt, "prompt", tags),
  chosen: withoutTags(row.chosen, "chosen", tags),
  rejected: withoutTags(row.rejected, "rejected", tags)
})

/** Parses "1,2,4": three increasing numbers. Returns undefined for an empty text. */
const thresholdsOf = (text: string): Thresholds | undefined =>
  text === "" ? undefined : (text.split(",").map(Number) as unknown as Thresholds)
const isThresholds = (text: string): boolean => {
  const numbers = text.split(",").map((each) => (each.trim() === "" ? NaN : Number(each)))
  return text === "" || (numbers.length === 3 && numbers.every((each, i) => each > 0 && each > (numbers[i - 1] ?? 0)))
}

export const importPreferences = Stage.make("import-preferences", {
  description: "preference pairs from files of any supported shape",
  config: Schema.Struct({
    shape: shapeHyper("preferences"),
    map: hyperNames(
      'the file\'s columns for the shape\'s fields, for example { prompt: "question", chosen: "answers.good" }',
      columnsGiving("preferences")
    ),
    judgement: hyper(
      "helpfulness",
      "for a set with both judgements (pku-safe-rlhf), which answer counts as chosen: the more helpful or the safer one (§3.2.2 trains a reward model for each)",
      ["helpfulness", "safety"]
    ),
    thresholds: hyperText(
      "minimum differences of two scores for the ratings slightly better, better and significantly better, for example \"1,2,4\"; empty: the shape's defaults (ultrafeedback 1,2,4; helpsteer2's scores 1,2,3; others have no ratings)",
      (value) =>
        typeof value === "string" && isThresholds(value) ? undefined : "must be three increasing numbers above 0, for example 1,2,4"
    ),
    pairs: hyper("all", "for more than two answers to a prompt: use all judged pairs, or only the best and the worst answer", [
      "all",
      "best-worst"
    ]),
    source: hyper("", "name of the pairs' source in statistics; empty: the shape's name"),
    unrated: hyper("fail", "what to do with pairs without a rating in a file that has ratings: fail, or keep them with margin 0", [
      "fail",
      "keep"
    ]),
    unlabelled: hyper(
      "fail",
      "what to do with pairs that lack a safety label in a file that has labels: fail, or keep them (for example if one file has helpfulness and safety pairs)",
      ["fail", "keep"]
    ),
    labels: hyper(
      "optional",
      "whether the answers' safety labels may be missing from the file altogether (optional) or not (required, for a safety reward model in addition to the helpfulness one)",
      ["optional", "required"]
    ),
    chatTags
  }),
  inputs: { file: External },
  output: Preferences,
  seeded: false,
  run: Effect.fn("import-preferences")(function* ({ config, inputs, output, progress, skipped }) {
    const { path } = inputs.file
    /** Locations of the pairs without a rating, and of those without both labels. */
    const [unrated, unlabelled]: [Array<string>, Array<string>] = [[], []]
    let [pairs, labels, droppedUnsafe] = [0, 0, 0]
    const check = (pair: Preference): Preference => {
      const row = preferenceWithoutTags(pair, config.chatTags)
      const known = [row.chosenSafe, row.rejectedSafe].filter((safe) => safe !== null).length
      pairs++
      labels += known
      if (row.rating === null) unrated.push(row.id)
      if (known < 2) unlabelled.push(row.id)
      return row
    }
    const kept = async function* (batches: AsyncIterable<ReadonlyArray<Preference>>) {
      for await (const rows of batches) {
        const safe = rows.filter((row) => !choseUnsafe(row))
        droppedUnsafe += rows.length - safe.length
        yield safe
      }
    }
    const options = { judgement: config.judgement, thresholds: thresholdsOf(config.thresholds), pairs: config.pairs, source: config.source }
    const result = yield* importRows(
      { path, kind: "preferences", shape: config.shape, map: config.map, options },
      check,
      { progress, skipped },
      (batches) => writeDatasetBatches(output, kept(batches))
    )
    if (labels === 0 && config.labels === "required")
      return yield* ArtifactError.of({
        doing: `Importing the pairs of ${path}`,
        expected: 'safety labels, chosenSafe and rejectedSafe or the equivalent fields of the file\'s shape (labels is "required")',
        found: `${pairs} pairs without any safety label`,
        hint: 'Label the pairs, name the columns with map, or train without a safety reward model: labels "optional", in pipelines/rlhf.ts --set safety=false.'
      })
    // A file without any ratings or labels is intended to be so.
    const withoutRating = unrated.length < pairs ? unrated.length : 0
    const withoutLabels = labels > 0 ? unlabelled.length : 0
    if (withoutRating > 0 && config.unrated === "fail")
      return yield* halfLabelled(path, unrated, {
        pairs,
        what: "a rating",
        lacking: "one",
        hint: 'Rate them or remove them. To train on them with margin 0, set unrated to "keep".'
      })
    if (withoutLabels > 0 && config.unlabelled === "fail")
      return yield* halfLabelled(path, unlabelled, {
        pairs,
        what: "chosenSafe and rejectedSafe",
        lacking: "one or both",
        hint: 'Label them or remove them. To keep them, set unlabelled to "keep": the safety rule and the auxiliary loss ignore pairs without labels.'
      })
    return written(result.slot, { ...result.metrics, droppedUnsafe, withoutRating, withoutLabels })
  })
})

export const importPreferencesCost = costOf(importPreferences, { size: ({ inputs }) => inputs.file })
