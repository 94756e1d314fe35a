/** Importing, cleaning, mixing and splitting do not hold a dataset in memory: rows larger than the heap can be processed. */
import { spawnSync } from "node:child_process"
import { closeSync, openSync, writeSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, expect, it } from "vitest"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))

/** MiB of heap, for 95 MiB of rows. */
const heap = 64

it("95 MiB of pairs in a heap of 64", { timeout: 300_000 }, () => {
  const rows = 8000
  const filler = "words and more words ".repeat(200)
  const file = openSync(join(folder, "pairs.jsonl"), "w")
  for (let i = 0; i < rows; i++)
    writeSync(file, `${JSON.stringify({ prompt: `Question ${i}, ${filler}?`, chosen: `Yes, ${filler}`, rejected: `No, ${filler}` })}\n`)
  closeSync(file)
  const program = fileURLToPath(new URL("out-of-core.ts", import.meta.url))
  const { stderr, stdout } = spawnSync(process.execPath, [`--max-old-space-size=${heap}`, "--max-semi-space-size=16", program, folder], {
    encoding: "utf8"
  })
  const counts: unknown = stdout === "" ? stderr.slice(-2000) : JSON.parse(stdout)
  expect(counts).toEqual([rows, rows, 2 * rows, 2 * rows * 0.95])
})
