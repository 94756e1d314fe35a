/** Parsers for lists of messages: OpenAI's format, which most chat formats follow, and ShareGPT's; also Alpaca's rows and prompts with completions. */
import type { Demonstration, Message } from "../../schemas/rows.ts"
import { BadRow, inField, LeftOut } from "../read/record.ts"
import { field, kindOfValue, label, optional, text, wellFormed } from "./fields.ts"

type Role = Message["role"]

/** "developer" is OpenAI's name for the system role since its reasoning models. */
const roles = new Map<string, Role>([
  ["system", "system"],
  ["developer", "system"],
  ["user", "user"],
  ["human", "user"],
  ["assistant", "assistant"],
  ["gpt", "assistant"]
])
/** Roles in dialogues with tools, which Llama 2's chat format does not have. */
const toolRoles = ["tool", "function", "function_call", "observation", "ipython", "environment"]

const roleOf = (known: ReadonlyMap<string, Role>, found: string, where: string): Role => {
  const role = known.get(found)
  if (role !== undefined) return role
  if (toolRoles.includes(found))
    throw new BadRow(
      where,
      `expected system, user or assistant, found "${found}", a tool role that the chat format does not support`,
      inField(where, "a message of a tool")
    )
  throw new BadRow(
    where,
    `expected system, user or assistant, found ${JSON.stringify(found.slice(0, 40))}`,
    inField(where, "not system, user or assistant")
  )
}

/** OpenAI's names for text parts of a message. */
const textParts = ["text", "input_text", "output_text"]

/** The content of a message: text, or the concatenation of its text parts. */
const contentOf = (message: unknown, at: string): string => {
  const where = `${at}.content`
  const calls = optional(message, "tool_calls", `${at}.tool_calls`) ?? optional(message, "function_call", `${at}.function_call`) ?? []
  if (!Array.isArray(calls) || calls.length > 0) throw new BadRow(at, "a tool call, which the chat format does not support")
  const found = field(message, "content", where)
  if (!Array.isArray(found)) return text(message, "content", where)
  if (found.length > 0 && found.every((part) => typeof part === "object" && part !== null))
    return found
      .map((part: unknown, i) => {
        const type = text(part, "type", `${where}[${i}].type`)
        if (!textParts.includes(type))
          throw new BadRow(
            `${where}[${i}].type`,
            `a part of type ${JSON.stringify(type.slice(0, 40))}, which is not text`,
            inField(`${where}[${i}].type`, "not text")
          )
        return text(part, "text", `${where}[${i}].text`)
      })
      .join("")
  throw new BadRow(where, `expected text, found ${kindOfValue(found)}`, inField(where, "not text"))
}

export const messagesOf = (value: unknown, name: string, also: "" | "text" = ""): Array<Message> => {
  if (!Array.isArray(value) || value.length === 0) {
    const found = Array.isArray(value) ? "an empty list" : kindOfValue(value)
    const [expected, reason] = also === "text" ? ["text or ", "neither text nor a list of messages"] : ["", "not a list of messages"]
    throw new BadRow(name, `expected ${expected}a list with at least one message, found ${found}`, inField(name, reason))
  }
  return value.map((message: unknown, i) => {
    const at = `${name}[${i}]`
    const role = roleOf(roles, text(message, "role", `${at}.role`), `${at}.role`)
    return { role, content: contentOf(message, at) }
  })
}

/** A prompt given as text or messages. The last message must be the user's. */
export const promptOf = (value: unknown, name: string): ReadonlyArray<Message> => {
  const messages =
    typeof value === "string" ? [{ role: "user" as const, content: wellFormed(value, name) }] : messagesOf(value, name, "text")
  if (messages.at(-1)!.role !== "user") throw new BadRow(name, "the last message is not the user's")
  return messages
}

export const sameTurn = (a: Message | undefined, b: Message | undefined): boolean =>
  a !== undefined && b !== undefined && a.role === b.role && a.content === b.content

const demonstration = (
  line: number,
  messages: ReadonlyArray<Message>,
  name: string,
  loss: Demonstration["loss"] = "answers"
): Demonstration => {
  if (messages.at(-1)!.role !== "assistant") throw new BadRow(name, "the last message is not the assistant's")
  return { id: `${line}`, messages, loss }
}

