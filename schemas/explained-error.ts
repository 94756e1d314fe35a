/** Errors that say what was being done, what was expected, what was found, and what to do about it. */
import * as Schema from "effect/Schema"

export interface Explanation {
  readonly doing: string
  readonly expected: string
  readonly found: string
  /** What to do, as a sentence. */
  readonly hint: string
}

const fields = {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  hint: Schema.String,
  message: Schema.String
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
