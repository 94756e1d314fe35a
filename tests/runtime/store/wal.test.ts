/** Databases that several processes open concurrently, before they are in WAL mode. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import { afterAll, expect, it } from "vitest"
import { openWal } from "../../../runtime/store/wal.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-wal-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Another thread that starts writing to the file, like one that switches it to WAL mode, and ends after the given milliseconds. */
const writing = (file: string, milliseconds: number) =>
  new Promise<Worker>((resolve, reject) => {
    const worker = new Worker(
      `const { DatabaseSync } = require("node:sqlite")
       const { parentPort, workerData: [file, milliseconds] } = require("node:worker_threads")
       const database = new DatabaseSync(file)
       database.exec("begin immediate")
       parentPort.postMessage("begun")
       Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
       database.exec("commit")
       database.close()`,
      { eval: true, workerData: [file, milliseconds] }
    )
    worker.once("message", () => resolve(worker))
    worker.once("error", reject)
  })

it("is waited for while another process switches the database to WAL mode: SQLite itself fails immediately", async () => {
  const worker = await writing(join(folder, "a.db"), 300)
  const database = openWal(join(folder, "a.db"), 20_000, "pragma synchronous = off")
  expect(database.prepare("pragma journal_mode").get()).toEqual({ journal_mode: "wal" })
  database.close()
  await worker.terminate()
})

it("is waited for no longer than requested", async () => {
  const worker = await writing(join(folder, "b.db"), 20_000)
  expect(() => openWal(join(folder, "b.db"), 50, "pragma synchronous = off")).toThrow("database is locked")
  await worker.terminate()
})
