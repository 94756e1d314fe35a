/**
 * Memory and time of reading preference pairs: `node bench/read-rows.ts [rows]`. For each format, a separate child reads the same rows into a
 * dataset as an import does. The last lines are JSON: peak resident memory, compared with a process with the same modules that reads ten rows.
 */
import { execFileSync } from "node:child_process"
import { createReadStream, createWriteStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { fileURLToPath } from "node:url"
import { createGzip } from "node:zlib"
import { parseHhRlhf } from "../data/shapes/pairs.ts"
import { newCounts, readParsed } from "../data/records.ts"
import { ask } from "../data/world/tasks.ts"
import { Random } from "../engine/random.ts"
import { writeRows } from "../schemas/dataset-file.ts"
import { Preferences } from "../schemas/rows.ts"

const mebibytes = (bytes: number): number => Math.round(bytes / 2 ** 20)

/**
 * Peak resident memory of this process in bytes. On Linux the child's maxRSS includes the parent's peak (fork comes before exec), so use the process's own
 * high-water mark if available.
 */
const peakRss = (): number => {
  const own = existsSync("/proc/self/status") ? /VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8")) : null
  return (own === null ? process.resourceUsage().maxRSS : Number(own[1])) * 1024
}

/** Runs in the child. */
const read = async (path: string): Promise<void> => {
  const directory = `${path}.dataset`
  mkdirSync(directory)
  const start = performance.now()
  const counts = newCounts()
  await writeRows(
    directory,
    Preferences,
    readParsed(
      path,
      (value, line) => parseHhRlhf(value, line, "bench"),
      counts,
      () => undefined
    )
  )
  console.log(
    JSON.stringify({
      rows: counts.rows,
      bad: counts.bad,
      milliseconds: Math.round(performance.now() - start),
      peakRss: mebibytes(peakRss())
    })
  )
}

/** Pairs about as long as HH-RLHF's: a mean of 700 characters per transcript. */
function* longPairs(rows: number): Generator<string> {
  const draw = new Random(1, "bench", "pairs")
  let filler = ""
  for (let row = 0; row < rows; row++) {
    const { right, text, wrong } = ask(draw, "train", "harmless")
    const dialogue = (answer: string) => `\n\nHuman: ${text}\n\nAssistant: ${answer}`
    const [chosen, rejected] = [dialogue(right(draw)), dialogue(wrong(draw))]
    filler = (chosen + filler).slice(0, 600 + draw.int(600))
    yield `${JSON.stringify({ chosen: filler + chosen, rejected: filler + rejected })}\n`
  }
}

/** The same pairs as Parquet, in row groups of 16,384. */
const writeParquet = async (from: string, to: string): Promise<void> => {
  const arrow = await import("apache-arrow")
  const { Table, WriterPropertiesBuilder, transformParquetStream } = await import("parquet-wasm/node")
  const group = 16_384
  async function* tables() {
    let rows: Array<{ chosen: string; rejected: string }> = []
    const take = () => {
      const columns = {
        chosen: arrow.vectorFromArray(
          rows.map((row) => row.chosen),
          new arrow.Utf8()
        ),
        rejected: arrow.vectorFromArray(
          rows.map((row) => row.rejected),
          new arrow.Utf8()
        )
      }
      rows = []
      return Table.fromIPCStream(arrow.tableToIPC(new arrow.Table(columns), "stream")).recordBatches()
    }
    const { readRecords } = await import("../data/records.ts")
    for await (const { value } of readRecords(from)) {
      rows.push(value as { chosen: string; rejected: string })
      if (rows.length === group) yield* take()
    }
    if (rows.length > 0) yield* take()
  }
  const properties = new WriterPropertiesBuilder().setMaxRowGroupSize(group).build()
  const bytes = await transformParquetStream(ReadableStream.from(tables()) as never, properties)
  await pipeline(Readable.fromWeb(bytes as never), createWriteStream(to))
}

const child = (path: string): { readonly peakRss: number } =>
  JSON.parse(execFileSync(process.execPath, [fileURLToPath(import.meta.url), "--read", path], { encoding: "utf8" })) as {
    readonly peakRss: number
  }

const main = async (rows: number): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-bench-"))
  try {
    const base = join(folder, "base.jsonl")
    const plain = join(folder, "pairs.jsonl")
    const gzipped = join(folder, "pairs.jsonl.gz")
    const parquet = join(folder, "pairs.parquet")
    await pipeline(Readable.from(longPairs(10)), createWriteStream(base))
    await pipeline(Readable.from(longPairs(rows)), createWriteStream(plain))
    await pipeline(createReadStream(plain), createGzip({ level: 1 }), createWriteStream(gzipped))
    await writeParquet(plain, parquet)
    const { peakRss: baseRss } = child(base)
    for (const [format, path] of Object.entries({ jsonl: plain, gzip: gzipped, parquet })) {
      console.log(JSON.stringify({ format, fileSize: mebibytes(statSync(path).size), ...child(path), baseRss, unit: "MiB" }))
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const [first, path] = process.argv.slice(2)
await (first === "--read" ? read(path!) : main(Number(first ?? 100_000)))
