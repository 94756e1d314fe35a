/**
 * Handles tags of Llama 2's chat format in a user's texts. `[INST]` is ordinary text there, but in a dialogue it would end a turn. Meta's code refuses
 * such dialogues, and so do later stages (models/llama2-format.ts). Texts are checked at import, so that all later stages see the same.
 */
import { BadRow } from "../../data/records.ts"
import { escapeTags, tagIn, withTag } from "../../models/llama2-format.ts"
import { hyper } from "../../schemas/hyper.ts"
import type { Message } from "../../schemas/rows.ts"

export const chatTags = hyper(
  "refuse",
  "what to do with rows whose text contains a tag of Llama 2's chat format ([INST], [/INST], <<SYS>>, <</SYS>>): refuse skips the row, as Meta's code does; escape inserts a backslash into each tag",
  ["refuse", "escape"]
)

/** The text without the format's tags. Throws BadRow for a text with a tag if `tags` is "refuse". */
export const withoutTags = (text: string, field: string, tags: "refuse" | "escape"): string => {
  const tag = tagIn(text)
  if (tag === undefined) return text
  if (tags === "escape") return escapeTags(text)
  throw new BadRow(field, `the text contains the tag ${tag} of the chat format (chatTags "escape" keeps such rows)`, withTag)
}

export const messagesWithoutTags = (messages: ReadonlyArray<Message>, field: string, tags: "refuse" | "escape"): ReadonlyArray<Message> =>
  messages.map(({ role, content }, i) => ({ role, content: withoutTags(content, `${field}[${i}].content`, tags) }))
