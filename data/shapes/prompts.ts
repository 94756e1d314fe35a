/** Parsers for public prompt sets. Each returns the fields of a prompt that stages/data/import-prompts.ts reads. */
import { BadRow } from "../read/record.ts"
import { BadLabel, field, fieldsOf, list, nonEmpty, optional, text } from "./fields.ts"
import { completionColumns } from "./messages.ts"

/** A prompt's fields; absent fields are unknown. */
export type PromptFields = Readonly<Record<string, unknown>>

/** XSTest (Röttger et al. 2024): {id, prompt, type, label: safe or unsafe}; also its answer files, in which the unsafe types begin with "contrast". */
export const xsTestPrompt = (value: unknown, line: number): PromptFields => {
  const type = text(value, "type")
  const label = optional(value, "label")
  if (label !== undefined && label !== "safe" && label !== "unsafe") throw new BadLabel(line, "label", "safe or unsafe", label)
  const id = optional(value, "id")
  return {
    ...(typeof id === "string" || typeof id === "number" ? { id: `${id}` } : {}),
    prompt: nonEmpty(value, "prompt"),
    category: type,
    safety: label === undefined ? type.startsWith("contrast") : label === "unsafe"
  }
}

/** MT-Bench's questions: {question_id, category, turns: [first, second]}. */
export const mtBenchPrompt = (value: unknown): PromptFields => {
  const turns = list(value, "turns")
  const texts = turns.map((turn, i) => {
    if (typeof turn !== "string") throw new BadRow(`turns[${i}]`, "expected text")
    return turn
  })
  if (texts.length === 0) throw new BadRow("turns", "expected at least one turn")
  const id = optional(value, "question_id")
  return {
    ...(typeof id === "string" || typeof id === "number" ? { id: `${id}` } : {}),
    prompt: texts[0],
    followUps: texts.slice(1),
    category: optional(value, "category") ?? null
  }
}

/** The prompt of a row, as text or messages, and its other known fields, without any answers in the row. */
export const plainPrompt = (value: unknown): PromptFields => {
  const fields = fieldsOf(value)
  const name = completionColumns
    .map(([prompt]) => prompt)
    .find((each) => typeof fields[each] === "string" || (each === "prompt" && Object.hasOwn(fields, each)))
  if (name === undefined) return fields
  const prompt = field(value, name)
  const { id, safety, category, followUps, messages } = fields
  const kept = {
    id,
    safety,
    category,
    followUps,
    ...(Array.isArray(prompt) ? { messages: prompt } : { prompt, ...(name === "prompt" ? { messages } : {}) })
  }
  return Object.fromEntries(Object.entries(kept).filter(([, each]) => each !== undefined))
}
