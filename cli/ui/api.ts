/** The API between the page and its server. The page imports only the types. */
import * as Schema from "effect/Schema"
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiMiddleware, HttpApiSchema } from "effect/http-api"

// ---- errors ----------------------------------------------------------------------------------------------------------------------------

/** Each message says what was being done, what was found, and what to do. */
const message = { message: Schema.String }
/** The request can't be answered as asked (400). */
export class BadRequest extends Schema.TaggedError<BadRequest>()("BadRequest", message, { httpApiStatus: 400 }) {}
/** The page may not do this: it was started without control, or the token is wrong (403). */
export class Forbidden extends Schema.TaggedError<Forbidden>()("Forbidden", message, { httpApiStatus: 403 }) {}
/** The run, node or result does not exist, or not any more (404). */
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", message, { httpApiStatus: 404 }) {}
/** Someone else changed the same thing in the meantime (409). */
export class Conflict extends Schema.TaggedError<Conflict>()("Conflict", message, { httpApiStatus: 409 }) {}
/** The store or the journal failed. */
export class Broken extends Schema.TaggedError<Broken>()("Broken", message, { httpApiStatus: 500 }) {}
const error = [BadRequest, NotFound, Broken]

// ---- parts -----------------------------------------------------------------------------------------------------------------------------

const list = <S extends Schema.Constraint>(of: S) => Schema.Array(of)
const RunId = Schema.String.check(Schema.isPattern(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/))
const Digest = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))
const Count = Schema.FiniteFromString.check(Schema.isInt(), Schema.isBetween({ minimum: 0, maximum: 1e12 }))
/** JSON has no NaN or infinity, so they are strings. */
const AnyNumber = Schema.Union([Schema.Finite, Schema.String])
const Metrics = Schema.Record(Schema.String, AnyNumber)

const Changed = Schema.Struct({ what: Schema.String, before: Schema.Unknown, after: Schema.Unknown })

export const RunLine = Schema.Struct({
  id: Schema.String,
  pipeline: Schema.String,
  /** running, succeeded, failed, interrupted, killed. */
  status: Schema.String,
  started: Schema.Finite,
  finished: Schema.NullOr(Schema.Finite),
  counts: Schema.Record(Schema.String, Schema.Finite),
  /** Number of nodes in its graph; null if unknown. */
  total: Schema.NullOr(Schema.Finite),
  /** Options that differ from the pipeline's previous run; null for the first run. */
  changes: Schema.NullOr(list(Changed)),
  tags: list(Schema.String),
  note: Schema.String
})
export type RunLine = typeof RunLine.Type

const NodeState = Schema.Struct({
  id: Schema.String,
  /** waiting, running, ran, hit, failed, skipped, stopped. */
  state: Schema.String,
  milliseconds: Schema.NullOr(Schema.Finite),
  started: Schema.NullOr(Schema.Finite),
  /** The last numbers that it reported. */
  progress: Schema.NullOr(Metrics),
  /** Estimated remaining milliseconds at the average pace so far. */
  left: Schema.NullOr(Schema.Finite),
  error: Schema.NullOr(Schema.String)
})
export type NodeState = typeof NodeState.Type

const GraphNode = Schema.Struct({
  id: Schema.String,
  stage: Schema.NullOr(Schema.String),
  type: Schema.String,
  inputs: list(Schema.String)
})
export type GraphNode = typeof GraphNode.Type

const RunState = Schema.Struct({
  status: Schema.String,
  finished: Schema.NullOr(Schema.Finite),
  /** Estimated remaining milliseconds from earlier durations of its nodes; null if most are unknown. */
  left: Schema.NullOr(Schema.Finite),
  nodes: list(NodeState)
})
export type RunState = typeof RunState.Type

export const RunView = Schema.Struct({
  ...RunLine.fields,
  asked: Schema.Record(Schema.String, Schema.Unknown),
  selection: Schema.Record(Schema.String, Schema.Unknown),
  outputs: Schema.Record(Schema.String, Schema.String),
  /** The pipeline's previous run. */
  previous: Schema.NullOr(Schema.String),
  /** Whether its graph was recorded; otherwise it is reconstructed from its executions. */
  isWhole: Schema.Boolean,
  graph: list(GraphNode),
  state: RunState,
  /** Why it can't be resumed from the page; null if it can. */
  resume: Schema.NullOr(Schema.String)
})
export type RunView = typeof RunView.Type

const Wire = Schema.Struct({
  port: Schema.String,
  /** The node's name, or the file's. */
  name: Schema.String,
  node: Schema.NullOr(Schema.String),
  digest: Schema.NullOr(Schema.String),
  type: Schema.NullOr(Schema.String)
})
const ConfigField = Schema.Struct({
  name: Schema.String,
  value: Schema.Unknown,
  default: Schema.Unknown,
  differs: Schema.Boolean,
  description: Schema.String
})

