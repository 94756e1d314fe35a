import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** Preprompts that can't be made, or datasets that do not belong together. */
export class DistillationError extends Schema.TaggedError<DistillationError>()("DistillationError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  hint: Schema.String,
  message: Schema.String
}) {
  static of(fields: { readonly doing: string; readonly expected: string; readonly found: string; readonly hint: string }) {
    return new DistillationError({
      ...fields,
      message: `${fields.doing}: expected ${fields.expected}, found ${fields.found}. ${fields.hint}`
    })
  }
}

/** Runs what may throw a DistillationError. */
export const attempt = <A>(body: () => A): Effect.Effect<A, DistillationError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(body())
    } catch (cause) {
      if (cause instanceof DistillationError) return Effect.fail(cause)
      throw cause
    }
  })
