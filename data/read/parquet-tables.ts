/**
 * Reads small Parquet files, one after another, each as a complete Arrow table. One worker (running this module) reads them all, because starting a worker takes longer than
 * reading a small file. The decoder can abort on a damaged file, so the worker is replaced after each failure. For large files: parquet.ts.
 */
import { once } from "node:events"
import { readFile } from "node:fs/promises"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"
import type { Table } from "apache-arrow"

/** Distinguishes this module's own worker from other workers that import this module. */
const purpose = "caravan: read Parquet tables"
type Answer = { readonly bytes: Uint8Array } | { readonly failed: string }

const read = async (path: string): Promise<Answer> => {
  try {
    const parquet = await import("parquet-wasm/node")
    return { bytes: parquet.readParquet(await readFile(path)).intoIPCStream() }
  } catch (cause) {
    return { failed: cause instanceof Error ? cause.message : String(cause) }
  }
}

if (!isMainThread && (workerData as { readonly purpose?: unknown } | null)?.purpose === purpose) {
  const port = parentPort!
  port.on("message", (path: string) => {
    void read(path).then((answer) => port.postMessage(answer))
  })
}

/** For each file, in order: its table, or an Error with the reason why it can't be read. */
export async function* parquetTables(paths: Iterable<string>): AsyncGenerator<Table | Error> {
  const arrow = await import("apache-arrow")
  let reader: { readonly worker: Worker; readonly stopped: Promise<Answer> } | undefined
  const start = () => {
    // What a panicking decoder prints is not for the user.
    const worker = new Worker(new URL(import.meta.url), { workerData: { purpose }, stdout: true, stderr: true })
    const stopped = new Promise<Answer>((resolve) => {
      worker.once("error", () => resolve({ failed: "data that the decoder failed on" }))
      worker.once("exit", () => resolve({ failed: "data that the decoder crashed on" }))
    })
    return { worker, stopped }
  }
  const stop = async () => {
    await reader?.worker.terminate()
    reader = undefined
  }
  try {
    for (const path of paths) {
      const { stopped, worker } = (reader ??= start())
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has no origin
      worker.postMessage(path)
      const answered = once(worker, "message").then(
        ([message]) => message as Answer,
        () => stopped
      )
      const answer = await Promise.race([answered, stopped])
      if ("bytes" in answer) yield arrow.tableFromIPC(answer.bytes)
      else {
        await stop()
        yield new Error(answer.failed)
      }
    }
  } finally {
    await stop()
  }
}
