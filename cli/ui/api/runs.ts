/** Runs and their nodes, as they happen: state, graph, config, log and curves. */
import * as Schema from "effect/Schema"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { readErrors as error } from "./errors.ts"
import { AnyNumber, Changed, Count, list, Metrics, RunId } from "./values.ts"

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

const node = { run: RunId, node: Schema.String }

export class Looking extends HttpApiGroup.make("looking", { topLevel: true }).add(
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
