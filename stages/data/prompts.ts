/** Prompts by round (Llama 2 §3.2.1, A.3.1): batches that share none, dialogues that grow by the responses that were chosen, pairs held out of a batch. */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Completions, type Preference, Preferences, type Prompt, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { checkPromptIds, PairingError, promptOf, sameMessages } from "../common/pairing.ts"
import { anyShare, isUsable } from "../common/unfit.ts"

/** A batch that is not among the batches. */
class BatchError extends Schema.TaggedError<BatchError>()("BatchError", { message: Schema.String }) {
  readonly isRetryable = false
}

/** Batch `batch` (from 0) of `batches` equal parts of a seeded order; the first ones are larger by one where it does not come out even. */
export const batchOf = <Row>(rows: ReadonlyArray<Row>, batch: number, batches: number, seed: number): Array<Row> =>
  new Random(seed, "prompt batches").shuffle(rows).filter((_, i) => i % batches === batch)

export const promptBatch = Stage.make("prompt-batch", {
  description: "§3.2.1 one round's batch of prompts; batches share no prompt",
  config: Schema.Struct({
    batches: hyperInt(5, "batches in all; the paper's annotations came weekly, in 14", { min: 1 }),
    batch: hyperInt(0, "which one, from 0", { min: 0 })
  }),
  inputs: { prompts: Prompts },
  output: Prompts,
  run: Effect.fn("prompt-batch")(function* ({ config, inputs, output, seed }) {
    const { batch, batches } = config
    if (batch >= batches)
      return yield* new BatchError({
        message: `Taking batch ${batch} of ${batches}: batches are counted from 0, so the last is ${batches - 1}.`
      })
    return yield* writeDataset(output, batchOf(yield* readRows(inputs.prompts, Prompts), batch, batches, seed))
  })
})

/** The next turn of a prompt whose answer was chosen; undefined when the user has nothing more to say. */
export const nextTurn = (prompt: Prompt, chosen: string): Prompt | undefined => {
  const [next, ...rest] = prompt.followUps
  if (next === undefined) return undefined
  const messages = [...prompt.messages, { role: "assistant" as const, content: chosen }, { role: "user" as const, content: next }]
  return { ...prompt, id: `${prompt.id}+`, messages, followUps: rest }
}

export const continueDialogues = Stage.make("continue-dialogues", {
  description: "A.3.1 dialogues grown by the chosen response and what the user says next",
  config: Schema.Struct({}),
  inputs: { prompts: Prompts, preferences: Preferences },
  output: Prompts,
  seeded: false,
  run: Effect.fn("continue-dialogues")(function* ({ inputs, output }) {
    const prompts = yield* readRows(inputs.prompts, Prompts)
    yield* checkPromptIds(prompts, "Growing dialogues")
    const byId = new Map(prompts.map((prompt) => [prompt.id, prompt]))
    const chosen = new Map<string, string>()
    for (const { id, prompt, chosen: answer } of yield* readRows(inputs.preferences, Preferences)) {
      const asked = byId.get(id)
      if (asked !== undefined && !sameMessages(asked.messages, prompt))
        return yield* PairingError.of({
          doing: "Growing dialogues",
          expected: "the preferences to be of these prompts",
          found: `another prompt with the id "${id}" among them`,
          hint: "Give the preferences that were collected with these prompts."
        })
      chosen.set(id, answer)
    }
    const grown = prompts.flatMap((prompt) => {
      const answer = chosen.get(prompt.id)
      return answer === undefined ? [] : (nextTurn(prompt, answer) ?? [])
    })
    return yield* writeDataset(output, grown, { metrics: { grown: grown.length, ended: prompts.length - grown.length } })
  })
})

/**
 * Dialogues of several turns that a model has by itself: its first answer to each prompt, and what the user says next. A prompt that has no answer, or an empty one, goes no further; nor does one without a next
 * turn, and one whose answer the chat format can't hold.
 */
