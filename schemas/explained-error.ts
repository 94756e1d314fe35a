/** Errors that state what was being done, what was expected, what was found, and what to do about it. */
import { inspect } from "node:util"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

export interface Explanation {
  readonly doing: string
  readonly expected: string
  readonly found: string
  /** What to do, as a sentence. */
  readonly hint: string
  /** Whether a retry may succeed; false by default. */
  readonly isRetryable?: boolean
}

/**
 * The field that says whether a retry may succeed (as in Effect's own errors): a stage that fails with such an error is retried if retries were
 * requested. False by default. An error that is never worth retrying has `readonly isRetryable = false` in its class instead.
 */
export const isRetryable = Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))

/** Whether a system error may go away on its own: too many open files, not enough memory right now, a dropped connection, a stale network file handle. */
export const isTransient = (cause: unknown): boolean =>
  ["EAGAIN", "EBUSY", "ECONNREFUSED", "ECONNRESET", "EINTR", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT"].includes(
    (cause as NodeJS.ErrnoException | null | undefined)?.code ?? ""
  )

const fields = {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  hint: Schema.String,
  message: Schema.String,
  isRetryable
}

/** The base class of a tagged error; `of` builds an error from its explanation. */
export const ExplainedError =
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the class names itself, as for Schema.TaggedError
  <Self>() =>
    // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the tag is the class's, by which Effect.catchTag finds it
    <const Tag extends string>(tag: Tag) =>
      Object.assign(Schema.TaggedError<Self>()(tag, fields), {
        of<E>(this: new (made: Explanation & { readonly message: string }) => E, explanation: Explanation): E {
          const { doing, expected, found, hint } = explanation
          return new this({ ...explanation, message: `${doing}: expected ${expected}, found ${found}. ${hint}` })
        }
      })

/** The message of a thrown value, or its content if it has no message. */
export const messageOf = (cause: unknown): string => {
  if (typeof cause !== "object" || cause === null) return String(cause)
  const { message } = cause as { readonly message?: unknown }
  if (typeof message === "string" && message !== "") return message
  const content = inspect({ ...cause }, { breakLength: Infinity, depth: 2 })
  return cause instanceof Error ? `${cause.name} ${content}` : content
}
