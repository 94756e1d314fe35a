import * as Schema from "effect/Schema"

/** A stage received no rows to work on. The run adds in which earlier nodes the rows were lost, and why (runtime/run/lost-rows.ts). */
export class EmptyDatasetError extends Schema.TaggedError<EmptyDatasetError>()("EmptyDatasetError", {
  doing: Schema.String,
  got: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
  /** `advice`: what to do, if this stage knows. */
  static of(doing: string, got: string, advice = "Check the outputs of the stages before it."): EmptyDatasetError {
    return new EmptyDatasetError({ doing, got, message: `Nothing to ${doing}: got ${got}. ${advice}` })
  }
}
