/**
 * Preference collection, second half (Llama 2 §3.2.1): an annotator chooses between the two responses and rates how much better the chosen one is. Pairs
 * that violate the safety rule (common/safety-rule.ts) are dropped and counted.
 */
import { readFile, rename, writeFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { rejectSpecial } from "../../runtime/key/file-source.ts"
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
  kind: hyper(
    "helpfulness",
    "what the annotator judges: helpfulness, or safety, which also labels each response as safe or unsafe; §3.2.1 uses separate guidelines",
    ["helpfulness", "safety"]
  ),
  source: hyper("", "name of the pairs' source in statistics; empty: the kind")
}

export const AnnotateConfig = Schema.Struct({
  annotator: hyper(
    "file",
    "who compares the responses: file, people who fill in a file of labels; judge, a model behind an OpenAI-compatible endpoint",
    ["file", "judge"]
  ),
  ...annotationFields,
  pairsFile: neutral(
    hyper("", "with annotator file: path to which the pairs to label are written as JSONL"),
    "labels are not read from it"
  ),
  labelsFile: neutral(
    hyper(
      "",
      "with annotator file: path for labels made in the browser (caravan ui); empty: next to pairsFile, as <its name>.labels.jsonl"
    ),
    "it is not an input: labels are read from the input `labels`"
  ),
  labelsHint: neutral(
    hyper(
      "",
      'with annotator file: instruction on where to put the labels, shown when the run stops, for example "save it as labels.jsonl and run again with --set labelled=1"'
    ),
    "it is only used in a message"
  ),
  ...judgeFields("judge: ")
})

/** The pair as a preference; undefined if the safety rule drops it. */
export const preferenceOf = (pair: ResponsePair, verdict: Verdict, source: string): Preference | undefined => {
  const [chosen, rejected] = verdict.choice === "A" ? [pair.responseA, pair.responseB] : [pair.responseB, pair.responseA]
  const [chosenSafe, rejectedSafe] = verdict.choice === "A" ? [verdict.safeA, verdict.safeB] : [verdict.safeB, verdict.safeA]
  if (choseUnsafe({ chosenSafe, rejectedSafe })) return undefined
  return { id: pair.id, prompt: pair.prompt, chosen, rejected, rating: verdict.rating, chosenSafe, rejectedSafe, source }
}

const readText = async (path: string): Promise<string> => {
  await rejectSpecial(path)
  return readFile(path, "utf8")
}

/** Writes a file atomically: it exists either completely or not at all. */
const writeWhole = async (path: string, text: string): Promise<void> => {
  const part = `${path}.part`
  await writeFile(part, text)
  await rename(part, path)
}

/** Writes the pairs as preferences according to their verdicts, and counts the pairs that are left out. */
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
  description: "§3.2.1 annotates pairs of responses: a forced choice, one of four ratings, safety labels",
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
      if (verdicts[i] === null)
        skipped.add({ what: "pairs", reason: "on which the judge's answer is not a verdict", id: pair.id, row: pair })
    })
    // The judge has its own limit (maxUnreadable), so there is no further limit here.
    yield* skipped.check("pairs", pairs.length, anyShare)
    return yield* writePreferences(pairs, verdicts, { kind: config.kind, source: config.source }, output)
  })
})

export const annotateCost = costOf(annotate, { size: ({ inputs }) => inputs.pairs })
