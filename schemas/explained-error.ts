/** Errors that say what was being done, what was expected, what was found, and what to do about it. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

export interface Explanation {
  readonly doing: string
  readonly expected: string
  readonly found: string
  /** What to do, as a sentence. */
  readonly hint: string
  /** Whether trying again may help; false unless given. */
  readonly isRetryable?: boolean
}

/**
 * The field by which an error says whether trying again may help (as Effect's own errors do): a stage that fails with one is tried again if retries were
 * asked for. False unless given. An error that is never worth another try has `readonly isRetryable = false` in its class instead.
 */
export const isRetryable = Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false)))

/** Whether the system refused something that it may grant a moment later: too many open files, no memory for it now, a connection that was cut. */
export const isPassing = (cause: unknown): boolean =>
  ["EAGAIN", "EBUSY", "ECONNREFUSED", "ECONNRESET", "EINTR", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT"].includes(
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

/** The base of a tagged error class; `of` makes an error from its explanation. */
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
