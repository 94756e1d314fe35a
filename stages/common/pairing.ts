/** Samples of the same prompts put side by side, and values of prompts from values of samples. */
import * as Effect from "effect/Effect"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import type { Message } from "../../schemas/rows.ts"
import { type Estimate, mean, proportion } from "./statistics.ts"
import { anyShare } from "./unfit.ts"

/** Two sets that were to be compared are not of the same prompts, or hold a sample twice. */
export class PairingError extends ExplainedError<PairingError>()("PairingError") {}

/** Whether two dialogues say the same. */
export const sameMessages = (a: ReadonlyArray<Message>, b: ReadonlyArray<Message>): boolean =>
  a === b || (a.length === b.length && a.every(({ role, content }, i) => role === b[i]!.role && content === b[i]!.content))

/** What of a prompt its id stands for. */
export interface PromptById {
  readonly id: string
  readonly messages: ReadonlyArray<Message>
  readonly safety: boolean
}
/** The same of a completion. */
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

/** Refuses an id that stands for two different prompts: what goes together by id would lose one of them, or answer it with the other's answers. */
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
        expected: "an id to stand for one prompt",
        found: `two different prompts with the id "${prompt.id}", ${quoted(before)} and ${quoted(prompt)}`,
        hint: "Give the rows of each file ids of their own, or none: prompts without one get an id that no other file's have."
      })
  }
})

export interface Sample {
  readonly promptId: string
  readonly sample: number
}

/** What it is called. */
export const sampleId = ({ promptId, sample }: Sample): string => `${promptId}#${sample}`

const keyOf = ({ promptId, sample }: Sample): string => `${promptId}\u0000${sample}`

/** Rows by prompt and sample; a second row of the same is an error. */
export const bySample = Effect.fn("bySample")(function* <Row extends Sample>(
  rows: ReadonlyArray<Row>,
  doing: string
): Effect.fn.Return<ReadonlyMap<string, Row>, PairingError> {
  const found = new Map<string, Row>()
  for (const row of rows) {
    if (found.has(keyOf(row)))
      return yield* PairingError.of({
        doing,
        expected: "one row for each sample of a prompt",
        found: `two of sample ${row.sample} of prompt "${row.promptId}"`,
        hint: "Give each version's samples as a set of its own."
      })
    found.set(keyOf(row), row)
  }
  return found
})

export interface Paired<A, B> {
  readonly pairs: ReadonlyArray<readonly [A, B]>
  /** Rows of each set that the other has no counterpart of; how many. */
  readonly alone: readonly [ReadonlyArray<A>, ReadonlyArray<B>]
  readonly unpaired: readonly [number, number]
}

/** Rows of the same prompt and sample, in the order of the first set. None in common is an error, as is a prompt's id that stands for two prompts. */
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
      hint: "Sample both from one set of prompts."
    })
  const textOf = (row: object): string | undefined => ("prompt" in row ? JSON.stringify(row.prompt) : undefined)
  for (const [a, b] of pairs) {
    const [mine, other] = [textOf(a), textOf(b)]
    if (mine !== undefined && other !== undefined && mine !== other)
      return yield* PairingError.of({
        doing,
        expected: "an id to stand for one prompt",
        found: `two different prompts with the id "${a.promptId}"`,
        hint: "Sample both from one set of prompts."
      })
  }
  const alone = [ours.filter((row) => !others.has(keyOf(row))), theirs.filter((row) => !own.has(keyOf(row)))] as const
  return { pairs, alone, unpaired: [alone[0].length, alone[1].length] }
})

/** Skips the answers that the other side has no counterpart of. */
export const skipAlone = (skipped: SkippedRows, { alone, pairs }: Paired<Sample, Sample>): Effect.Effect<void, StageError> => {
  for (const row of alone.flat())
    skipped.add({ what: "answers", reason: "without a counterpart on the other side", id: sampleId(row), row })
  return skipped.check("answers", alone.flat().length + 2 * pairs.length, anyShare)
}

/** A value for each prompt: the mean over its samples, which are not independent of each other. In the order in which prompts first appear. */
export const meanByPrompt = <Row extends { readonly promptId: string }>(
  rows: ReadonlyArray<Row>,
  value: (row: Row) => number
): ReadonlyMap<string, number> => new Map([...Map.groupBy(rows, ({ promptId }) => promptId)].map(([id, own]) => [id, mean(own.map(value))]))

/**
 * The mean over prompts of the share of their rows that are so. The interval is Wilson's for as many trials as there are prompts: samples of one prompt are
 * not independent, and at worst they all agree.
 */
export const shareByPrompt = <Row extends { readonly promptId: string }>(rows: ReadonlyArray<Row>, is: (row: Row) => boolean): Estimate => {
  const shares = [...meanByPrompt(rows, (row) => (is(row) ? 1 : 0)).values()]
  return proportion(
    shares.reduce((sum, share) => sum + share, 0),
    shares.length
  )
}

/** One name a set, all different: what a stage that takes several versions needs. */
export const checkNames = (names: ReadonlyArray<string>, sets: number, doing: string): Effect.Effect<void, PairingError> => {
  if (names.length === sets && new Set(names).size === sets && sets > 0) return Effect.void
  return PairingError.of({
    doing,
    expected: "a name of its own for each set, one at least",
    found: `${sets} sets and the names ${JSON.stringify(names)}`,
    hint: "Name the sets in the order of the input."
  })
}
