import * as Schema from "effect/Schema"

/** A stage received no rows to work on. */
export class EmptyDatasetError extends Schema.TaggedError<EmptyDatasetError>()("EmptyDatasetError", {
  doing: Schema.String,
  got: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
  static of(doing: string, got: string): EmptyDatasetError {
    return new EmptyDatasetError({
      doing,
      got,
      message: `Nothing to ${doing}: got ${got}. Check the output of the previous stage, or raise the sequence length.`
    })
  }
}
