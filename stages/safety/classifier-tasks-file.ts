/** The tasks that a safety classifier was trained for, in a file beside the model. */
import * as Schema from "effect/Schema"
import { ExplainedError } from "../../schemas/explained-error.ts"

/** The classifier is given what is not its own: other examples, another task. */
export class ClassifierError extends ExplainedError<ClassifierError>()("ClassifierError") {}

export const tasksFile = "safety-tasks.json"
export const TasksFile = Schema.Struct({ format: Schema.Literal(1), tasks: Schema.Array(Schema.String) })