export const continueWithAnswers = Stage.make("continue-with-answers", {
  description: "dialogues grown by a model's own answers and what the user says next",
  config: Schema.Struct({}),
  inputs: { prompts: Prompts, completions: Completions },
  output: Prompts,
  seeded: false,
  run: Effect.fn("continue-with-answers")(function* ({ inputs, output, skipped }) {
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const completions = (yield* readRows(inputs.completions, Completions)).filter(({ sample }) => sample === 0)
    yield* checkPromptIds([...prompts, ...completions.map(promptOf)], "Growing dialogues by a model's answers")
    const answers = new Map(completions.map(({ promptId, text }) => [promptId, text]))
    const answered = prompts.flatMap((prompt) => {
      const answer = answers.get(prompt.id)?.trim() ?? ""
      return answer === "" ? [] : (nextTurn(prompt, answers.get(prompt.id)!) ?? [])
    })
    const grown = answered.filter((row) => isUsable(row, skipped, "dialogues"))
    yield* skipped.check("dialogues", answered.length, anyShare)
    return yield* writeDataset(output, grown, { metrics: { grown: grown.length, ended: prompts.length - grown.length } })
  })
})

/** A number in [0, 1) by the first question of a pair's dialogue: dialogues that begin alike stay together. */
const placeOf = (pair: Preference): number =>
  createHash("sha256")
    .update(pair.prompt.find((message) => message.role === "user")?.content ?? "")
    .digest()
    .readUInt32LE(0) /
  2 ** 32

/** The pairs that are held out: whole dialogues in an order of their first question's hash, until there are `count` of them (§3.2.2: 1000 a batch), at most half. */
export const heldOutPairs = (pairs: ReadonlyArray<Preference>, count: number): Set<Preference> => {
  const wanted = Math.min(count, Math.floor(pairs.length / 2))
  const groups = [...Map.groupBy(pairs, placeOf)].sort(([a], [b]) => a - b)
  const out = new Set<Preference>()
  for (const [, group] of groups) {
    if (out.size >= wanted) break
    group.forEach((pair) => out.add(pair))
  }
  return out
}

export const holdOutPreferences = Stage.make("hold-out-preferences", {
  description: "§3.2.2 the pairs of a batch that are held out to test reward models, or the rest to train them",
  config: Schema.Struct({
    count: hyperInt(1000, "pairs held out, at most half of the batch; §3.2.2: 1000 of each annotation batch", { min: 0 }),
    part: hyper("train", "the rest, or what is held out", ["train", "test"])
  }),
  inputs: { preferences: Preferences },
  output: Preferences,
  seeded: false,
  run: Effect.fn("hold-out-preferences")(function* ({ config, inputs, output }) {
    const pairs = yield* readRows(inputs.preferences, Preferences)
    if (pairs.length === 0) return yield* EmptyDatasetError.of("hold pairs out of", "an empty batch")
    const heldOut = heldOutPairs(pairs, config.count)
    return yield* writeDataset(
      output,
      pairs.filter((pair) => heldOut.has(pair) === (config.part === "test"))
    )
  })
})

export const promptBatchCost = costOf(promptBatch, {
  size: ({ config: { batch, batches }, inputs: { prompts } }) =>
    sized(prompts, { rows: Math.floor(prompts.rows / batches) + (batch < prompts.rows % batches ? 1 : 0) })
})
export const continueDialoguesCost = costOf(continueDialogues, {
  // The next question is as long as the first: what is before it grows by the exchange.
  size: ({ inputs: { preferences, prompts } }) =>
    sized(prompts, {
      rows: Math.min(prompts.rows, preferences.rows),
      promptTokens: prompts.promptTokens + preferences.responseTokens + prompts.promptTokens
    })
})
export const continueWithAnswersCost = costOf(continueWithAnswers, {
  size: ({ inputs: { completions, prompts } }) =>
    sized(prompts, { promptTokens: prompts.promptTokens + completions.responseTokens + prompts.promptTokens })
})
export const holdOutPreferencesCost = costOf(holdOutPreferences, {
  size: ({ config, inputs }) => {
    const { rows } = inputs.preferences
    const held = Math.min(config.count, Math.floor(rows / 2))
    return sized(inputs.preferences, { rows: config.part === "test" ? held : rows - held })
  }
})
