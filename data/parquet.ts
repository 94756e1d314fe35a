/**
 * Rows of a Parquet file, batch by batch, through Arrow. The decoder is WebAssembly that on a damaged file may abort outside of any promise, which
 * would end the process: it runs in a worker of its own (this module again), whose memory goes when the file is read.
 */
import { once } from "node:events"
import { openAsBlob } from "node:fs"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"

/** Rows of one batch that crosses from the worker. */
const batchSize = 1024

/** What makes the worker the reader, and not whatever else imports this module in a worker. */
const purpose = "caravan: read Parquet"
interface Task {
  readonly purpose: typeof purpose
  readonly path: string
}
/** The worker's answer to each "next". */
type Answer =
  | { readonly type: "batch"; readonly bytes: Uint8Array }
  | { readonly type: "end" }
  | { readonly type: "failed"; readonly message: string }

const isTask = (data: unknown): data is Task => (data as Task | null)?.purpose === purpose

const serve = async (port: NonNullable<typeof parentPort>, path: string): Promise<void> => {
  const answer = (message: Answer) => port.postMessage(message)
  // The reader ends the worker, never the worker itself: a worker's exit arrives together with its last message, and could be seen first. The decoder's
  // promises would not keep it alive either.
  setInterval(() => undefined, 2 ** 30)
  try {
    // The package's entry for Node loads its WebAssembly at once.
    const parquet = await import("parquet-wasm/node")
    const file = await parquet.ParquetFile.fromFile(await openAsBlob(path))
    const batches = (await file.stream({ batchSize })) as unknown as AsyncIterable<{ intoIPCStream(): Uint8Array }>
    await once(port, "message")
    for await (const batch of batches) {
      const bytes = batch.intoIPCStream()
      port.postMessage({ type: "batch", bytes } satisfies Answer, [bytes.buffer as ArrayBuffer])
      await once(port, "message")
    }
    answer({ type: "end" })
  } catch (cause) {
    answer({ type: "failed", message: cause instanceof Error ? cause.message : String(cause) })
  }
}

if (!isMainThread && parentPort !== null && isTask(workerData)) void serve(parentPort, workerData.path)

/** The batches of the file as Arrow IPC streams, each good until the next is asked for. */
async function* ipcBatches(path: string): AsyncGenerator<Uint8Array> {
  const task: Task = { purpose, path }
  // What a panicking decoder prints is not for the user.
  const worker = new Worker(new URL(import.meta.url), { workerData: task, stdout: true, stderr: true })
  const stopped = new Promise<Answer>((resolve) => {
    worker.once("error", () => resolve({ type: "failed", message: "data that the decoder failed on" }))
    worker.once("exit", () => resolve({ type: "failed", message: "data that the decoder crashed on" }))
  })
  try {
    for (;;) {
      const next = once(worker, "message").then(
        ([message]) => message as Answer,
        () => stopped
      )
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has no origin
      worker.postMessage("next")
      const answer = await Promise.race([next, stopped])
      if (answer.type === "end") return
      if (answer.type === "failed") throw new Error(answer.message)
      yield answer.bytes
      // Its memory goes now, not when the collector comes to it: batches are large and objects few.
      ;(answer.bytes.buffer as ArrayBuffer).transfer(0)
    }
  } finally {
    await worker.terminate()
  }
}

/** Arrow's row proxies and vectors as plain objects and lists; int64 as numbers. */
const plain = (value: any): unknown => {
  if (value === null || typeof value !== "object") return typeof value === "bigint" ? Number(value) : value
  if (typeof value.toArray === "function" && typeof value.get === "function") return Array.from(value as Iterable<unknown>, plain)
  if (typeof value.toJSON === "function")
    return Object.fromEntries(Object.entries(value.toJSON() as object).map(([key, field]) => [key, plain(field)]))
  return value
}

/** The rows of a Parquet file as plain objects. Rejects with a plain error when the file is damaged. */
export async function* parquetRows(path: string): AsyncGenerator {
  const arrow = await import("apache-arrow")
  for await (const bytes of ipcBatches(path)) for (const row of arrow.tableFromIPC(bytes)) yield plain(row)
}
