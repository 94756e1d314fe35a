/** What the page may change, with the token of `--allow-control`: runs, pins, notes and labels. */
import * as Schema from "effect/Schema"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { controlErrors as error } from "./errors.ts"
import { Count, Digest, list, Message, RunId } from "./values.ts"

/** Pairs that a run needs labels for. */
export const LabelTask = Schema.Struct({
  id: Schema.String,
  run: Schema.String,
  pipeline: Schema.String,
  node: Schema.String,
  /** helpfulness or safety. */
  kind: Schema.String,
  labelsFile: Schema.String,
  /** What to do with the label file, in the pipeline's words. */
  hint: Schema.String,
  pairs: Schema.Finite,
  annotators: list(Schema.Struct({ name: Schema.String, done: Schema.Finite }))
})
export type LabelTask = typeof LabelTask.Type

const choice = {
  choice: Schema.Literals(["A", "B"]),
  rating: Schema.Finite.check(Schema.isInt(), Schema.isBetween({ minimum: 0, maximum: 3 })),
  safeA: Schema.NullOr(Schema.Boolean),
  safeB: Schema.NullOr(Schema.Boolean)
}
export const LabelView = Schema.Struct({
  task: LabelTask,
  done: Schema.Finite,
  index: Schema.Finite,
  /** The next pair that this annotator has not labelled. */
  next: Schema.NullOr(Schema.Finite),
  pair: Schema.NullOr(
    Schema.Struct({
      id: Schema.String,
      prompt: list(Message),
      responseA: Schema.String,
      responseB: Schema.String,
      category: Schema.NullOr(Schema.String)
    })
  ),
  label: Schema.NullOr(Schema.Struct({ ...choice, revision: Schema.Finite }))
})
export type LabelView = typeof LabelView.Type

const Done = Schema.Struct({ message: Schema.String })
export const Begun = Schema.Struct({ run: Schema.NullOr(Schema.String), message: Schema.String })
export type Begun = typeof Begun.Type
/** Becomes part of a file name. */
const Annotator = Schema.String.check(Schema.isPattern(/^[\w-]{1,32}$/))
const text = (most: number) => Schema.String.check(Schema.isMaxLength(most))

/** The token of `--allow-control`; required by these endpoints. */
const headers = { "x-caravan-token": Schema.optional(Schema.String) }
export class Doing extends HttpApiGroup.make("doing", { topLevel: true }).add(
  HttpApiEndpoint.post("stop", "/api/stop", { headers, payload: Schema.Struct({ run: RunId }), success: Done, error }),
  HttpApiEndpoint.post("begin", "/api/begin", {
    headers,
    /** With a node: rerun that node and its dependents. */
    payload: Schema.Struct({ run: RunId, node: Schema.optionalKey(text(1000)) }),
    success: Begun,
    error
  }),
  HttpApiEndpoint.post("pin", "/api/pin", {
    headers,
    payload: Schema.Struct({ digest: Digest, isPinned: Schema.Boolean, note: text(1000) }),
    success: Done,
    error
  }),
  HttpApiEndpoint.post("note", "/api/note", {
    headers,
    payload: Schema.Struct({ run: RunId, note: text(4000), tags: list(text(40)).check(Schema.isMaxLength(20)) }),
    success: Done,
    error
  }),
  HttpApiEndpoint.get("tasks", "/api/tasks", { headers, success: list(LabelTask), error }),
  HttpApiEndpoint.get("labelling", "/api/labelling", {
    headers,
    query: { task: Schema.String, annotator: Annotator, at: Schema.optional(Count) },
    success: LabelView,
    error
  }),
  HttpApiEndpoint.post("label", "/api/label", {
    headers,
    payload: Schema.Struct({ task: Schema.String, annotator: Annotator, pair: text(1000), ...choice, revision: Schema.Finite }),
    success: Schema.Struct({ revision: Schema.Finite, done: Schema.Finite }),
    error
  }),
  HttpApiEndpoint.post("finish", "/api/finish", {
    headers,
    payload: Schema.Struct({ task: Schema.String, annotators: list(Annotator) }),
    success: Schema.Struct({ file: Schema.String, labels: Schema.Finite, message: Schema.String }),
    error
  })
) {}
