/** What the page and its server say to one another. The page imports the types alone. */
import * as Schema from "effect/Schema"
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiMiddleware, HttpApiSchema } from "effect/http-api"

// ---- errors ----------------------------------------------------------------------------------------------------------------------------

/** Each with what was being done, what was found, and what to do. */
const message = { message: Schema.String }
export class BadRequest extends Schema.TaggedError<BadRequest>()("BadRequest", message, { httpApiStatus: 400 }) {}
export class Forbidden extends Schema.TaggedError<Forbidden>()("Forbidden", message, { httpApiStatus: 403 }) {}
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", message, { httpApiStatus: 404 }) {}
export class Conflict extends Schema.TaggedError<Conflict>()("Conflict", message, { httpApiStatus: 409 }) {}
/** The store or the journal can't do its work. */
export class Broken extends Schema.TaggedError<Broken>()("Broken", message, { httpApiStatus: 500 }) {}
const error = [BadRequest, NotFound, Broken]

// ---- parts -----------------------------------------------------------------------------------------------------------------------------

const list = <S extends Schema.Constraint>(of: S) => Schema.Array(of)
const RunId = Schema.String.check(Schema.isPattern(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/))
const Digest = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))
const Count = Schema.FiniteFromString.check(Schema.isInt(), Schema.isBetween({ minimum: 0, maximum: 1e12 }))
/** JSON has no NaN and no infinity: they are texts. */
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
  /** Of its graph; null where that is not known. */
  total: Schema.NullOr(Schema.Finite),
  /** What it was asked for that the run of its pipeline before it was not; null of the first. */
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
  /** Milliseconds to its end at the pace so far. */
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
  /** Milliseconds to its end, by what its nodes took before; null where that is not known of most. */
  left: Schema.NullOr(Schema.Finite),
  nodes: list(NodeState)
})
export type RunState = typeof RunState.Type

export const RunView = Schema.Struct({
  ...RunLine.fields,
  asked: Schema.Record(Schema.String, Schema.Unknown),
  selection: Schema.Record(Schema.String, Schema.Unknown),
  outputs: Schema.Record(Schema.String, Schema.String),
  /** The run of its pipeline before it. */
  previous: Schema.NullOr(Schema.String),
  /** Whether its graph was recorded; else it is what its executions tell of it. */
  isWhole: Schema.Boolean,
  graph: list(GraphNode),
  state: RunState,
  /** Why it can't be begun again from here; null where it can. */
  resume: Schema.NullOr(Schema.String)
})
export type RunView = typeof RunView.Type

const Wire = Schema.Struct({
  port: Schema.String,
  /** The node's, or the file's. */
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
  /** Where its result was made, if this run found it. */
  madeBy: Schema.NullOr(Schema.String),
  code: list(Schema.String),
  hasLog: Schema.Boolean,
  report: Schema.Unknown
})
export type NodeView = typeof NodeView.Type

export const LogPart = Schema.Struct({
  lines: list(Schema.Struct({ time: Schema.String, text: Schema.String })),
  /** Bytes that were left out before these lines. */
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

/** What a run has made or found, by node. */
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
  /** The row to go on from; null at the end. */
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
  /** null: it is none. */
  refusal: Schema.NullOr(Schema.String)
})
export type OneAnswer = typeof OneAnswer.Type
export const AnswersPart = Schema.Struct({
  /** Rows that were read of each set; less than it has where it is too large to be compared whole. */
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
      /** In the order of the sets that were asked for; null: it has none. */
      answers: list(Schema.NullOr(OneAnswer))
    })
  )
})
export type AnswersPart = typeof AnswersPart.Type

export const TokensView = Schema.Struct({
  tokens: list(
    Schema.Struct({
      text: Schema.String,
      /** Whether it carries loss. */
      trained: Schema.Boolean,
      /** Natural logarithm of its probability after those before it. */
      logProbability: Schema.NullOr(AnyNumber),
      reference: Schema.NullOr(AnyNumber)
    })
  ),
  /** What can't be shown, and why. */
  note: Schema.String
})
export type TokensView = typeof TokensView.Type

