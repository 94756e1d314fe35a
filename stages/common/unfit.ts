/** Dialogues and prompts that do not fit a model: why, and what of a set of prompts fits. */
import * as Effect from "effect/Effect"
import { chatFault } from "../../models/chat.ts"
import { formatFault } from "../../models/llama2-format.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { SkippedRow, SkippedRows } from "../../runtime/define/skipped.ts"
import type { Message } from "../../schemas/rows.ts"
import { type FittedPrompt, shortenPrompt } from "./dialogues.ts"

/** Why a dialogue was left out (`SkippedRow`): the chat format can't hold it, or else it is longer than `length` tokens. */
export const whyUnfit = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>, length: number): Pick<SkippedRow, "reason" | "found"> => {
  const fault = chatFault(tokenizer, messages)
  return fault === undefined ? { reason: `longer than ${length} tokens` } : { reason: fault.reason, found: fault.message }
}

/** Rows of which those that can't be used are to be skipped. */
export interface SkippableRows {
  readonly skipped: SkippedRows
  /** What they are, in the plural. */
  readonly what: string
  /** Of the row with this index. */
  readonly idOf: (index: number) => string
  /** The largest share that may be skipped, where neither the run nor the node says. */
  readonly most?: number
}

/** The limit for answers that a model gave: none, unless the run or the node sets one. How many of them can't be used is a finding about the model. */
export const anyShare = 1

/** Whether the chat format (Llama 2's: no model is known here) can hold a row's dialogue; if not, the row is skipped. How many of how many is yet to be checked. */
export const isUsable = (
  row: { readonly id: string; readonly messages: ReadonlyArray<Message> },
  skipped: SkippedRows,
  what: string
): boolean => {
  const fault = formatFault(row.messages)
  if (fault !== undefined) skipped.add({ what, reason: fault.reason, found: fault.message, id: row.id, row })
  return fault === undefined
}

/** The rows whose dialogue the chat format can hold; the others are skipped. Fails where they are too many. */
export const withoutFaults = Effect.fnUntraced(function* <Row extends { readonly id: string; readonly messages: ReadonlyArray<Message> }>(
  rows: ReadonlyArray<Row>,
  skipped: SkippedRows,
  what: string
) {
  const usable = rows.filter((row) => isUsable(row, skipped, what))
  yield* skipped.check(what, rows.length)
  return usable
})

export interface AskedPrompt<Prompt> extends FittedPrompt {
  readonly prompt: Prompt
}

/** The prompts with the tokens, `room` at most, that a model is to continue. Those that do not fit are skipped; how many of how many is yet to be checked. */
export const fitPrompts = <Prompt extends { readonly id: string; readonly messages: ReadonlyArray<Message> }>(
  tokenizer: Tokenizer,
  prompts: ReadonlyArray<Prompt>,
  room: number,
  skipped: SkippedRows,
  what = "prompts"
): Array<AskedPrompt<Prompt>> =>
  prompts.flatMap((prompt) => {
    const fitted = shortenPrompt(tokenizer, prompt.messages, room)
    if (fitted !== undefined) return [{ prompt, ...fitted }]
    skipped.add({ what, ...whyUnfit(tokenizer, prompt.messages, room), id: prompt.id, row: prompt })
    return []
  })