export const NodeView = Schema.Struct({
  run: Schema.String,
  id: Schema.String,
  stage: Schema.NullOr(Schema.String),
  description: Schema.String,
  type: Schema.NullOr(Schema.String),
  state: NodeState,
  why: list(Schema.String),
  retries: list(Schema.String),
  config: list(ConfigField),
  seed: Schema.NullOr(Schema.Finite),
  key: Schema.NullOr(Schema.String),
  numerics: Schema.Record(Schema.String, Schema.String),
  inputs: list(Wire),
  usedBy: list(Schema.String),
  output: Schema.NullOr(
    Schema.Struct({
      digest: Schema.String,
      type: Schema.String,
      metrics: Metrics,
      isThere: Schema.Boolean,
      path: Schema.String,
      bytes: Schema.NullOr(Schema.Finite),
      files: list(Schema.Struct({ name: Schema.String, bytes: Schema.Finite })),
      pinned: Schema.NullOr(Schema.String),
      skipped: list(Schema.String)
    })
  ),
  /** The run that made its result, if this run reused it. */
  madeBy: Schema.NullOr(Schema.String),
  code: list(Schema.String),
  hasLog: Schema.Boolean,
  report: Schema.Unknown
})
export type NodeView = typeof NodeView.Type

export const LogPart = Schema.Struct({
  lines: list(Schema.Struct({ time: Schema.String, text: Schema.String })),
  /** Bytes omitted before these lines. */
  omitted: Schema.Finite,
  next: Schema.Finite
})
export type LogPart = typeof LogPart.Type

const CurveLine = Schema.Struct({ node: Schema.String, stage: Schema.NullOr(Schema.String), source: Schema.String })
export type CurveLine = typeof CurveLine.Type

const Hello = Schema.Struct({ type: Schema.Literal("hello"), server: Schema.String, version: Schema.String })
const Runs = Schema.Struct({ type: Schema.Literal("runs") })
const Nodes = Schema.Struct({ type: Schema.Literal("run"), ...RunState.fields })
const Alive = Schema.Struct({ type: Schema.Literal("alive") })
const Trouble = Schema.Struct({ type: Schema.Literal("trouble"), message: Schema.String })
export const LiveEvent = Schema.Union([Hello, Runs, Nodes, Alive, Trouble])
export type LiveEvent = typeof LiveEvent.Type

export const About = Schema.Struct({ version: Schema.String, home: Schema.String, control: Schema.Boolean, server: Schema.String })
export type About = typeof About.Type

/** Results that a run has made or reused, by node. */
export const ResultLine = Schema.Struct({
  node: Schema.String,
  stage: Schema.String,
  type: Schema.String,
  digest: Schema.String,
  isThere: Schema.Boolean
})
export type ResultLine = typeof ResultLine.Type

const AnyRow = Schema.Record(Schema.String, Schema.Unknown)
export const RowsPart = Schema.Struct({
  type: Schema.String,
  name: Schema.String,
  total: Schema.Finite,
  rows: list(Schema.Struct({ index: Schema.Finite, row: AnyRow })),
  /** The row to continue from; null at the end. */
  next: Schema.NullOr(Schema.Finite)
})
export type RowsPart = typeof RowsPart.Type

const Message = Schema.Struct({ role: Schema.String, content: Schema.String })
const OneAnswer = Schema.Struct({
  row: Schema.Finite,
  text: Schema.String,
  reward: Schema.NullOr(AnyNumber),
  helpfulness: Schema.NullOr(AnyNumber),
  safety: Schema.NullOr(AnyNumber),
  finished: Schema.Boolean,
  /** null: not a refusal. */
  refusal: Schema.NullOr(Schema.String)
})
export type OneAnswer = typeof OneAnswer.Type
export const AnswersPart = Schema.Struct({
  /** Number of rows read per set; fewer than its total if it is too large to compare completely. */
  read: list(Schema.Struct({ digest: Schema.String, rows: Schema.Finite, total: Schema.Finite })),
  categories: list(Schema.String),
  total: Schema.Finite,
  prompts: list(
    Schema.Struct({
      id: Schema.String,
      sample: Schema.Finite,
      prompt: list(Message),
      isSafety: Schema.Boolean,
      category: Schema.NullOr(Schema.String),
      /** In the order of the requested sets; null if a set has no answer. */
      answers: list(Schema.NullOr(OneAnswer))
    })
  )
})
export type AnswersPart = typeof AnswersPart.Type

