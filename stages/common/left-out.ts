/** Why training leaves dialogues out: their length, or their form. The two have different remedies, so they are counted and named apart. */
import { ChatError, dialogueText } from "../../models/chat.ts"
import type { Message } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "./empty-dataset.ts"

/** How many rows were left out, and why. */
export interface LeftOut {
  readonly tooLong: number
  /** Those that the chat format can't hold: its own tags in the text, an empty answer, turns that do not alternate. */
  readonly format: number
  /** The first of these in words; empty where there is none. */
  readonly firstFault: string
}

/** A row that is left out. */
export interface LeftOutRow {
  /** Its place in the dataset, from 0. */
  readonly index: number
  readonly id: string
  readonly row: unknown
  /** Why the chat format can't hold it, in words; undefined where it is too long. */
  readonly fault: string | undefined
}

/** Why the chat format can't hold a dialogue, in words; undefined where it can. */
const faultOf = (messages: ReadonlyArray<Message>): string | undefined => {
  try {
    dialogueText(messages)
    return undefined
  } catch (cause) {
    if (cause instanceof ChatError) return cause.message
    throw cause
  }
}

/** Counts the rows that a stage leaves out as they come, and tells of each: none is kept. */
export class LeftOutCounter {
  readonly #tell: (row: LeftOutRow) => void
  #tooLong = 0
  #format = 0
  #firstFault = ""
  constructor(tell: (row: LeftOutRow) => void = () => {}) {
    this.#tell = tell
  }

  /** A row that did not fit: its dialogue, or each of several. */
  add(index: number, row: { readonly id: string }, dialogues: ReadonlyArray<ReadonlyArray<Message>>): void {
    const { id } = row
    const fault = dialogues.map(faultOf).find((found) => found !== undefined)
    if (fault === undefined) this.#tooLong++
    else if (++this.#format === 1) this.#firstFault = `${JSON.stringify(id)}: ${fault}`
    this.#tell({ index, id, row, fault })
  }

  get counts(): LeftOut {
    return { tooLong: this.#tooLong, format: this.#format, firstFault: this.#firstFault }
  }
}

/** The error of a stage of whose `count` rows none is left. `length` is what a row may have, `context` what the model holds. */
export const nothingLeft = (
  doing: string,
  rows: { readonly name: string; readonly count: number },
  { tooLong, format, firstFault }: LeftOut,
  { length, context }: { readonly length: number; readonly context: number }
): EmptyDatasetError => {
  const reasons = [
    ...(tooLong > 0 ? [`${tooLong} longer than ${length} tokens`] : []),
    ...(format > 0 ? [`${format} that the chat format can't hold`] : [])
  ]
  const got = `${rows.count} ${rows.name}${reasons.length > 0 ? `, ${reasons.join(" and ")}` : ""}`
  const longer = length < context ? `Raise sequenceLength (the model's context is ${context}).` : "Give a model with a longer context."
  const advice = [
    ...(rows.count === 0 ? ["Look at the stage before this one."] : []),
    ...(tooLong > 0 ? [longer] : []),
    ...(format > 0 ? [`The first that the format can't hold is ${firstFault}`] : [])
  ]
  return new EmptyDatasetError({ doing, got, message: `Nothing to ${doing}: got ${got}. ${advice.join(" ")}` })
}
