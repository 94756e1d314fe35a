/**
 * Preference collection, second half (Llama 2 §3.2.1): an annotator chooses between the two responses and says how much better the chosen one is. Pairs
 * that break the safety rule (common/safety-rule.ts) are dropped and counted.
 */
import { readFile, rename, writeFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { refuseSpecial } from "../../runtime/key/file-source.ts"
import { type Dataset, External, type OutputSlot } from "../../schemas/artifact.ts"
import { hyper, neutral } from "../../schemas/hyper.ts"
import { type Preference, Preferences, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { judgeFields } from "../common/judge.ts"
import { anyShare } from "../common/unfit.ts"
import { Annotator, type Kind, type Verdict } from "./annotator.ts"
import { fileAnnotator } from "./annotator-file.ts"
import { judgeAnnotator } from "./annotator-judge.ts"
import { choseUnsafe } from "../common/safety-rule.ts"

/** Hyperparameters of every stage that annotates. */
export const annotationFields = {
  kind: hyper("helpfulness", "§3.2.1: helpfulness and safety have guidelines of their own; safety data has a label for each response", [
    "helpfulness",
    "safety"
  ]),
  source: hyper("", "what to call the pairs' source in statistics; empty: the kind")
}

export const AnnotateConfig = Schema.Struct({
  annotator: hyper("file", "who compares: people, by a file that they fill, or a judge: a model behind an OpenAI-compatible endpoint", [
    "file",
    "judge"
  ]),
  ...annotationFields,
  pairsFile: neutral(hyper("", "file: where the pairs to label are written as JSONL"), "labels do not come from there"),
  labelsFile: neutral(
    hyper("", "file: where labels that are made in the page go (caravan ui); empty: beside pairsFile, as <its name>.labels.jsonl"),
    "it is no input: labels come from the input `labels`"
  ),
  labelsHint: neutral(
    hyper(
      "",
      'file: where labels go, for the message that stops the run, as "save it as labels.jsonl and run again with --set labelled=1"'
    ),
    "it is in a message alone"
  ),
  ...judgeFields("judge: ")
})

/** The pair as a preference; undefined where the safety rule drops it. */
export const preferenceOf = (pair: ResponsePair, verdict: Verdict, source: string): Preference | undefined => {
  const [chosen, rejected] = verdict.choice === "A" ? [pair.responseA, pair.responseB] : [pair.responseB, pair.responseA]
  const [chosenSafe, rejectedSafe] = verdict.choice === "A" ? [verdict.safeA, verdict.safeB] : [verdict.safeB, verdict.safeA]
  if (choseUnsafe({ chosenSafe, rejectedSafe })) return undefined
  return { id: pair.id, prompt: pair.prompt, chosen, rejected, rating: verdict.rating, chosenSafe, rejectedSafe, source }
}

const readText = async (path: string): Promise<string> => {
  await refuseSpecial(path)
  return readFile(path, "utf8")
}

/** A file that is there in whole or not at all. */
const writeWhole = async (path: string, text: string): Promise<void> => {
  const part = `${path}.part`
  await writeFile(part, text)
  await rename(part, path)
}

/** Writes the pairs as preferences by their verdicts, and counts those that are none. */
export const writePreferences = (
  pairs: ReadonlyArray<ResponsePair>,
  verdicts: ReadonlyArray<Verdict | null>,
  { kind, source }: { readonly kind: Kind; readonly source: string },
  output: OutputSlot<Dataset<Preference>>
) => {
  let [undecided, dropped] = [0, 0]
  const rows = pairs.flatMap((pair, i) => {
    const verdict = verdicts[i]
    if (verdict === null || verdict === undefined) {
      undecided++
      return []
    }
    const preference = preferenceOf(pair, verdict, source === "" ? kind : source)
    if (preference !== undefined) return [preference]
    dropped++
    return []
  })
  return writeDataset(output, rows, { metrics: { preferences: rows.length, undecided, droppedUnsafe: dropped } })
}

export const annotate = Stage.make("annotate", {
  description: "§3.2.1 pairs of responses to preferences: a forced choice, one of four ratings, labels of safety",
  config: AnnotateConfig,
  inputs: { pairs: ResponsePairs, labels: Stage.optional(External) },
  output: Preferences,
  run: Effect.fn("annotate")(function* ({ config, inputs, output, seed, progress, checkpoints, skipped }) {
    const pairs = yield* readRows(inputs.pairs, ResponsePairs)
    const layer =
      config.annotator === "file"
        ? fileAnnotator({
            labels: inputs.labels?.path,
            pairsFile: config.pairsFile,
            labelsFile: config.labelsFile,
            labelsHint: config.labelsHint,
            read: readText,
            write: writeWhole
          })
        : judgeAnnotator({
            url: config.url,
            model: config.model,
            keyVariable: config.keyVariable,
            environment: process.env,
            journal: config.journal,
            maxUnreadable: config.maxUnreadable,
            concurrency: config.concurrency,
            timeout: config.timeout,
            seed,
            progress,
            checkpoints
          })
    const verdicts = yield* Effect.flatMap(Annotator, (annotator) => annotator.compare(pairs, config.kind)).pipe(Effect.provide(layer))
    pairs.forEach((pair, i) => {
      if (verdicts[i] === null) skipped.add({ what: "pairs", reason: "on which the judge's answer is no verdict", id: pair.id, row: pair })
    })
    // How many may be is the judge's own limit (maxUnreadable): it is not asked further above that.
    yield* skipped.check("pairs", pairs.length, anyShare)
    return yield* writePreferences(pairs, verdicts, { kind: config.kind, source: config.source }, output)
  })
})

export const annotateCost = costOf(annotate, { size: ({ inputs }) => inputs.pairs })
