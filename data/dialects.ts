/** Public dialects of preference and dialogue data, row by row. Each parser gives a row of ours, or throws BadRow or BadLabel. */
import type { Demonstration, Message, Preference } from "../schemas/rows.ts"
import { own } from "../schemas/own.ts"
import { BadRow, inField } from "./records.ts"

/** A rating or label that is none of the set. Not a BadRow: what somebody judged is never skipped with the rows that do not fit. */
export class BadLabel extends Error {
  readonly line: number
  readonly field: string
  readonly expected: string
  readonly found: string
  constructor(line: number, field: string, expected: string, value: unknown) {
    // JSON knows no NaN, which a Parquet file may hold.
    const found = (typeof value === "number" ? `${value}` : JSON.stringify(value)).slice(0, 40)
    super(`expected ${expected}, found ${found}`)
    this.line = line
    this.field = field
    this.expected = expected
    this.found = found
  }
}

/** The fields of a row. `where` names it when it is an inner one. */
const fieldsOf = (value: unknown, where = "(the row)"): Record<string, unknown> => {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new BadRow(
    where,
    `expected an object, found ${Array.isArray(value) ? "a list" : value === null ? "null" : typeof value}`,
    inField(where, "not an object")
  )
}
/** The field of a row. `where` names it in full when the row is an inner one. */
const field = (value: unknown, name: string, where = name): unknown => {
  const fields = fieldsOf(value, where === name ? undefined : where)
  const found = own(fields, name)
  if (found === undefined || found === null)
    throw new BadRow(where, `missing; there are ${Object.keys(fields).slice(0, 20).join(", ") || "no fields"}`, inField(where, "missing"))
  return found
}
const text = (value: unknown, name: string, where = name): string => {
  const found = field(value, name, where)
  if (typeof found !== "string")
    throw new BadRow(where, `expected text, found ${Array.isArray(found) ? "a list" : typeof found}`, inField(where, "not text"))
  return wellFormed(found, where)
}
/** JSON may hold half of a surrogate pair ("\ud800"); no UTF-8 file can. */
const wellFormed = (found: string, name: string): string => {
  if (!found.isWellFormed()) throw new BadRow(name, "text with half of a surrogate pair")
  return found
}

// ---- HH-RLHF ---------------------------------------------------------------------------------------------------------------------------

const turnStart = /\n\n(Human|Assistant):/g

/** The turns of an HH-RLHF transcript ("\n\nHuman: ...\n\nAssistant: ..."), their texts exactly as they stand. */
export const splitTranscript = (transcript: string, name: string): Array<Message> => {
  const starts = [...transcript.matchAll(turnStart)]
  if (starts.length === 0 || starts[0]!.index !== 0) throw new BadRow(name, 'a transcript begins with "\\n\\nHuman:" or "\\n\\nAssistant:"')
  return starts.map((start, i) => ({
    role: start[1] === "Human" ? "user" : "assistant",
    content: transcript.slice(start.index + start[0].length, starts[i + 1]?.index ?? transcript.length)
  }))
}

/** The transcript of turns as split above. */
export const joinTranscript = (turns: ReadonlyArray<Message>): string =>
  turns.map((turn) => `\n\n${turn.role === "user" ? "Human" : "Assistant"}:${turn.content}`).join("")

const sameTurn = (a: Message | undefined, b: Message | undefined): boolean =>
  a !== undefined && b !== undefined && a.role === b.role && a.content === b.content

/**
 * An HH-RLHF row {chosen, rejected}: two transcripts. The prompt is the longest common prefix of whole turns, and each response the one turn of
 * the assistant that follows. Rows in which something else follows (the transcripts part before the last turn) or a response is empty do not
 * fit: such a pair compares more than two answers to one prompt, or no answer.
 */
export const parseHhRlhf = (value: unknown, line: number, source: string): Preference => {
  const chosen = splitTranscript(text(value, "chosen"), "chosen")
  const rejected = splitTranscript(text(value, "rejected"), "rejected")
  let shared = 0
  while (sameTurn(chosen[shared], rejected[shared])) shared++
  // Two equal transcripts share their answer too: then the pair says nothing.
  if (shared === chosen.length && shared === rejected.length) throw new BadRow("rejected", "the same as chosen")
  for (const [name, turns] of [
    ["chosen", chosen],
    ["rejected", rejected]
  ] as const) {
    if (turns.length !== shared + 1)
      throw new BadRow(
        name,
        `the transcripts part at turn ${shared + 1}, but this one goes on to turn ${turns.length}`,
        inField(name, "more than one turn differs between the transcripts")
      )
    if (turns[shared]!.role !== "assistant")
      throw new BadRow(
        name,
        `turn ${shared + 1}, where they part, is not the assistant's`,
        inField(name, "where the transcripts part is not the assistant's turn")
      )
    if (turns[shared]!.content.trim() === "") throw new BadRow(name, "the response is empty")
  }
  if (shared === 0) throw new BadRow("chosen", "there is no prompt")
  return preference(`${line}`, chosen.slice(0, shared), chosen[shared]!.content, rejected[shared]!.content, source)
}

