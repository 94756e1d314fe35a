/** Datasets in memory: rows to the bytes of an Arrow IPC file and back. Only for bytes that Caravan wrote and has checked; files use dataset-file.ts. */
import * as arrow from "apache-arrow"
import { arrowSchema, columnsOf } from "./arrow.ts"
import { BatchBuilder, toRows } from "./arrow-rows.ts"
import type { DatasetType } from "./artifact.ts"

export interface DatasetBytes<Row> {
  /** An Arrow IPC file with these rows in one record batch. Equal rows give equal bytes. Throws RangeError for a value that does not fit its column. */
  readonly encode: (rows: ReadonlyArray<Row>) => Uint8Array
  /** The rows of a file of this type, with any number of batches. */
  readonly decode: (bytes: Uint8Array) => Array<Row>
}

export const datasetBytes = <Row>(type: DatasetType<Row>): DatasetBytes<Row> => {
  const kind = columnsOf(type.row)
  const schema = arrowSchema(kind)
  return {
    encode: (rows) => {
      const batch = new BatchBuilder(kind, schema)
      for (const row of rows) batch.push(row)
      const writer = new arrow.RecordBatchFileWriter()
      writer.write(batch.finish())
      writer.finish()
      return writer.toUint8Array(true)
    },
    decode: (bytes) => {
      const rows: Array<Row> = []
      for (const batch of arrow.RecordBatchReader.from(bytes)) for (const row of toRows(kind, batch)) rows.push(row as Row)
      return rows
    }
  }
}