export const TokensView = Schema.Struct({
  tokens: list(
    Schema.Struct({
      text: Schema.String,
      /** Whether it contributes to the loss. */
      trained: Schema.Boolean,
      /** Natural logarithm of its probability given the preceding tokens. */
      logProbability: Schema.NullOr(AnyNumber),
      reference: Schema.NullOr(AnyNumber)
    })
  ),
  /** What can't be shown, and why. */
  note: Schema.String
})
export type TokensView = typeof TokensView.Type

/** The differences between two runs, node by node; `kind` is the category: config, code, inputs, metrics and so on. */
export const Comparison = Schema.Struct({
  before: RunLine,
  after: RunLine,
  asked: list(Changed),
  nodes: list(
    Schema.Struct({
      node: Schema.String,
      only: Schema.NullOr(Schema.String),
      changes: list(Schema.Struct({ kind: Schema.String, ...Changed.fields })),
      /** Changes in its report. */
      report: list(Schema.String)
    })
  ),
  same: Schema.Finite,
  /** Figures that both runs' reports have. */
  figures: list(
    Schema.Struct({ node: Schema.String, before: Schema.String, after: Schema.String, count: Schema.Finite, titles: list(Schema.String) })
  )
})
export type Comparison = typeof Comparison.Type

const Value = Schema.Union([Schema.Finite, Schema.String, Schema.Boolean])
/** Runs in a table: the options that differ, and each run's metrics. */
export const RunTable = Schema.Struct({
  runs: list(
    Schema.Struct({ line: RunLine, asked: Schema.Record(Schema.String, Schema.Unknown), measures: Schema.Record(Schema.String, Value) })
  ),
  asked: list(Schema.String),
  /** Differing metrics first. */
  measures: list(Schema.Struct({ name: Schema.String, differs: Schema.Boolean })),
  /** Nodes with a curve in every run. */
  curves: list(Schema.String)
})
export type RunTable = typeof RunTable.Type

const Named = Schema.Struct({ kind: Schema.String, digest: Schema.NullOr(Schema.String), type: Schema.String, name: Schema.String })
const LineageEntry = Schema.Struct({ ...Named.fields, depth: Schema.Finite, port: Schema.String, isRepeated: Schema.Boolean })
export const Lineage = Schema.Struct({
  artifact: Named,
  isThere: Schema.Boolean,
  made: list(
    Schema.Struct({
      run: Schema.String,
      pipeline: Schema.String,
      node: Schema.String,
      stage: Schema.String,
      at: Schema.Finite,
      milliseconds: Schema.Finite,
      config: Schema.Record(Schema.String, Schema.Unknown),
      code: list(Schema.String)
    })
  ),
  /** Depth first; each entry's neighbours are listed once. */
  from: list(LineageEntry),
  into: list(LineageEntry)
})
export type Lineage = typeof Lineage.Type

export const LockState = Schema.Struct({
  /** none, same, differs, unreadable. */
  state: Schema.String,
  path: Schema.String,
  message: Schema.String,
  differences: list(Schema.Struct({ node: Schema.String, ...Changed.fields }))
})
export type LockState = typeof LockState.Type

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

// ---- the API ---------------------------------------------------------------------------------------------------------------------------

const node = { run: RunId, node: Schema.String }

class Looking extends HttpApiGroup.make("looking", { topLevel: true }).add(
  HttpApiEndpoint.get("about", "/api/about", { success: About }),
  HttpApiEndpoint.get("runs", "/api/runs", {
    query: { search: Schema.optional(Schema.String), from: Schema.optional(Count), limit: Schema.optional(Count) },
    success: Schema.Struct({ runs: list(RunLine), total: Schema.Finite }),
    error
  }),
  HttpApiEndpoint.get("run", "/api/run", { query: { run: RunId }, success: RunView, error }),
  HttpApiEndpoint.get("node", "/api/node", { query: node, success: NodeView, error }),
  HttpApiEndpoint.get("log", "/api/log", { query: { ...node, from: Schema.optional(Count) }, success: LogPart, error }),
  HttpApiEndpoint.get("curves", "/api/curves", { query: { run: RunId }, success: list(CurveLine), error }),
  /** Columns of float64 after a header (curve.ts). */
  HttpApiEndpoint.get("curve", "/api/curve", {
    query: { ...node, from: Schema.optional(Count) },
    success: HttpApiSchema.StreamUint8Array(),
    error
  }),
  HttpApiEndpoint.get("watch", "/api/watch", {
    query: { run: Schema.optional(RunId) },
    success: HttpApiSchema.StreamSse({ data: LiveEvent }),
    error
  })
) {}

