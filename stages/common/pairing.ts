/** Pairs samples of the same prompts, and aggregates the values of samples per prompt. */
import * as Effect from "effect/Effect"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import type { Message } from "../../schemas/rows.ts"
import { bootstrapMean, type Estimate, mean, proportion } from "./statistics.ts"
import { anyShare } from "./unfit.ts"

/** Two sets to compare do not have the same prompts, or contain a sample twice. */
export class PairingError extends ExplainedError<PairingError>()("PairingError") {}

/** Whether two dialogues are equal. */
export const sameMessages = (a: ReadonlyArray<Message>, b: ReadonlyArray<Message>): boolean =>
  a === b || (a.length === b.length && a.every(({ role, content }, i) => role === b[i]!.role && content === b[i]!.content))

/** The part of a prompt that its id must identify. */
export interface PromptById {
  readonly id: string
  readonly messages: ReadonlyArray<Message>
  readonly safety: boolean
}
/** The prompt of a completion. */
export const promptOf = (row: {
  readonly promptId: string
  readonly prompt: ReadonlyArray<Message>
  readonly safety: boolean
}): PromptById => ({
  id: row.promptId,
  messages: row.prompt,
  safety: row.safety
})

const quoted = ({ messages, safety }: PromptById): string =>
  `${JSON.stringify((messages.at(-1)?.content ?? "").slice(0, 60))} (safety ${safety})`

/** Refuses an id that stands for two different prompts: joining by id would lose one of them, or give it the other's answers. */
export const checkPromptIds = Effect.fn("checkPromptIds")(function* (
  prompts: Iterable<PromptById>,
  doing: string
): Effect.fn.Return<void, PairingError> {
  const known = new Map<string, PromptById>()
  for (const prompt of prompts) {
    const before = known.get(prompt.id)
    if (before === undefined) known.set(prompt.id, prompt)
    else if (before.safety !== prompt.safety || !sameMessages(before.messages, prompt.messages))
      return yield* PairingError.of({
        doing,
        expected: "each id to identify one prompt",
        found: `two different prompts with the id "${prompt.id}", ${quoted(before)} and ${quoted(prompt)}`,
        hint: "Give the rows of each file distinct ids, or no ids: prompts without an id get one that is unique across files."
      })
  }
})

export interface Sample {
  readonly promptId: string
  readonly sample: number
}

/** The name of a sample. */
export const sampleId = ({ promptId, sample }: Sample): string => `${promptId}#${sample}`

const keyOf = ({ promptId, sample }: Sample): string => `${promptId}\u0000${sample}`

/** Rows by prompt and sample; a duplicate is an error. */
export const bySample = Effect.fn("bySample")(function* <Row extends Sample>(
  rows: ReadonlyArray<Row>,
  doing: string
): Effect.fn.Return<ReadonlyMap<string, Row>, PairingError> {
  const found = new Map<string, Row>()
  for (const row of rows) {
    if (found.has(keyOf(row)))
      return yield* PairingError.of({
        doing,
        expected: "one row per sample of a prompt",
        found: `two rows for sample ${row.sample} of prompt "${row.promptId}"`,
        hint: "Pass each version's samples as a separate set."
      })
    found.set(keyOf(row), row)
  }
  return found
})

export interface Paired<A, B> {
  readonly pairs: ReadonlyArray<readonly [A, B]>
  /** The rows of each set without a counterpart in the other set. */
  readonly alone: readonly [ReadonlyArray<A>, ReadonlyArray<B>]
  readonly unpaired: readonly [number, number]
}

/** Pairs rows of the same prompt and sample, in the order of the first set. It is an error if there are none, or if a prompt's id stands for two prompts. */
export const pairSamples = Effect.fn("pairSamples")(function* <A extends Sample, B extends Sample>(
  ours: ReadonlyArray<A>,
  theirs: ReadonlyArray<B>,
  doing: string
): Effect.fn.Return<Paired<A, B>, PairingError> {
  const own = yield* bySample(ours, doing)
  const others = yield* bySample(theirs, doing)
  const pairs = ours.flatMap((row): Array<readonly [A, B]> => {
    const other = others.get(keyOf(row))
    return other === undefined ? [] : [[row, other]]
  })
  if (pairs.length === 0)
    return yield* PairingError.of({
      doing,
      expected: "samples of the same prompts on both sides",
      found: `${ours.length} and ${theirs.length} samples with no prompt in common`,
      hint: "Sample both sets from the same prompts."
    })
  const textOf = (row: object): string | undefined => ("prompt" in row ? JSON.stringify(row.prompt) : undefined)
  for (const [a, b] of pairs) {
    const [mine, other] = [textOf(a), textOf(b)]
    if (mine !== undefined && other !== undefined && mine !== other)
      return yield* PairingError.of({
        doing,
        expected: "each id to identify one prompt",
        found: `two different prompts with the id "${a.promptId}"`,
        hint: "Sample both sets from the same prompts."
      })
  }
  const alone = [ours.filter((row) => !others.has(keyOf(row))), theirs.filter((row) => !own.has(keyOf(row)))] as const
  return { pairs, alone, unpaired: [alone[0].length, alone[1].length] }
})

/** Skips the answers without a counterpart on the other side. */
export const skipAlone = (skipped: SkippedRows, { alone, pairs }: Paired<Sample, Sample>): Effect.Effect<void, StageError> => {
  for (const row of alone.flat())
    skipped.add({ what: "answers", reason: "without a counterpart on the other side", id: sampleId(row), row })
  return skipped.check("answers", alone.flat().length + 2 * pairs.length, anyShare)
}

/** One value per prompt: the mean over its samples, which are not independent of each other. In the order in which prompts first appear. */
export const meanByPrompt = <Row extends { readonly promptId: string }>(
  rows: ReadonlyArray<Row>,
  value: (row: Row) => number
): ReadonlyMap<string, number> => new Map([...Map.groupBy(rows, ({ promptId }) => promptId)].map(([id, own]) => [id, mean(own.map(value))]))

/** The mean over prompts of the known values, with its bootstrap interval over prompts; null if none is known. */
export const estimateByPrompt = <Row extends { readonly promptId: string }>(
  rows: ReadonlyArray<Row>,
  value: (row: Row) => number | null,
  seed: number
): Estimate | null => {
  const known = rows.filter((row) => value(row) !== null)
  return known.length === 0 ? null : bootstrapMean([...meanByPrompt(known, (row) => value(row)!).values()], seed)
}

/**
 * The share of a prompt's rows for which `is` holds, averaged over prompts. The interval is Wilson's with as many trials as there are prompts: samples of one prompt are
 * not independent, and in the worst case they all agree.
 */
export const shareByPrompt = <Row extends { readonly promptId: string }>(rows: ReadonlyArray<Row>, is: (row: Row) => boolean): Estimate => {
  const shares = [...meanByPrompt(rows, (row) => (is(row) ? 1 : 0)).values()]
  return proportion(
    shares.reduce((sum, share) => sum + share, 0),
    shares.length
  )
}

/** Requires one distinct name per set, for stages that compare several versions. */
export const checkNames = (names: ReadonlyArray<string>, sets: number, doing: string): Effect.Effect<void, PairingError> => {
  if (names.length === sets && new Set(names).size === sets && sets > 0) return Effect.void
  return PairingError.of({
    doing,
    expected: "at least one set, and a distinct name for each",
    found: `${sets} sets and the names ${JSON.stringify(names)}`,
    hint: "List one name per set, in the order of the input."
  })
}
