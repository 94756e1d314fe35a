/**
 * Rows of a Parquet file, batch by batch, through Arrow. The decoder is WebAssembly that may abort outside of any promise on a damaged file, which
 * would end the process. It therefore runs in a worker (this same module), whose memory is freed after the file is read.
 */
import { once } from "node:events"
import { type FileHandle, open } from "node:fs/promises"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"
import { messageOf } from "../../schemas/explained-error.ts"
import type { Column } from "./arrow-values.ts"

/** Approximate bytes of a batch sent from the worker, and its maximum rows: large batches decode faster, small ones need less memory. */
const batchBytes = 4 << 20
const maxRows = 8192

/** Marks the worker as the reader, as opposed to any other worker that imports this module. */
const purpose = "caravan: read Parquet"
interface Task {
  readonly purpose: typeof purpose
  readonly path: string
}
/** A request for the next batch. The first request may name the columns (default: all). */
interface Next {
  readonly columns?: ReadonlyArray<string> | undefined
}
/** The worker's answers: the schema to the first request, then batches. */
type Answer =
  | { readonly type: "schema"; readonly bytes: Uint8Array }
  | { readonly type: "batch"; readonly bytes: Uint8Array }
  | { readonly type: "end" }
  | { readonly type: "failed"; readonly message: string }

const isTask = (data: unknown): data is Task => (data as Task | null)?.purpose === purpose

/** The file as the part of a Blob that the decoder uses. Reading from an open file needs half the processor time of Node's Blob. */
const sourceOf = (handle: FileHandle, size: number): Blob => {
  const arrayBuffer = async (from: number, to: number) => {
    const bytes = Buffer.allocUnsafeSlow(to - from)
    for (let at = 0; at < bytes.length;) {
      const { bytesRead } = await handle.read(bytes, at, bytes.length - at, from + at)
      if (bytesRead === 0) throw new Error(`the file ends at byte ${from + at}`)
      at += bytesRead
    }
    return bytes.buffer
  }
  const slice = (from = 0, to = size) => ({ arrayBuffer: () => arrayBuffer(Math.max(0, from), Math.min(size, to)) })
  return { size, slice } as unknown as Blob
}

const serve = async (port: NonNullable<typeof parentPort>, path: string): Promise<void> => {
  const answer = (message: Answer) => port.postMessage(message)
  // Only the reader ends the worker: if the worker exited itself, the exit could be seen before its last message. The timer keeps the worker alive,
  // which the decoder's promises would not.
  setInterval(() => undefined, 2 ** 30)
  try {
    // The package's entry for Node loads its WebAssembly synchronously on import.
    const parquet = await import("parquet-wasm/node")
    const handle = await open(path)
    const file = await parquet.ParquetFile.fromFile(sourceOf(handle, (await handle.stat()).size))
    await once(port, "message")
    answer({ type: "schema", bytes: file.schema().intoIPCStream() })
    const [{ columns }] = (await once(port, "message")) as [Next]
    const groups = file.metadata().rowGroups()
    const widest = Math.max(1, ...groups.map((group) => group.totalByteSize() / Math.max(1, group.numRows())))
    const stream = (await file.stream({
      batchSize: Math.min(maxRows, Math.max(1, Math.floor(batchBytes / widest))),
      ...(columns === undefined ? {} : { columns: [...columns] })
    })) as unknown as AsyncIterable<{ intoIPCStream(): Uint8Array }>
    const batches = stream[Symbol.asyncIterator]()
    for (let next = batches.next(); ;) {
      const batch = await next
      if (batch.done === true) break
      const bytes = batch.value.intoIPCStream()
      port.postMessage({ type: "batch", bytes } satisfies Answer, [bytes.buffer as ArrayBuffer])
      const asked = once(port, "message")
      // Decode the next batch while the previous one is used.
      next = batches.next()
      next.catch(() => undefined)
      await asked
    }
    answer({ type: "end" })
  } catch (cause) {
    answer({ type: "failed", message: messageOf(cause) })
  }
}

if (!isMainThread && parentPort !== null && isTask(workerData)) void serve(parentPort, workerData.path)

export interface OpenParquet {
  readonly columns: ReadonlyArray<Column>
  /** The rows in batches, with these columns or all. Can be read once. */
  readonly batches: (columns?: ReadonlyArray<string>) => AsyncGenerator<ReadonlyArray<unknown>>
  readonly close: () => Promise<void>
}

/** Opens a Parquet file. Opening and reading reject with a plain error if the file is damaged. */
export const openParquet = async (path: string): Promise<OpenParquet> => {
  const arrow = await import("apache-arrow")
  const { columnsOfSchema, plainBatches } = await import("./arrow-values.ts")
  const task: Task = { purpose, path }
  // Hides the output of a panicking decoder.
  const worker = new Worker(new URL(import.meta.url), { workerData: task, stdout: true, stderr: true })
  const stopped = new Promise<Answer>((resolve) => {
    worker.once("error", () => resolve({ type: "failed", message: "data that the decoder failed on" }))
    worker.once("exit", () => resolve({ type: "failed", message: "data that the decoder crashed on" }))
  })
  const ask = async (next: Next): Promise<Exclude<Answer, { type: "failed" }>> => {
    const answered = once(worker, "message").then(
      ([message]) => message as Answer,
      () => stopped
    )
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has no origin
    worker.postMessage(next)
    const answer = await Promise.race([answered, stopped])
    if (answer.type === "failed") throw new Error(answer.message)
    return answer
  }
  const close = async () => void (await worker.terminate())
  async function* batches(columns?: ReadonlyArray<string>) {
    try {
      for (;;) {
        const answer = await ask({ columns })
        if (answer.type === "end") return
        for (const batch of arrow.RecordBatchReader.from(answer.bytes)) yield* plainBatches(batch)
        // Free its memory now instead of waiting for the garbage collector: batches are large and objects few.
        ;(answer.bytes.buffer as ArrayBuffer).transfer(0)
      }
    } finally {
      await close()
    }
  }
  try {
    const answer = await ask({})
    if (answer.type !== "schema") throw new Error("no schema")
    return { columns: columnsOfSchema(arrow.tableFromIPC(answer.bytes).schema), batches, close }
  } catch (cause) {
    await close()
    throw cause
  }
}

/** The rows of a Parquet file, one by one. Rejects with a plain error if the file is damaged. */
export async function* parquetRows(path: string): AsyncGenerator {
  for await (const batch of (await openParquet(path)).batches()) yield* batch
}
