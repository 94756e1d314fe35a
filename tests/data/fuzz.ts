/**
 * Fuzzing of the readers and shapes: files of every format with a few bytes or values changed. Whatever a file holds, looking into it ends, and ends in rows, problems
 * that are told, or an ArtifactError; every record is a row, a problem or left out.
 *
 *     node tests/data/fuzz.ts <from> <to>        these seeds, in this process
 *     node tests/data/fuzz.ts --minutes 60       as many seeds as fit, from a random one, in children that are watched for hanging
 *
 * A seed that finds something goes into fuzz.test.ts, for good.
 */
import { spawn } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync, zstdCompressSync } from "node:zlib"
import * as arrow from "apache-arrow"
import { inspect } from "../../data/inspect.ts"
import { shapes } from "../../data/shapes/shapes.ts"
import { Random } from "../../engine/random.ts"
import type { Demonstration, Preference } from "../../schemas/rows.ts"
import { parsePrompt } from "../../stages/data/import-prompts.ts"
import { tableOf } from "./read/table.ts"

const samples = new URL("shapes/files/", import.meta.url).pathname
const golden = new URL("../golden/arrow/", import.meta.url).pathname

/** Values that break assumptions. */
const odd: ReadonlyArray<unknown> = [
  null,
  "",
  " ",
  0,
  -1,
  1e308,
  7.5,
  true,
  [],
  {},
  [null],
  [[[]]],
  { role: "user" },
  [{ role: "user", content: null }],
  [{ role: "constructor", content: "x" }],
  "\ud800",
  "\u0000",
  "__proto__",
  "\n\nHuman:",
  "[INST]",
  "x".repeat(10_000),
  "é✓𝄞",
  { toString: 1 },
  [{ from: "gpt", value: "x" }],
  [1, "a", null]
]
const oddNames = ["__proto__", "constructor", "toString", "hasOwnProperty", "", "a.b", "prompt", "messages", "chosen", "label"]

type Rows = Array<Record<string, unknown>>
const corpora: ReadonlyArray<readonly [string, Rows]> = readdirSync(samples)
  .filter((name) => name.endsWith(".jsonl"))
  .map((name) => [
    name,
    readFileSync(join(samples, name), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  ])
const binaries = readdirSync(golden).filter((name) => /\.(arrow|parquet)$/.test(name))

/** A copy of a value with something in it replaced, taken away or added. */
const changedValue = (value: unknown, draw: Random, depth = 0): unknown => {
  if (draw.int(4) === 0 || depth > 4) return odd[draw.int(odd.length)]
  if (Array.isArray(value) && value.length > 0) {
    const at = draw.int(value.length)
    return value.map((each, i) => (i === at ? changedValue(each, draw, depth + 1) : (each as unknown)))
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value)
    const at = draw.int(entries.length + 1)
    if (at === entries.length) return Object.fromEntries([...entries, [oddNames[draw.int(oddNames.length)], odd[draw.int(odd.length)]]])
    return draw.int(5) === 0
      ? Object.fromEntries(entries.filter((_, i) => i !== at))
      : Object.fromEntries(entries.map(([name, each], i) => [name, i === at ? changedValue(each, draw, depth + 1) : (each as unknown)]))
  }
  return odd[draw.int(odd.length)]
}

const cell = (value: unknown): string => {
  const text = typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value)
  return /[",\n\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
const tableText = (rows: Rows, separator: string): string => {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  return `${columns.map(cell).join(separator)}\n${rows.map((row) => columns.map((name) => cell(Object.hasOwn(row, name) ? row[name] : null)).join(separator)).join("\n")}\n`
}
/** The rows in one of the formats: the file's name, and its bytes. */
const fileOf = (rows: Rows, sound: Rows, draw: Random): readonly [string, Buffer] => {
  const lines = rows.map((row) => JSON.stringify(row)).join("\n")
  const kinds: ReadonlyArray<() => readonly [string, string | Uint8Array]> = [
    () => ["a.jsonl", lines],
    () => ["a.json", JSON.stringify(rows, undefined, draw.int(3))],
    () => ["a.csv", tableText(rows, ",")],
    () => ["a.tsv", tableText(rows, "\t")],
    () => ["a.txt", lines],
    () => ["a.jsonl.gz", gzipSync(lines)],
    () => ["a.jsonl.zst", zstdCompressSync(lines)],
    () => ["a.csv.gz", gzipSync(tableText(rows, ";"))],
    // The library's builders do not end on values of several types, or throw.
    () => {
      try {
        return ["a.arrow", arrow.tableToIPC(tableOf(sound), draw.int(2) === 0 ? "file" : "stream")]
      } catch {
        return ["a.jsonl", lines]
      }
    },
    () => {
      const name = binaries[draw.int(binaries.length)]!
      return [name, readFileSync(join(golden, name))]
    }
  ]
  const [name, content] = kinds[draw.int(kinds.length)]!()
  return [name, Buffer.from(content)]
}

/** The bytes with a few changes: flipped, cut, doubled, moved, made large. */
const changedBytes = (bytes: Buffer, draw: Random): Buffer => {
  let out = Buffer.from(bytes)
  for (let i = draw.int(4); i > 0 && out.length > 0; i--) {
    const at = draw.int(out.length)
    const length = 1 + draw.int(Math.min(64, out.length - at))
    switch (draw.int(7)) {
      case 0:
        out[at]! ^= 1 << draw.int(8)
        break
      case 1:
        out = out.subarray(0, at)
        break
      case 2:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at, at + length), out.subarray(at)])
        break
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)])
        break
      case 4:
        out = Buffer.concat([out.subarray(0, at), Buffer.from(Array.from({ length }, () => draw.int(256))), out.subarray(at)])
        break
      case 5:
        // A length that claims much.
        if (at + 4 <= out.length) out.writeInt32LE([2 ** 31 - 1, -1, 1 << 24, 0][draw.int(4)]!, at)
        break
      default:
        out.fill(draw.int(2) === 0 ? 0 : 0xff, at, at + length)
    }
  }
  return out
}