const preference = (id: string, prompt: ReadonlyArray<Message>, chosen: string, rejected: string, source: string): Preference => ({
  id,
  prompt,
  chosen,
  rejected,
  rating: null,
  chosenSafe: null,
  rejectedSafe: null,
  source
})

// ---- messages --------------------------------------------------------------------------------------------------------------------------

const roles = new Map<string, Message["role"]>([
  ["system", "system"],
  ["user", "user"],
  ["human", "user"],
  ["assistant", "assistant"],
  ["gpt", "assistant"]
])

const messagesOf = (value: unknown, name: string): Array<Message> => {
  if (!Array.isArray(value) || value.length === 0) throw new BadRow(name, "expected a list of messages with at least one")
  return value.map((message: unknown, i) => {
    const at = `${name}[${i}]`
    const role = roles.get(text(message, "role", `${at}.role`))
    if (role === undefined)
      throw new BadRow(
        `${at}.role`,
        `expected system, user or assistant, found ${JSON.stringify((message as { role: string }).role.slice(0, 40))}`,
        inField(`${at}.role`, "not system, user or assistant")
      )
    return { role, content: text(message, "content", `${at}.content`) }
  })
}

/** A row {messages: [{role, content}, ...]} that ends with the assistant's answer. */
export const parseMessages = (value: unknown, line: number): Demonstration => {
  const messages = messagesOf(field(value, "messages"), "messages")
  if (messages.at(-1)!.role !== "assistant") throw new BadRow("messages", "the last message is not the assistant's")
  return { id: `${line}`, messages, loss: "answers" }
}

// ---- prompt, chosen, rejected ----------------------------------------------------------------------------------------------------------

/** The answer of a field that is text, or messages: the answer alone, or the whole dialogue that it ends. */
const answerOf = (value: unknown, name: string, prompt: ReadonlyArray<Message>): string => {
  const found = field(value, name)
  const messages: ReadonlyArray<Message> =
    typeof found === "string" ? [{ role: "assistant", content: wellFormed(found, name) }] : messagesOf(found, name)
  const last = messages.at(-1)!
  if (last.role !== "assistant") throw new BadRow(name, "the last message is not the assistant's")
  const before = messages.slice(0, -1)
  if (before.length > 0 && !(before.length === prompt.length && before.every((turn, i) => sameTurn(turn, prompt[i])))) {
    throw new BadRow(name, "what comes before the answer is not the prompt")
  }
  if (last.content.trim() === "") throw new BadRow(name, "the response is empty")
  return last.content
}

const ratings = [0, 1, 2, 3]

/** The rating, and whether each response was labelled safe; null where there is none. Throws BadLabel for any other. */
const labelsOf = (value: unknown, line: number): Pick<Preference, "rating" | "chosenSafe" | "rejectedSafe"> => {
  const { rating = null, chosenSafe = null, rejectedSafe = null } = fieldsOf(value)
  if (rating !== null && !ratings.includes(rating as number))
    throw new BadLabel(
      line,
      "rating",
      "0 (significantly better), 1 (better), 2 (slightly better), 3 (negligibly better or unsure) or null",
      rating
    )
  for (const [name, label] of Object.entries({ chosenSafe, rejectedSafe }))
    if (label !== null && typeof label !== "boolean") throw new BadLabel(line, name, "true, false or null", label)
  return { rating, chosenSafe, rejectedSafe } as Pick<Preference, "rating" | "chosenSafe" | "rejectedSafe">
}

/**
 * A row {prompt, chosen, rejected, rating?, chosenSafe?, rejectedSafe?}: the prompt text or messages, the responses text or messages (with or
 * without the prompt's before them). Two equal responses do not fit: such a pair says nothing. What was judged is read first, so that a row that does not
 * fit does not hide it.
 */
export const parsePromptChosenRejected = (value: unknown, line: number, source: string): Preference => {
  const labels = labelsOf(value, line)
  const prompt = field(value, "prompt")
  const messages =
    typeof prompt === "string" ? [{ role: "user" as const, content: wellFormed(prompt, "prompt") }] : messagesOf(prompt, "prompt")
  if (messages.at(-1)!.role !== "user") throw new BadRow("prompt", "the last message is not the user's")
  const chosen = answerOf(value, "chosen", messages)
  const rejected = answerOf(value, "rejected", messages)
  if (chosen === rejected) throw new BadRow("rejected", "the same as chosen")
  return { ...preference(`${line}`, messages, chosen, rejected, source), ...labels }
}
