import * as Schema from "effect/Schema"

/** A stage was given nothing to work on. */
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
      message: `Nothing to ${doing}: got ${got}. Look at the stage before this one, or raise the sequence length.`
    })
  }
}
