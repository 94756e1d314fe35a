/**
 * The sizes of artifacts, as far as they are known before anything is made: what estimates of a plan's cost reckon from (docs/decisions/0007-cost-estimates.md).
 *
 * A size that is not known is NaN, so that what is reckoned from it is not known either.
 */
import type { LlamaConfig } from "../../../models/config.ts"
import type { CostedModel } from "../../../models/memory.ts"
import type { Sizes } from "../../../runtime/define/cost.ts"

/** The size of an artifact; NaN and undefined where it is not known. */
export interface Size extends Required<Omit<Sizes, "model">> {
  readonly model: LlamaConfig | undefined
  /** Of a reward model that was trained by LoRA: its adapter. */
  readonly adapter: CostedModel["adapter"]
  /** Whether it stands in a reward model's place and has no weights: scoring by it is no work for tensors. */
  readonly isScorer: boolean
}

export const unknownSize: Size = {
  rows: NaN,
  prompts: NaN,
  promptTokens: NaN,
  responseTokens: NaN,
  turns: NaN,
  safetyShare: NaN,
  vocabSize: NaN,
  model: undefined,
  adapter: undefined,
  isScorer: false
}

/** A size with some of its parts set anew; as many prompts as rows, where those are set alone. */
export const sized = (
  from: Size,
  sizes: Partial<Omit<Size, "model" | "adapter">> & { readonly model?: Size["model"]; readonly adapter?: Size["adapter"] }
): Size => ({
  ...from,
  ...(sizes.rows === undefined ? {} : { prompts: sizes.rows }),
  ...sizes
})

/** Something that an estimate needs is not known. */
export class UnknownSizeError extends Error {}

export const need = (value: number, what: string): number => {
  if (Number.isNaN(value)) throw new UnknownSizeError(what)
  return value
}
export const rowCount = (size: Size, what: string): number => need(size.rows, `how many ${what} there are`)
export const promptLength = (size: Size, what: string): number => need(size.promptTokens, `how long the prompts of ${what} are`)
export const dialogueLength = (size: Size, what: string): number => need(size.promptTokens + size.responseTokens, `how long ${what} are`)

/** Several datasets as one. */
export const pool = (sets: ReadonlyArray<Size>): Size => {
  // What is empty has no lengths, and adds nothing to those of the others.
  const some = sets.filter(({ rows }) => rows !== 0)
  const rows = some.reduce((sum, set) => sum + set.rows, 0)
  const mean = (pick: (size: Size) => number) => some.reduce((sum, set) => sum + pick(set) * set.rows, 0) / rows
  return {
    ...unknownSize,
    rows,
    prompts: some.reduce((sum, set) => sum + set.prompts, 0),
    promptTokens: mean((size) => size.promptTokens),
    responseTokens: mean((size) => size.responseTokens),
    turns: mean((size) => size.turns),
    safetyShare: mean((size) => size.safetyShare)
  }
}

/** Each dataset by its weight. */
export const mixed = (sets: ReadonlyArray<Size>, weights: ReadonlyArray<number>): Size =>
  pool(sets.map((set, i) => sized(set, { rows: Math.round(set.rows * (weights[i] ?? NaN)) })))