/** How two runs differ, node by node; `kind` says in what: config, code, inputs, metrics and so on. */
export const Comparison = Schema.Struct({
  before: RunLine,
  after: RunLine,
  asked: list(Changed),
  nodes: list(
    Schema.Struct({
      node: Schema.String,
      only: Schema.NullOr(Schema.String),
      changes: list(Schema.Struct({ kind: Schema.String, ...Changed.fields })),
      /** What changed in its report. */
      report: list(Schema.String)
    })
  ),
  same: Schema.Finite,
  /** Figures of reports that both have. */
  figures: list(
    Schema.Struct({ node: Schema.String, before: Schema.String, after: Schema.String, count: Schema.Finite, titles: list(Schema.String) })
  )
})
export type Comparison = typeof Comparison.Type

const Value = Schema.Union([Schema.Finite, Schema.String, Schema.Boolean])
/** Runs in a table: what was asked of each that was not of all, and what each measured. */
export const RunTable = Schema.Struct({
  runs: list(
    Schema.Struct({ line: RunLine, asked: Schema.Record(Schema.String, Schema.Unknown), measures: Schema.Record(Schema.String, Value) })
  ),
  asked: list(Schema.String),
  /** Those that differ first. */
  measures: list(Schema.Struct({ name: Schema.String, differs: Schema.Boolean })),
  /** Nodes with a curve in each of the runs. */
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
  /** Depth first, each thing's own neighbours once. */
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

/** Pairs that a run waits to be labelled. */
export const LabelTask = Schema.Struct({
  id: Schema.String,
  run: Schema.String,
  pipeline: Schema.String,
  node: Schema.String,
  /** helpfulness or safety. */
  kind: Schema.String,
  labelsFile: Schema.String,
  /** What to do with the file of labels, in the words of the pipeline. */
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
/** Becomes part of a file's name. */
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
  /** Columns of float64 behind a header (curve.ts). */
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
      /** "refused": an answer of the prompt is a refusal; "answered": none is; "differing": some are. */
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
      /** Whether the model is asked for its log-probabilities, and which other one. */
      score: Schema.optional(Schema.Literals(["yes"])),
      reference: Schema.optional(Digest),
      /** Of a pair: which of its answers. */
      side: Schema.optional(Schema.Literals(["chosen", "rejected", "responseA", "responseB"]))
    },
    success: TokensView,
    error
  })
) {}

class Comparing extends HttpApiGroup.make("comparing", { topLevel: true }).add(
  HttpApiEndpoint.get("compare", "/api/compare", { query: { before: RunId, after: RunId }, success: Comparison, error }),
  /** Ids of runs, separated by commas. */
  HttpApiEndpoint.get("table", "/api/table", { query: { runs: Schema.String }, success: RunTable, error }),
  HttpApiEndpoint.get("lineage", "/api/lineage", { query: { digest: Digest }, success: Lineage, error }),
  HttpApiEndpoint.get("lock", "/api/lock", { query: { run: RunId }, success: LockState, error }),
  /** A figure of a report, as SVG that is shown as a picture alone. */
  HttpApiEndpoint.get("figure", "/api/figure", {
    query: { digest: Digest, index: Count },
    success: HttpApiSchema.StreamUint8Array({ contentType: "image/svg+xml" }),
    error
  })
) {}

/** The token of `--allow-control`: without it these are refused. */
const headers = { "x-caravan-token": Schema.optional(Schema.String) }
const refusals = [BadRequest, Conflict, Forbidden, NotFound, Broken]
class Doing extends HttpApiGroup.make("doing", { topLevel: true }).add(
  HttpApiEndpoint.post("stop", "/api/stop", { headers, payload: Schema.Struct({ run: RunId }), success: Done, error: refusals }),
  HttpApiEndpoint.post("begin", "/api/begin", {
    headers,
    /** With a node: that one again, and what depends on it. */
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

/** Says in words what of a request does not fit. */
export class Unfit extends HttpApiMiddleware.Service<Unfit>()("caravan/ui/Unfit", { error: BadRequest }) {}

export class Api extends HttpApi.make("caravan").add(Looking).add(Reading).add(Comparing).add(Doing).middleware(Unfit) {}

export { AnyNumber, Count, Digest, list, Metrics, RunId }
