/** Writes a dataset as a Parquet file from its Arrow batches, one row group at a time. */
import { open } from "node:fs/promises"
import type { OpenDataset } from "../schemas/dataset-file.ts"

/** Rows per row group. The encoder holds one row group in memory. */
const groupRows = 65_536

/** Writes all rows of a dataset to a new file, compressed with zstd. Rejects with the file system's error. */
export const writeParquet = async (source: OpenDataset, path: string): Promise<void> => {
  // The package's entry for Node loads its WebAssembly synchronously on import.
  const parquet = await import("parquet-wasm/node")
  let index = 0
  const batches = new ReadableStream({
    pull: async (controller) => {
      if (index === source.batches) return controller.close()
      for (const batch of parquet.Table.fromIPCStream(await source.stream(index++)).recordBatches()) controller.enqueue(batch)
    }
  })
  const properties = new parquet.WriterPropertiesBuilder()
    .setCompression(parquet.Compression.ZSTD)
    .setMaxRowGroupSize(groupRows)
    .setCreatedBy("caravan")
    .build()
  const encoded = (await parquet.transformParquetStream(batches, properties)) as AsyncIterable<Uint8Array>
  const file = await open(path, "wx")
  try {
    for await (const bytes of encoded) await file.writeFile(bytes)
  } finally {
    await file.close()
  }
}
