/** Dataset types. */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { DatasetType } from "./artifact.ts"

/** A dataset type for rows of one schema, stored as an Arrow IPC file `data.arrow`. The name includes a version: increase it when the schema changes its meaning. */
export const dataset = <Row>(row: Schema.Codec<Row, any>, name: string): DatasetType<Row> => {
  const full = `dataset:${name}`
  // The Arrow library is loaded when a dataset is read or written, not when a pipeline is defined.
  const type: DatasetType<Row> = {
    kind: "dataset",
    name: full,
    accepts: (other) => other === full,
    row,
    validate: (directory) =>
      Effect.flatMap(
        Effect.promise(() => import("./dataset-file.ts")),
        (file) => file.validateDataset(directory, type)
      ),
    contentDigest: (directory) =>
      Effect.flatMap(
        Effect.promise(() => import("./dataset-digest.ts")),
        (file) => file.datasetDigest(directory, type)
      )
  }
  return type
}
