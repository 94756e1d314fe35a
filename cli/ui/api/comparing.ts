/** Two or more runs compared; the lineage of a result; the lock file. */
import * as Schema from "effect/Schema"
import { HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { readErrors as error } from "./errors.ts"
import { RunLine } from "./runs.ts"
import { Changed, Count, Digest, list, RunId } from "./values.ts"

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

export class Comparing extends HttpApiGroup.make("comparing", { topLevel: true }).add(
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
