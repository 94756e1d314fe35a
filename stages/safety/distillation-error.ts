import * as Effect from "effect/Effect"
import { ExplainedError } from "../../schemas/explained-error.ts"

/** Preprompts that cannot be built, or datasets that do not belong together. */
export class DistillationError extends ExplainedError<DistillationError>()("DistillationError") {}

/** Runs a function that may throw a DistillationError. */
export const attempt = <A>(body: () => A): Effect.Effect<A, DistillationError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(body())
    } catch (cause) {
      if (cause instanceof DistillationError) return Effect.fail(cause)
      throw cause
    }
  })
