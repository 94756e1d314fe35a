/** Imports prompts from the user's files, for preference collection (Llama 2 §3.2.1), rejection sampling, PPO and evaluation. */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDatasetBatches } from "../../data/dataset.ts"
import { BadRow, inField } from "../../data/records.ts"
import { formatFault } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { External } from "../../schemas/artifact.ts"
import { hyper, hyperNames } from "../../schemas/hyper.ts"
import { Message, type Prompt, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { chatTags, messagesWithoutTags, withoutTags } from "./chat-tags.ts"
import { columnsGiving, importRows, shapeHyper } from "./import-rows.ts"

const optional = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))
/** A row of the file. */
const Line = Schema.Struct({
  id: optional(Schema.String),
  prompt: optional(Schema.String),
  messages: optional(Schema.Array(Message)),
  safety: optional(Schema.Boolean),
  category: optional(Schema.String),
  followUps: optional(Schema.Array(Schema.String))
})

/**
 * Parses a row {prompt} or {messages}, optionally with id, safety, category and followUps. A row without an id gets one derived from its content, its
 * safety tag and the number of equal rows before it, so that adding or fixing other rows does not affect its samples and labels. A row without a safety tag gets
 * the given one. `seen` holds the ids so far. Throws BadRow for an invalid row.
 */
export const parsePrompt = (value: unknown, safety: boolean, seen: Set<string>, tags: "refuse" | "escape" = "refuse"): Prompt => {
  const found = Schema.decodeUnknownExit(Line)(value)
  if (found._tag === "Failure")
    throw new BadRow(
      "(the row)",
      "expected {prompt} or {messages}, optionally with id, safety, category and followUps",
      "not with the fields of a prompt"
    )
  const { category, id, messages: dialogue, prompt, safety: tag } = found.value
  const messages =
    dialogue !== undefined && dialogue !== null
      ? messagesWithoutTags(dialogue, "messages", tags)
      : prompt === undefined || prompt === null
        ? []
        : [{ role: "user" as const, content: withoutTags(prompt, "prompt", tags) }]
  const followUps = (found.value.followUps ?? []).map((text, i) => withoutTags(text, `followUps[${i}]`, tags))
  if (messages.at(-1)?.role !== "user")
    throw new BadRow(
      "prompt",
      "it is missing, or the last message is not the user's",
      inField("prompt", "missing, or not at the end of the messages")
    )
  const fault = formatFault(messages)
  if (fault !== undefined) throw new BadRow("messages", `the chat format cannot represent them. ${fault.message}`, fault.reason)
  if (typeof id === "string" && seen.has(id))
    throw new BadRow("id", `${JSON.stringify(id)} occurs a second time`, inField("id", "there before"))
  const tagged = tag ?? safety
  const own = id ?? ownId(messages, tagged, seen)
  seen.add(own)
  return { id: own, messages, safety: tagged, category: category ?? null, followUps }
}

const ownId = (messages: ReadonlyArray<Message>, safety: boolean, seen: ReadonlySet<string>): string => {
  const digest = createHash("sha256")
    .update(JSON.stringify([messages, safety]))
    .digest("hex")
    .slice(0, 16)
  let id = digest
  for (let again = 2; seen.has(id); again++) id = `${digest}-${again}`
  return id
}

export const importPrompts = Stage.make("import-prompts", {
  description: "prompts from files of any supported shape",
  config: Schema.Struct({
    shape: shapeHyper("prompts"),
    map: hyperNames("the file's columns for the shape's fields, for example { prompt: \"question\" }", columnsGiving("prompts")),
    safety: hyper(false, "whether prompts without a safety tag are meant to elicit something unsafe (§3.2.3: is_safety)"),
    chatTags
  }),
  inputs: { file: External },
  output: Prompts,
  seeded: false,
  run: Effect.fn("import-prompts")(function* ({ config, inputs, output, progress, skipped }) {
    const seen = new Set<string>()
    const check = (value: unknown) => parsePrompt(value, config.safety, seen, config.chatTags)
    const from = { path: inputs.file.path, kind: "prompts" as const, shape: config.shape, map: config.map }
    return yield* importRows(from, check, { progress, skipped }, (batches) => writeDatasetBatches(output, batches))
  })
})

export const importPromptsCost = costOf(importPrompts, { size: ({ inputs }) => inputs.file })
