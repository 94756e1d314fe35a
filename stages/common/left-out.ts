/** Why training leaves dialogues out: their length, or their form. The two have different remedies, so they are counted and named apart. */
import type { SkippedRow } from "../../runtime/define/skipped.ts"
import type { Message } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "./empty-dataset.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import { whyUnfit } from "./unfit.ts"

/** How many rows were left out, and why. */
export interface LeftOut {
  readonly tooLong: number
  /** Those that the chat format can't hold: its own tags in the text, an empty answer, turns that do not alternate. */
  readonly format: number
  /** The first of these in words; empty where there is none. */
  readonly firstFault: string
}

/** A row that is left out, as `SkippedRows.add` takes it. */
export type LeftOutRow = Pick<SkippedRow, "id" | "reason" | "found" | "row">

/** Counts the rows that a stage leaves out as they come, and tells of each: none is kept. */
export class LeftOutCounter {
  readonly #tokenizer: Tokenizer
  readonly #length: number
  readonly #tell: (row: LeftOutRow) => void
  #tooLong = 0
  #format = 0
  #firstFault = ""
  /** `length`: tokens that a dialogue may have. */
  constructor(tokenizer: Tokenizer, length: number, tell: (row: LeftOutRow) => void = () => {}) {
    this.#tokenizer = tokenizer
    this.#length = length
    this.#tell = tell
  }

  /** A row that did not fit: its dialogue, or each of several. */
  add(row: { readonly id: string }, dialogues: ReadonlyArray<ReadonlyArray<Message>>): void {
    const { id } = row
    const why = dialogues.map((messages) => whyUnfit(this.#tokenizer, messages, this.#length))
    const fault = why.find(({ found }) => found !== undefined)
    if (fault === undefined) this.#tooLong++
    else if (++this.#format === 1) this.#firstFault = `${JSON.stringify(id)}: ${fault.found}`
    this.#tell({ id, row, ...(fault ?? why[0]!) })
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
