/** The tasks that a safety classifier was trained for, stored in a file with the model. */
import * as Schema from "effect/Schema"
import { ExplainedError } from "../../schemas/explained-error.ts"

/** Input that does not match the classifier: other examples, or another task. */
export class ClassifierError extends ExplainedError<ClassifierError>()("ClassifierError") {}

export const tasksFile = "safety-tasks.json"
export const TasksFile = Schema.Struct({ format: Schema.Literal(1), tasks: Schema.Array(Schema.String) })
