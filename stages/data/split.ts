/**
 * Splits data into training and test parts, drawn from the run's seed, with the same share of every kind of row and no prompt in both parts. Rows whose dialogues start with
 * the same words form a group, which stays in one part.
 */
import { hash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { countRows, deriveDataset, streamRows } from "../../data/dataset.ts"
import { wordsOf } from "../../data/words.ts"
import { deriveSeed } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { Dataset, DatasetType } from "../../schemas/artifact.ts"
import { hyper } from "../../schemas/hyper.ts"
import { Demonstrations, type Message, type Preference, Preferences, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"

/** The key of a group: the words of the first question. */
export const groupOf = (messages: ReadonlyArray<Message>): string => {
  const first = messages.find(({ role }) => role === "user")?.content ?? ""
  // A question without letters or digits has no words.
  return wordsOf(first).join(" ") || first.trim()
}

/** A group's position in the order of a seed, in [0, 2^52). */
export const placeOf = (group: string, seed: number): number => {
  const digest = hash("sha256", `${seed}:${group}`, "buffer")
  return digest.readUIntLE(0, 6) * 16 + (digest[6]! & 15)
}

/**
 * Selects the test rows: of every kind, whole groups in the order of their positions until they reach the given share of its rows, rounded. A group with several kinds
 * counts as the kind of its first row.
 */
export const testRows = (places: Float64Array, kinds: Uint16Array, share: number): Uint8Array => {
  const order = Uint32Array.from(places, (_, i) => i).sort((a, b) => places[a]! - places[b]! || a - b)
  /** For each run of rows with one position: its start, end and kind. */
  const groups: Array<readonly [start: number, end: number, kind: number]> = []
  const rows = new Map<number, number>()
  for (let start = 0; start < order.length;) {
    let end = start + 1
    while (end < order.length && places[order[end]!] === places[order[start]!]) end++
    const kind = kinds[order[start]!]!
    groups.push([start, end, kind])
    rows.set(kind, (rows.get(kind) ?? 0) + end - start)
    start = end
  }
  const wanted = new Map([...rows].map(([kind, count]) => [kind, Math.round(share * count)]))
  const test = new Uint8Array(places.length)
  for (const [start, end, kind] of groups) {
    const left = wanted.get(kind)!
    if (left <= 0) continue
    wanted.set(kind, left - (end - start))
    for (let i = start; i < end; i++) test[order[i]!] = 1
  }
  return test
}

const share = hyper(0.05, "share of test rows, the same for every kind of row; slightly more because groups are not split", {
  min: 0,
  max: 0.5
})
const part = hyper("train", "train: the training rows; test: the test rows. Both parts of a run use the same seed", ["train", "test"])

const splitStage = <Row, Config extends Schema.Struct<any>, Field extends keyof Row & string>(
  name: string,
  type: DatasetType<Row>,
  config: Config,
  /** The fields that define a row's group and kind. */
  fields: ReadonlyArray<Field>,
  messagesOf: (row: Pick<Row, Field>) => ReadonlyArray<Message>,
  kindOf: (row: Pick<Row, Field>, by: string) => unknown
) => ({
  description: "splits rows into training and test rows by the seed, with the same share of every kind and no prompt in both",
  config,
  inputs: { rows: type },
  output: type,
  run: Effect.fn(name)(function* (context: Stage.Context<Config, { rows: DatasetType<Row> }, Dataset<Row>>) {
    const { inputs, output } = context
    const config = context.config as { readonly share: number; readonly part: "train" | "test"; readonly by?: string }
    const seed = deriveSeed(context.seed, "split")
    const ref = inputs.rows
    const count = yield* countRows(ref, type)
    if (count === 0) return yield* EmptyDatasetError.of("split", "an empty dataset")
    const [places, kinds] = [new Float64Array(count), new Uint16Array(count)]
    const known = new Map<string, number>()
    let at = 0
    yield* Stream.runForEach(streamRows(ref, type, fields), (row) =>
      Effect.sync(() => {
        const kind = JSON.stringify(kindOf(row, config.by ?? "none") ?? null)
        // Kinds beyond the 16-bit limit count as the last one.
        if (!known.has(kind)) known.set(kind, Math.min(known.size, 0xffff))
        kinds[at] = known.get(kind)!
        places[at++] = placeOf(groupOf(messagesOf(row)), seed)
      })
    )
    const test = testRows(places, kinds, config.share)
    let next = 0
    const wanted = config.part === "test" ? 1 : 0
    return yield* deriveDataset(
      { ref, type },
      output,
      (row) => (test[next++] === wanted ? [row] : []),
      () => ({ ofRows: count, kinds: known.size })
    )
  }, Effect.scoped)
})

const bySafety = ({ chosenSafe, rejectedSafe }: Pick<Preference, "chosenSafe" | "rejectedSafe">) => [chosenSafe, rejectedSafe]

export const splitPreferences = Stage.make(
  "split-preferences",
  splitStage(
    "split-preferences",
    Preferences,
    Schema.Struct({
      share,
      part,
      by: hyper("source", "what defines the kinds of rows that are split in equal shares: source, rating, safety labels, or none", [
        "source",
        "rating",
        "safety",
        "none"
      ])
    }),
    ["prompt", "source", "rating", "chosenSafe", "rejectedSafe"],
    ({ prompt }) => prompt,
    (row, by) => (by === "source" ? row.source : by === "rating" ? row.rating : by === "safety" ? bySafety(row) : null)
  )
)
export const splitDemonstrations = Stage.make(
  "split-demonstrations",
  splitStage(
    "split-demonstrations",
    Demonstrations,
    Schema.Struct({ share, part }),
    ["messages"],
    ({ messages }) => messages,
    () => null
  )
)
export const splitPrompts = Stage.make(
  "split-prompts",
  splitStage(
    "split-prompts",
    Prompts,
    Schema.Struct({
      share,
      part,
      by: hyper("safety", "what defines the kinds of prompts that are split in equal shares: safety tag, category, or none", [
        "safety",
        "category",
        "none"
      ])
    }),
    ["messages", "safety", "category"],
    ({ messages }) => messages,
    (row, by) => (by === "safety" ? row.safety : by === "category" ? row.category : null)
  )
)

const parted = (rows: number, { part: wanted, share: of }: { readonly part: string; readonly share: number }): number =>
  Math.round(rows * (wanted === "test" ? of : 1 - of))
export const splitPreferencesCost = costOf(splitPreferences, {
  size: ({ config, inputs }) => sized(inputs.rows, { rows: parted(inputs.rows.rows, config) })
})
export const splitDemonstrationsCost = costOf(splitDemonstrations, {
  size: ({ config, inputs }) => sized(inputs.rows, { rows: parted(inputs.rows.rows, config) })
})
export const splitPromptsCost = costOf(splitPrompts, {
  size: ({ config, inputs }) => sized(inputs.rows, { rows: parted(inputs.rows.rows, config) })
})
