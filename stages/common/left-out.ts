/** Why training leaves out dialogues: their length or their format. The two have different remedies, so they are counted and named separately. */
import type { SkippedRow } from "../../runtime/define/skipped.ts"
import type { Message } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "./empty-dataset.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import { whyUnfit } from "./unfit.ts"

/** Numbers of rows left out, by reason. */
export interface LeftOut {
  readonly tooLong: number
  /** Rows that the chat format cannot represent: its own tags in the text, an empty answer, turns that do not alternate. */
  readonly format: number
  /** A description of the first such row; empty if there is none. */
  readonly firstFault: string
}

/** A row to leave out, in the form that `SkippedRows.add` expects. */
export type LeftOutRow = Pick<SkippedRow, "id" | "reason" | "found" | "row">

/** Counts the rows that a stage leaves out and reports each of them, without storing any. */
export class LeftOutCounter {
  readonly #tokenizer: Tokenizer
  readonly #length: number
  readonly #tell: (row: LeftOutRow) => void
  #tooLong = 0
  #format = 0
  #firstFault = ""
  /** `length`: the maximum number of tokens in a dialogue. */
  constructor(tokenizer: Tokenizer, length: number, tell: (row: LeftOutRow) => void = () => {}) {
    this.#tokenizer = tokenizer
    this.#length = length
    this.#tell = tell
  }

  /** Counts a row that did not fit: its dialogue, or each of several. */
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

/** The error of a stage when none of its `count` rows is left. `length` is the maximum length of a row, `context` that of the model, in tokens. */
export const nothingLeft = (
  doing: string,
  rows: { readonly name: string; readonly count: number },
  { tooLong, format, firstFault }: LeftOut,
  { length, context }: { readonly length: number; readonly context: number }
): EmptyDatasetError => {
  const reasons = [
    ...(tooLong > 0 ? [`${tooLong} longer than ${length} tokens`] : []),
    ...(format > 0 ? [`${format} that the chat format cannot represent`] : [])
  ]
  const got = `${rows.count} ${rows.name}${reasons.length > 0 ? `, ${reasons.join(" and ")}` : ""}`
  const longer = length < context ? `Raise sequenceLength (the model's context is ${context}).` : "Use a model with a longer context."
  const advice = [
    ...(rows.count === 0 ? ["Check the output of the previous stage."] : []),
    ...(tooLong > 0 ? [longer] : []),
    ...(format > 0 ? [`The first row that the format cannot represent is ${firstFault}`] : [])
  ]
  return new EmptyDatasetError({ doing, got, message: `Nothing to ${doing}: got ${got}. ${advice.join(" ")}` })
}
