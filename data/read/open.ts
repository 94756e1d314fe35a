/** Opens any file of rows: its format, its columns if it declares them, and its rows in batches. */
import type { Column } from "./arrow-values.ts"
import { bytesOf, type Compression, damaged, type Format, kindOf } from "./bytes.ts"
import { openTable } from "./csv.ts"
import type { DataFile } from "./files.ts"
import { jsonArray } from "./json-array.ts"
import { type Documents, jsonLines, plainTexts } from "./lines.ts"
import { openParquet } from "./parquet.ts"
import type { Record } from "./record.ts"

export interface OpenFile {
  readonly format: Format
  readonly compression: Compression
  /** The columns that the file declares; undefined if they are known only from its rows. */
  readonly columns: ReadonlyArray<Column> | undefined
  /** Its rows; only these columns in formats where reading fewer saves work. Can be read once. Rejects with an ArtifactError if the file is damaged. */
  readonly batches: (columns?: ReadonlyArray<string>) => AsyncGenerator<ReadonlyArray<Record>>
  readonly close: () => Promise<void>
}

/** Numbers the rows, and turns errors into errors about the file. */
async function* numbered(
  path: string,
  what: string,
  batches: AsyncIterable<ReadonlyArray<unknown>>
): AsyncGenerator<ReadonlyArray<Record>> {
  let line = 0
  try {
    for await (const batch of batches) yield batch.map((value) => ({ line: ++line, unit: "row" as const, value }))
  } catch (cause) {
    throw damaged(path, what, cause)
  }
}

/** Arrow is loaded when a file needs it: planning a pipeline imports this module too. */
const openArrow = async (path: string) => (await import("./arrow-file.ts")).openArrow(path)

const openBinary = async (path: string, format: "parquet" | "arrow"): Promise<OpenFile> => {
  const what = format === "parquet" ? "a Parquet file" : "an Arrow file"
  const file = await (format === "parquet" ? openParquet(path) : openArrow(path)).catch((cause: unknown) => {
    throw damaged(path, what, cause)
  })
  return {
    format,
    compression: "none",
    columns: file.columns,
    batches: (columns) => numbered(path, what, file.batches(columns)),
    close: file.close
  }
}

export const openFile = async ({ path }: DataFile, documents: Documents): Promise<OpenFile> => {
  const { compression, format } = await kindOf(path)
  if (format === "parquet" || format === "arrow") {
    if (compression !== "none")
      throw damaged(path, "an uncompressed Arrow or Parquet file", `one compressed with ${compression}`, "Decompress it first.")
    return openBinary(path, format)
  }
  const chunks = bytesOf(path, compression)
  const close = async () => void (await chunks.return(undefined))
  const opened = { format, compression, close }
  switch (format) {
    case "csv":
    case "tsv": {
      const table = await openTable(path, chunks, format === "tsv").catch(async (cause: unknown) => {
        await close()
        throw cause
      })
      return { ...opened, columns: table.columns.map((name) => ({ name, type: "text" })), batches: table.batches }
    }
    case "text":
      return { ...opened, columns: [{ name: "text", type: "text" }], batches: () => plainTexts(path, chunks, documents) }
    case "json":
      return { ...opened, columns: undefined, batches: () => jsonArray(path, chunks) }
    case "jsonl":
      return { ...opened, columns: undefined, batches: () => jsonLines(path, chunks) }
  }
}
