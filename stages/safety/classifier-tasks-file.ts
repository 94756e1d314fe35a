/** The tasks that a safety classifier was trained for, in a file beside the model. */
import * as Schema from "effect/Schema"

/** The classifier is given what is not its own: other examples, another task. */
export class ClassifierError extends Schema.TaggedError<ClassifierError>()("ClassifierError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  hint: Schema.String,
  message: Schema.String
}) {
  static of(fields: { readonly doing: string; readonly expected: string; readonly found: string; readonly hint: string }) {
    return new ClassifierError({
      ...fields,
      message: `${fields.doing}: expected ${fields.expected}, found ${fields.found}. ${fields.hint}`
    })
  }
}

export const tasksFile = "safety-tasks.json"
export const TasksFile = Schema.Struct({ format: Schema.Literal(1), tasks: Schema.Array(Schema.String) })
