/** Small files in every format for tests of readers. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import * as arrow from "apache-arrow"
import { afterAll } from "vitest"
import { type Record, readRecords } from "../../../data/records.ts"
import type { ArtifactError } from "../../../schemas/artifact.ts"
import { tableOf } from "./table.ts"

/** A folder that is deleted after the tests, and a function that puts files in it. */
export const folder = (name: string) => {
  const root = mkdtempSync(join(tmpdir(), `caravan-${name}-`))
  afterAll(() => rmSync(root, { recursive: true, force: true }))
  const put = (path: string, content: string | Uint8Array): string => {
    const full = join(root, path)
    mkdirSync(dirname(full), { recursive: true })
    writeFileSync(full, content)
    return full
  }
  return { root, put }
}

export const jsonl = (rows: ReadonlyArray<unknown>): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("")

export const arrowFile = (rows: ReadonlyArray<object>): Uint8Array => arrow.tableToIPC(tableOf(rows), "file")
export const arrowStream = (rows: ReadonlyArray<object>): Uint8Array => arrow.tableToIPC(tableOf(rows), "stream")

export const parquetOf = async (table: arrow.Table, rowGroup = 1000): Promise<Uint8Array> => {
  const { Table, WriterPropertiesBuilder, writeParquet } = await import("parquet-wasm/node")
  return writeParquet(
    Table.fromIPCStream(arrow.tableToIPC(table, "stream")),
    new WriterPropertiesBuilder().setMaxRowGroupSize(rowGroup).build()
  )
}

export const all = async <A>(rows: AsyncIterable<A>): Promise<Array<A>> => {
  const out: Array<A> = []
  for await (const row of rows) out.push(row)
  return out
}
export const recordsOf = (path: string): Promise<Array<Record>> => all(readRecords(path))
export const valuesOf = async (path: string): Promise<Array<unknown>> => (await recordsOf(path)).map(({ value }) => value)

/** The message of the ArtifactError with which reading fails. */
export const errorOf = async (rows: AsyncIterable<unknown>): Promise<string> => {
  try {
    await all(rows)
  } catch (cause) {
    if ((cause as ArtifactError)._tag !== "ArtifactError") throw cause
    return (cause as ArtifactError).message
  }
  throw new Error("nothing failed")
}
