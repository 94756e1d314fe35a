/**
 * Annotators, who judge which of two responses is better (Llama 2 §3.2.1): a forced choice, a rating on four levels, and for safety data whether each response
 * is safe. Annotator is a service, so that people, a model or a scoring function can implement it.
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
  /** Whether each response is safe; null if the annotator was not asked. */
  readonly safeA: boolean | null
  readonly safeB: boolean | null
}

/**
 * A pair could not be compared: what was being done, what was expected, what was found, what to do. Retryable if a judge may answer the next time (too
 * many requests, a server error, no connection, a timeout); not if labels, files, an address or a key must be fixed first.
 */
export class AnnotationError extends Schema.TaggedError<AnnotationError>()("AnnotationError", { message: Schema.String, isRetryable }) {}

export type Kind = "helpfulness" | "safety"

export class Annotator extends Context.Service<
  Annotator,
  {
    /** A verdict for each pair, in order; null if there is none (both are equally good, or the answer is unreadable). */
    readonly compare: (pairs: ReadonlyArray<ResponsePair>, kind: Kind) => Effect.Effect<ReadonlyArray<Verdict | null>, AnnotationError>
  }
>()("caravan/stages/Annotator") {}
