/**
 * The sizes of artifacts, as far as they are known before anything runs: the basis of cost estimates (docs/decisions/0007-cost-estimates.md).
 *
 * An unknown size is NaN, so that everything computed from it is unknown too.
 */
import type { LlamaConfig } from "../../../models/config.ts"
import type { CostedModel } from "../../../models/memory.ts"
import type { Sizes } from "../../../runtime/define/cost.ts"

/** The size of an artifact; unknown parts are NaN or undefined. */
export interface Size extends Required<Omit<Sizes, "model">> {
  readonly model: LlamaConfig | undefined
  /** For a reward model trained with LoRA: its adapter. */
  readonly adapter: CostedModel["adapter"]
  /** Whether the artifact is a scorer without weights, used as a reward model: scoring with it needs no tensors. */
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

/** A size with some parts replaced; if only rows is given, prompts is set to the same number. */
export const sized = (
  from: Size,
  sizes: Partial<Omit<Size, "model" | "adapter">> & { readonly model?: Size["model"]; readonly adapter?: Size["adapter"] }
): Size => ({
  ...from,
  ...(sizes.rows === undefined ? {} : { prompts: sizes.rows }),
  ...sizes
})

/** Thrown when an estimate needs something that is unknown. */
export class UnknownSizeError extends Error {}

export const need = (value: number, what: string): number => {
  if (Number.isNaN(value)) throw new UnknownSizeError(what)
  return value
}
export const rowCount = (size: Size, what: string): number => need(size.rows, `how many ${what} there are`)
export const promptLength = (size: Size, what: string): number => need(size.promptTokens, `how long the prompts of ${what} are`)
export const dialogueLength = (size: Size, what: string): number => need(size.promptTokens + size.responseTokens, `how long ${what} are`)

/** Several datasets combined. */
export const pool = (sets: ReadonlyArray<Size>): Size => {
  // An empty dataset has no lengths and does not affect those of the others.
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

/** The weighted mix of several datasets. */
export const mixed = (sets: ReadonlyArray<Size>, weights: ReadonlyArray<number>): Size =>
  pool(sets.map((set, i) => sized(set, { rows: Math.round(set.rows * (weights[i] ?? NaN)) })))