/** The answers that carry loss, from the column of our own exports, or else from OpenAI's "weight" of each answer: 1 or 0. */
const lossOf = (value: unknown, found: ReadonlyArray<unknown>, name: string, line: number): Demonstration["loss"] => {
  const declared = label(value, "loss", ["answers", "last-answer"], line)
  if (declared !== null) return declared
  const weights = found
    .map((message, i) => [message, i] as const)
    .filter(([message]) => ["assistant", "gpt"].includes(text(message, "role")))
    .map(([message, i]) => optional(message, "weight", `${name}[${i}].weight`) ?? 1)
  if (weights.every((weight) => weight === 1)) return "answers"
  if (weights.slice(0, -1).every((weight) => weight === 0) && weights.at(-1) === 1) return "last-answer"
  throw new BadRow(
    `${name}[].weight`,
    `expected weights that are all 1, or 1 only for the last answer, found ${JSON.stringify(weights).slice(0, 40)}`,
    "weights of answers that are neither all 1 nor 1 only for the last"
  )
}

/** Names of columns with messages. */
export const messageColumns = ["messages", "conversation", "conversations"] as const

/** A row {messages: [{role, content}, ...]} that ends with the assistant's answer. */
export const parseMessages = (value: unknown, line: number): Demonstration => {
  const name = messageColumns.find((each) => optional(value, each) !== undefined) ?? "messages"
  const messages = messagesOf(field(value, name), name)
  return demonstration(line, messages, name, lossOf(value, field(value, name) as ReadonlyArray<unknown>, name, line))
}

const speakers = new Map<string, Role>([
  ...roles,
  ["chatgpt", "assistant"],
  ["bing", "assistant"],
  ["bard", "assistant"],
  ["model", "assistant"]
])

/** A ShareGPT row {conversations: [{from, value}, ...], system?}. */
export const parseShareGpt = (value: unknown, line: number): Demonstration => {
  const found = field(value, "conversations")
  if (!Array.isArray(found) || found.length === 0) throw new BadRow("conversations", "expected a list with at least one turn")
  const messages = found.map((turn: unknown, i): Message => {
    const at = `conversations[${i}]`
    return { role: roleOf(speakers, text(turn, "from", `${at}.from`), `${at}.from`), content: text(turn, "value", `${at}.value`) }
  })
  const system = optional(value, "system") === undefined ? "" : text(value, "system")
  return demonstration(line, system === "" ? messages : [{ role: "system", content: system }, ...messages], "conversations")
}

/** An Alpaca row {instruction, input?, output, system?, history?}: history is a list of [question, answer] pairs, as LLaMA-Factory writes it. */
export const parseAlpaca = (value: unknown, line: number): Demonstration => {
  const input = optional(value, "input") === undefined ? "" : text(value, "input")
  const instruction = text(value, "instruction")
  const history = optional(value, "history") ?? []
  if (
    !Array.isArray(history) ||
    !history.every((turn) => Array.isArray(turn) && turn.length === 2 && turn.every((part) => typeof part === "string"))
  )
    throw new BadRow("history", "expected a list of [question, answer] pairs")
  const before = (history as ReadonlyArray<readonly [string, string]>).flatMap(([question, answer]): Array<Message> => [
    { role: "user", content: wellFormed(question, "history") },
    { role: "assistant", content: wellFormed(answer, "history") }
  ])
  const system = optional(value, "system") === undefined ? "" : text(value, "system")
  return demonstration(
    line,
    [
      ...(system === "" ? [] : [{ role: "system" as const, content: system }]),
      ...before,
      { role: "user", content: input === "" ? instruction : `${instruction}\n\n${input}` },
      { role: "assistant", content: text(value, "output") }
    ],
    "output"
  )
}

/** Column names of a prompt and its completion: TRL's, then P3's, whose `inputs` are token ids and whose texts have separate names. */
export const completionColumns = [
  ["prompt", "completion"],
  ["inputs", "targets"],
  ["inputs_pretokenized", "targets_pretokenized"]
] as const

/** A row with a prompt and its completion, each text or messages. P3's wrong multiple-choice answers (is_correct false) are left out: they are not demonstrations. */
export const parsePromptCompletion = (value: unknown, line: number): Demonstration => {
  const names = completionColumns.find(([prompt]) => {
    const found = optional(value, prompt)
    return typeof found === "string" || (prompt === "prompt" && found !== undefined)
  })
  const [prompt, completion] = names ?? completionColumns[0]
  if (optional(value, "is_correct") === false) throw new LeftOut("answers that are marked as wrong")
  const before = promptOf(field(value, prompt), prompt)
  const found = field(value, completion)
  const answer =
    typeof found === "string"
      ? [{ role: "assistant" as const, content: wellFormed(found, completion) }]
      : messagesOf(found, completion, "text")
  return demonstration(line, [...before, ...answer], completion)
}
