/**
 * A million preference rows (2 GB of JSONL): read, check, exact duplicates, mix, split, write; and Parquet to Arrow. Runs our stages as a pipeline does, and compares with DuckDB, which does
 * the same in SQL (bench/data/peer.mjs; run `npm install` in bench/data first). Each part runs in a separate child, with one thread's worth of work. Prints CPU seconds (user and system) and peak memory.
 *
 *     node bench/data/main.ts [rows] [folder] [--near]        also near-duplicates: takes minutes
 */
import { execFileSync } from "node:child_process"
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { Random } from "../../engine/random.ts"
import { noCheckpoints } from "../../runtime/define/resume-points.ts"
import type { AnyStage } from "../../runtime/define/stage.ts"
import { decodeConfig } from "../../schemas/hyper.ts"
import { cleanPreferences } from "../../stages/data/clean.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { splitPreferences } from "../../stages/data/split.ts"

const here = fileURLToPath(new URL(".", import.meta.url))

const vocabulary = Array.from({ length: 2000 }, (_, i) => i.toString(36).padStart(3, "x"))
/** Rows {prompt, chosen, rejected, rating, source} of 2 KB; one in fifty is a duplicate, one in two hundred has two equal answers. */
function* lines(rows: number): Generator<string> {
  const draw = new Random(1, "bench", "data")
  const text = (characters: number) =>
    Array.from({ length: Math.ceil(characters / 4.2) }, () => vocabulary[draw.int(vocabulary.length)]).join(" ")
  let last = ""
  for (let i = 0; i < rows; i++) {
    if (i % 50 !== 49) {
      const chosen = text(500 + draw.int(800))
      const rejected = i % 200 === 7 ? chosen : text(500 + draw.int(800))
      last = `${JSON.stringify({ prompt: text(100 + draw.int(300)), chosen, rejected, rating: draw.int(4), source: `s${i % 3}` })}\n`
    }
    yield last
  }
}

const peak = (): number => Math.round(Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))![1]) / 1024)

/** Runs a stage on artifacts in folders. */
const runStage = async (
  { stage }: AnyStage,
  inputs: Readonly<Record<string, any>>,
  config: object,
  path: string
): Promise<Readonly<Record<string, number>>> => {
  mkdirSync(path, { recursive: true })
  const program = Effect.gen(function* () {
    const decoded = yield* decodeConfig(stage.config, config, stage.name)
    const skipped = { add: () => undefined, check: () => Effect.void }
    const { metrics } = yield* stage.run({
      ...{ config: decoded, inputs, output: { path, type: stage.output }, seed: 1, device: "cpu" as const, threads: 1 },
      progress: () => Effect.void,
      checkpoints: noCheckpoints,
      skipped
    })
    return metrics
  })
  return Effect.runPromise(program)
}

const parts: Readonly<Record<string, (folder: string) => Promise<Readonly<Record<string, number>>>>> = {
  import: (folder) => runStage(importPreferences, { file: at(join(folder, "pairs.jsonl")) }, {}, join(folder, "imported")),
  clean: (folder) =>
    runStage(cleanPreferences, { rows: at(join(folder, "imported")), others: [], evaluation: [] }, {}, join(folder, "clean")),
  near: (folder) =>
    runStage(
      cleanPreferences,
      { rows: at(join(folder, "imported")), others: [], evaluation: [] },
      { nearDuplicates: 0.8 },
      join(folder, "near")
    ),
  mix: (folder) => runStage(mixPreferences, { datasets: [at(join(folder, "clean"))] }, { weights: [1] }, join(folder, "mixed")),
  "split, train": (folder) => runStage(splitPreferences, { rows: at(join(folder, "mixed")) }, { part: "train" }, join(folder, "train")),
  "split, test": (folder) => runStage(splitPreferences, { rows: at(join(folder, "mixed")) }, { part: "test" }, join(folder, "test")),
  "Parquet to Arrow": (folder) => runStage(importPreferences, { file: at(join(folder, "pairs.parquet")) }, {}, join(folder, "from-parquet"))
}
const at = (path: string) => ({ path, type: "", digest: "", contentDigest: "" })

const measured = async (part: string, folder: string): Promise<void> => {
  const metrics = await parts[part]!(folder)
  const { system, user } = process.cpuUsage()
  console.log(JSON.stringify({ cpu: (user + system) / 1e6, peak: peak(), rows: metrics.rowsRead ?? metrics.ofRows ?? metrics.rows }))
}

interface Figure {
  readonly cpu: number
  readonly peak: number
  readonly rows: number
}
const child = (program: string, args: ReadonlyArray<string>): Figure => {
  const out = execFileSync(process.execPath, [program, ...args], { encoding: "utf8", cwd: here })
  return JSON.parse(out.trimEnd().split("\n").at(-1)!) as Figure
}
const say = (what: string, { cpu, peak: most, rows }: Figure) =>
  console.log(`| ${what} | ${rows} | ${cpu.toFixed(1)} | ${Math.round(rows / cpu)} | ${most} |`)

const main = async (rows: number, folder: string, near: boolean): Promise<void> => {
  const file = join(folder, "pairs.jsonl")
  if (!existsSync(file)) await pipeline(Readable.from(lines(rows)), createWriteStream(file))
  console.log(
    `${rows} rows, ${Math.round(statSync(file).size / 2 ** 20)} MiB of JSONL\n\n| step | rows | CPU, s | rows per CPU second | peak memory, MiB |\n|---|---|---|---|---|`
  )
  const hasPeer = existsSync(join(here, "node_modules/@duckdb/node-api"))
  const own = fileURLToPath(import.meta.url)
  const names = ["import", "clean", "mix", "split, train", "split, test"]
  const figures = names.map((name) => {
    const figure = child(own, ["--part", name, folder])
    say(`ours: ${name}`, figure)
    return figure
  })
  say("ours, all steps", {
    cpu: figures.reduce((sum, { cpu }) => sum + cpu, 0),
    peak: Math.max(...figures.map((figure) => figure.peak)),
    rows
  })
  if (hasPeer) {
    say("DuckDB, all steps", child(join(here, "peer.mjs"), ["all", folder]))
    child(join(here, "peer.mjs"), ["parquet", folder])
    say("ours: Parquet to Arrow", child(own, ["--part", "Parquet to Arrow", folder]))
    say("DuckDB: Parquet to Parquet", child(join(here, "peer.mjs"), ["copy", folder]))
  }
  if (near) say("ours: clean including near-duplicates", child(own, ["--part", "near", folder]))
}

const near = process.argv.includes("--near")
const [first, second, third] = process.argv.slice(2).filter((word) => word !== "--near")
if (first === "--part") await measured(second!, third!)
else {
  const folder = second ?? mkdtempSync(join(tmpdir(), "caravan-bench-"))
  try {
    await main(Number(first ?? 1_000_000), folder, near)
  } finally {
    if (second === undefined) rmSync(folder, { recursive: true, force: true })
  }
}
