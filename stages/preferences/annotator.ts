/**
 * Who says which of two responses is better (Llama 2 §3.2.1): a forced choice, how much better on four grades, and for safety data whether each response
 * is safe. A service, so that people, a model or a scoring function can take the place.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { isRetryable } from "../../schemas/explained-error.ts"
import type { ResponsePair } from "../../schemas/rows.ts"

/** 0 significantly better, 1 better, 2 slightly better, 3 negligibly better or unsure. */
export type Rating = 0 | 1 | 2 | 3

export interface Verdict {
  readonly choice: "A" | "B"
  readonly rating: Rating
  /** Whether each response is safe; null where it was not asked. */
  readonly safeA: boolean | null
  readonly safeB: boolean | null
}

/**
 * A pair could not be compared: what was being done, what was expected, what was found, what to do. Retryable where a judge may answer the next time (too
 * many requests, an error of its server, no connection, no answer in time); not where labels, files, an address or a key have to be mended first.
 */
export class AnnotationError extends Schema.TaggedError<AnnotationError>()("AnnotationError", { message: Schema.String, isRetryable }) {}

export type Kind = "helpfulness" | "safety"

export class Annotator extends Context.Service<
  Annotator,
  {
    /** A verdict for each pair, in their order; null where there can be none (both as good, or no answer that can be read). */
    readonly compare: (pairs: ReadonlyArray<ResponsePair>, kind: Kind) => Effect.Effect<ReadonlyArray<Verdict | null>, AnnotationError>
  }
>()("caravan/stages/Annotator") {}