class Reading extends HttpApiGroup.make("reading", { topLevel: true }).add(
  HttpApiEndpoint.get("results", "/api/results", { query: { run: RunId }, success: list(ResultLine), error }),
  HttpApiEndpoint.get("rows", "/api/rows", {
    query: { digest: Digest, from: Schema.optional(Count), limit: Schema.optional(Count), search: Schema.optional(Schema.String) },
    success: RowsPart,
    error
  }),
  HttpApiEndpoint.get("answers", "/api/answers", {
    query: {
      run: RunId,
      /** Digests of completions, separated by commas. */
      sets: Schema.String,
      search: Schema.optional(Schema.String),
      category: Schema.optional(Schema.String),
      /** "refused": at least one answer to the prompt is a refusal; "answered": none is; "differing": some are. */
      refusal: Schema.optional(Schema.Literals(["refused", "answered", "differing"])),
      from: Schema.optional(Count),
      limit: Schema.optional(Count)
    },
    success: AnswersPart,
    error
  }),
  HttpApiEndpoint.get("tokens", "/api/tokens", {
    query: {
      digest: Digest,
      row: Count,
      /** A checkpoint or a tokenizer. */
      model: Digest,
      /** Whether to compute the model's log-probabilities, and with which reference model. */
      score: Schema.optional(Schema.Literals(["yes"])),
      reference: Schema.optional(Digest),
      /** For a pair: which of its answers. */
      side: Schema.optional(Schema.Literals(["chosen", "rejected", "responseA", "responseB"]))
    },
    success: TokensView,
    error
  })
) {}

class Comparing extends HttpApiGroup.make("comparing", { topLevel: true }).add(
  HttpApiEndpoint.get("compare", "/api/compare", { query: { before: RunId, after: RunId }, success: Comparison, error }),
  /** Run ids, separated by commas. */
  HttpApiEndpoint.get("table", "/api/table", { query: { runs: Schema.String }, success: RunTable, error }),
  HttpApiEndpoint.get("lineage", "/api/lineage", { query: { digest: Digest }, success: Lineage, error }),
  HttpApiEndpoint.get("lock", "/api/lock", { query: { run: RunId }, success: LockState, error }),
  /** A report's figure, as an SVG that is only displayed as an image. */
  HttpApiEndpoint.get("figure", "/api/figure", {
    query: { digest: Digest, index: Count },
    success: HttpApiSchema.StreamUint8Array({ contentType: "image/svg+xml" }),
    error
  })
) {}

/** The token of `--allow-control`; required by these endpoints. */
const headers = { "x-caravan-token": Schema.optional(Schema.String) }
const refusals = [BadRequest, Conflict, Forbidden, NotFound, Broken]
class Doing extends HttpApiGroup.make("doing", { topLevel: true }).add(
  HttpApiEndpoint.post("stop", "/api/stop", { headers, payload: Schema.Struct({ run: RunId }), success: Done, error: refusals }),
  HttpApiEndpoint.post("begin", "/api/begin", {
    headers,
    /** With a node: rerun that node and its dependents. */
    payload: Schema.Struct({ run: RunId, node: Schema.optionalKey(text(1000)) }),
    success: Begun,
    error: refusals
  }),
  HttpApiEndpoint.post("pin", "/api/pin", {
    headers,
    payload: Schema.Struct({ digest: Digest, isPinned: Schema.Boolean, note: text(1000) }),
    success: Done,
    error: refusals
  }),
  HttpApiEndpoint.post("note", "/api/note", {
    headers,
    payload: Schema.Struct({ run: RunId, note: text(4000), tags: list(text(40)).check(Schema.isMaxLength(20)) }),
    success: Done,
    error: refusals
  }),
  HttpApiEndpoint.get("tasks", "/api/tasks", { headers, success: list(LabelTask), error: refusals }),
  HttpApiEndpoint.get("labelling", "/api/labelling", {
    headers,
    query: { task: Schema.String, annotator: Annotator, at: Schema.optional(Count) },
    success: LabelView,
    error: refusals
  }),
  HttpApiEndpoint.post("label", "/api/label", {
    headers,
    payload: Schema.Struct({ task: Schema.String, annotator: Annotator, pair: text(1000), ...choice, revision: Schema.Finite }),
    success: Schema.Struct({ revision: Schema.Finite, done: Schema.Finite }),
    error: refusals
  }),
  HttpApiEndpoint.post("finish", "/api/finish", {
    headers,
    payload: Schema.Struct({ task: Schema.String, annotators: list(Annotator) }),
    success: Schema.Struct({ file: Schema.String, labels: Schema.Finite, message: Schema.String }),
    error: refusals
  })
) {}

/** Describes what is wrong with a request. */
export class Unfit extends HttpApiMiddleware.Service<Unfit>()("caravan/ui/Unfit", { error: BadRequest }) {}

export class Api extends HttpApi.make("caravan").add(Looking).add(Reading).add(Comparing).add(Doing).middleware(Unfit) {}

export { AnyNumber, Count, Digest, list, Metrics, RunId }
