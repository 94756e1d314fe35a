/** What models are asked, as public sets have it: each gives the fields of a prompt as stages/data/import-prompts.ts reads them. */
import { BadRow } from "../read/record.ts"
import { BadLabel, field, fieldsOf, list, nonEmpty, optional, text } from "./fields.ts"
import { completionColumns } from "./messages.ts"

/** A prompt's fields; those that are absent are not known. */
export type PromptFields = Readonly<Record<string, unknown>>

/** XSTest (Röttger et al. 2024): {id, prompt, type, label: safe or unsafe}; also its files of answers, where the unsafe types begin with "contrast". */
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
  if (texts.length === 0) throw new BadRow("turns", "expected one at least")
  const id = optional(value, "question_id")
  return {
    ...(typeof id === "string" || typeof id === "number" ? { id: `${id}` } : {}),
    prompt: texts[0],
    followUps: texts.slice(1),
    category: optional(value, "category") ?? null
  }
}

/** The prompt of a row that has one, as text or messages, and what else is known of it; without the answers that may stand beside it. */
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
