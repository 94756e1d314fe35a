/** Stages that derive one dataset from another: running text, demonstrations and prompts from preference pairs; parts of a dataset. */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { deriveDataset, readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { dialogueText } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Demonstration, Demonstrations, type Preference, Preferences, Prompts, Texts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { isUsable, withoutFaults } from "../common/unfit.ts"

/** The dialogue of a pair's prompt and one of its responses. */
const dialogueOf = (pair: Preference, response: "chosen" | "rejected") => [
  ...pair.prompt,
  { role: "assistant" as const, content: pair[response] }
]

export const preferenceTexts = Stage.make("preference-texts", {
  description: "the dialogues of preference pairs as running text in the chat format, for pretraining",
  config: Schema.Struct({
    responses: hyper(
      "both",
      "which responses of a pair to include: both (reveals no preference, so that pairs may be held out later) or only the chosen one",
      ["both", "chosen"]
    )
  }),
  inputs: { preferences: Preferences },
  output: Texts,
  seeded: false,
  run: Effect.fn("preference-texts")(function* ({ config, inputs, output, skipped }) {
    const responses = config.responses === "both" ? (["chosen", "rejected"] as const) : (["chosen"] as const)
    let [dialogues, unusable] = [0, 0]
    const textsOf = (row: Preference) =>
      responses.flatMap((name) => {
        dialogues++
        const messages = dialogueOf(row, name)
        if (isUsable({ id: `${row.id}/${name}`, messages }, skipped, "dialogues")) return [{ text: dialogueText(messages) }]
        unusable++
        return []
      })
    const made = yield* deriveDataset({ ref: inputs.preferences, type: Preferences }, output, textsOf, () => ({ unusable }))
    yield* skipped.check("dialogues", dialogues)
    return made
  })
})

export const preferenceDemonstrations = Stage.make("preference-demonstrations", {
  description: "§3.1 the chosen responses of preference pairs as demonstrations",
  config: Schema.Struct({}),
  inputs: { preferences: Preferences },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("preference-demonstrations")(function* ({ inputs, output, skipped }) {
    let [dialogues, unusable] = [0, 0]
    const demonstrationOf = (row: Preference): ReadonlyArray<Demonstration> => {
      dialogues++
      const chosen = { id: row.id, messages: dialogueOf(row, "chosen"), loss: "answers" as const }
      if (isUsable(chosen, skipped, "dialogues")) return [chosen]
      unusable++
      return []
    }
    const made = yield* deriveDataset({ ref: inputs.preferences, type: Preferences }, output, demonstrationOf, () => ({ unusable }))
    yield* skipped.check("dialogues", dialogues)
    return made
  })
})

export const preferencePrompts = Stage.make("preference-prompts", {
  description: "the distinct prompts of preference pairs, or a random selection of them",
  config: Schema.Struct({
    count: hyperInt(0, "number of prompts drawn at random; 0 uses all prompts", { min: 0 }),
    safety: hyper(false, "whether these prompts are meant to elicit something unsafe (§3.2.3: is_safety)")
  }),
  inputs: { preferences: Preferences },
  output: Prompts,
  run: Effect.fn("preference-prompts")(function* ({ config, inputs, output, seed, skipped }) {
    const rows = yield* readRows(inputs.preferences, Preferences)
    const distinct = new Map(rows.map((row) => [JSON.stringify(row.prompt), { id: row.id, messages: row.prompt }]))
    const all = yield* withoutFaults([...distinct.values()], skipped, "prompts")
    const drawn = config.count === 0 ? all : new Random(seed, "prompts").shuffle(all).slice(0, config.count)
    // Pairs from several files may share an id, but prompts with different content may not.
    const named = Map.groupBy(all, ({ id }) => id)
    const idOf = ({ id, messages }: (typeof all)[number]) =>
      named.get(id)!.length === 1 ? id : `${id}-${createHash("sha256").update(JSON.stringify(messages)).digest("hex").slice(0, 12)}`
    return yield* writeDataset(
      output,
      drawn.map((row) => ({ id: idOf(row), messages: row.messages, safety: config.safety, category: null, followUps: [] }))
    )
  })
})

/** Which of `folds` parts a pair belongs to, by its first question, so that dialogues that start alike stay together. */
export const foldOf = (pair: Preference, folds: number): number =>
  createHash("sha256")
    .update(pair.prompt.find((message) => message.role === "user")?.content ?? "")
    .digest()
    .readUInt32LE(0) % folds

export const foldPreferences = Stage.make("fold-preferences", {
  description: "one part of a preference dataset, or all other parts, for cross-validation",
  config: Schema.Struct({
    folds: hyperInt(2, "number of parts", { min: 2 }),
    fold: hyperInt(0, "index of the part, from 0", { min: 0 }),
    part: hyper("inside", "inside: the rows of that part; outside: all other rows", ["inside", "outside"])
  }),
  inputs: { preferences: Preferences },
  output: Preferences,
  seeded: false,
  run: Effect.fn("fold-preferences")(function* ({ config, inputs, output }) {
    return yield* deriveDataset({ ref: inputs.preferences, type: Preferences }, output, (row) =>
      (foldOf(row, config.folds) === config.fold) === (config.part === "inside") ? [row] : []
    )
  })
})

export const preferenceTextsCost = costOf(preferenceTexts, {
  size: ({ config, inputs: { preferences } }) => sized(preferences, { rows: preferences.rows * (config.responses === "both" ? 2 : 1) })
})
export const preferenceDemonstrationsCost = costOf(preferenceDemonstrations, {
  size: ({ inputs }) => inputs.preferences
})
export const preferencePromptsCost = costOf(preferencePrompts, {
  size: ({ config: { count, safety }, inputs: { preferences } }) =>
    sized(preferences, { rows: count === 0 ? preferences.rows : Math.min(count, preferences.rows), safetyShare: safety ? 1 : 0 })
})
export const foldPreferencesCost = costOf(foldPreferences, {
  size: ({ config: { folds, part }, inputs }) =>
    sized(inputs.preferences, { rows: Math.round((inputs.preferences.rows * (part === "inside" ? 1 : folds - 1)) / folds) })
})
