/**
 * Tags of Llama 2's chat format in the texts of a user's file. `[INST]` is ordinary text there: a user's that holds it would end a turn. Meta's code refuses
 * such a dialogue, and so does what comes after here (models/llama2-format.ts): it is decided where texts come in, so that all later stages see the same.
 */
import { BadRow } from "../../data/records.ts"
import { escapeTags, tagIn, withTag } from "../../models/llama2-format.ts"
import { hyper } from "../../schemas/hyper.ts"
import type { Message } from "../../schemas/rows.ts"

export const chatTags = hyper(
  "refuse",
  "rows whose text holds a tag of the chat format ([INST], <<SYS>> or what closes them): skipped, as Meta's code refuses them, or kept with a backslash in each tag",
  ["refuse", "escape"]
)

/** A text without the format's tags. Throws BadRow for one that holds a tag, if such texts are refused. */
export const withoutTags = (text: string, field: string, tags: "refuse" | "escape"): string => {
  const tag = tagIn(text)
  if (tag === undefined) return text
  if (tags === "escape") return escapeTags(text)
  throw new BadRow(field, `the tag ${tag} of the chat format in the text (chatTags "escape" keeps such rows)`, withTag)
}

export const messagesWithoutTags = (messages: ReadonlyArray<Message>, field: string, tags: "refuse" | "escape"): ReadonlyArray<Message> =>
  messages.map(({ role, content }, i) => ({ role, content: withoutTags(content, `${field}[${i}].content`, tags) }))