const check = () => {
  const ids = new Set<string>()
  return {
    preferences: (row: Preference) => row,
    demonstrations: (row: Demonstration) => row,
    prompts: (value: unknown) => parsePrompt(value, false, ids),
    texts: (row: { readonly text: string }) => row
  }
}

/** Shapes of which every record gives one row, or none. */
const oneByOne = new Set([
  "hh-rlhf",
  "prompt-chosen-rejected",
  "chosen-rejected",
  "pku-safe-rlhf",
  "helpsteer3",
  "shp",
  "webgpt",
  "messages",
  "sharegpt",
  "alpaca",
  "text"
])

/** One file, looked into. Rejects where something is wrong with us. */
export const fuzz = async (seed: number, folder: string): Promise<void> => {
  const draw = new Random(seed, "fuzz")
  const [, original] = corpora[draw.int(corpora.length)]!
  const many = Array.from({ length: 1 + draw.int(12) }, () => original[draw.int(original.length)]!)
  const rows = many.map((row) => (draw.int(3) === 0 ? (changedValue(row, draw) as Record<string, unknown>) : row))
  const isWhole = draw.int(3) === 0
  const [name, content] = fileOf(rows.every((row) => typeof row === "object" && row !== null) ? rows : many, many.slice(0, 3), draw)
  const path = join(folder, name)
  writeFileSync(path, isWhole ? content : changedBytes(content, draw))
  const shape = draw.int(4) === 0 ? shapes[draw.int(shapes.length)]!.name : "auto"
  const map: Record<string, string> = draw.int(8) === 0 ? { prompt: ["question.full", "a.b", "__proto__.x", ""][draw.int(4)]! } : {}
  const found = await inspect([path], {
    shape,
    map,
    documents: (["line", "paragraph", "file"] as const)[draw.int(3)]!,
    check: check(),
    examples: 2,
    problems: 5
  })
  const stopped = Object.keys(found.problemCounts).some((reason) => /at fault|outside its set/.test(reason))
  const told = [...Object.values(found.problemCounts), ...Object.values(found.leftOut)].reduce((sum, each) => sum + each, 0)
  if (!stopped && found.given !== null && oneByOne.has(found.shape!) && found.given.rows + told !== found.rows)
    throw new Error(
      `${found.rows} records, of which ${found.given.rows} are rows and ${told} are told of: ${JSON.stringify(found.problemCounts)}`
    )
}

const range = async (from: number, to: number): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-fuzz-"))
  try {
    for (let seed = from; seed < to; seed++) {
      if (process.send !== undefined) process.send(seed)
      try {
        await fuzz(seed, folder)
      } catch (cause) {
        console.log(`seed ${seed}: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`)
        process.exitCode = 1
      }
      const { rss } = process.memoryUsage()
      if (rss > 2 ** 31) {
        console.log(`seed ${seed}: ${Math.round(rss / 2 ** 20)} MiB`)
        process.exitCode = 1
        return
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A child for these seeds; killed, and its seed told, where one takes longer than two minutes. */
const watched = (from: number, to: number): Promise<void> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), `${from}`, `${to}`], {
      stdio: ["ignore", "inherit", "inherit", "ipc"]
    })
    let [seed, last] = [from, Date.now()]
    child.on("message", (now) => ([seed, last] = [Number(now), Date.now()]))
    const watch = setInterval(() => {
      if (Date.now() - last < 120_000) return
      console.log(`seed ${seed}: does not end`)
      child.kill("SIGKILL")
    }, 1000)
    child.on("exit", (code, signal) => {
      clearInterval(watch)
      if (code !== 0) {
        console.log(`seeds ${from} to ${to}: the process ended with ${code ?? signal} at seed ${seed}`)
        process.exitCode = 1
      }
      resolve()
    })
  })

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [first, second] = process.argv.slice(2)
  if (first === "--minutes") {
    const end = Date.now() + Number(second) * 60_000
    let from = Math.floor(Math.random() * 2 ** 31)
    const begin = from
    for (; Date.now() < end; from += 500) await watched(from, from + 500)
    console.log(`${from - begin} files, seeds ${begin} to ${from}`)
  } else await range(Number(first), Number(second))
}
