/**
 * Rows of the GPU's tables in docs/performance.md: ours and its peers in turn, each in a process of its own. Prints the medians with the lowest and highest, peak memory, and the
 * ratio to the fastest peer.
 *
 *     node bench/gpu.ts generate-1.1b train-1.1b [rounds=3] [--json]
 *     node bench/gpu.ts generate-1.1b profile=on       # ours alone, with the kernels by time and the gaps between them
 *
 * PYTHON names the Python that has torch and transformers. A row takes one to eight minutes.
 */
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"

interface Work {
  readonly ours: ReadonlyArray<string>
  readonly peers: ReadonlyArray<ReadonlyArray<string>>
}
const decoding = (work: string): Work => ({
  ours: ["generate-gpu.ts", ...work.split(" ")],
  peers: ["eager", "graph", "compiled"].map((how) => ["peers/torch_decode_gpu.py", `how=${how}`, ...work.split(" ")])
})
const training = (work: string, peers: ReadonlyArray<string>, ours = ""): Work => ({
  ours: ["train-gpu.ts", ...`${work} ${ours}`.trim().split(" ")],
  peers: peers.map((how) => ["peers/torch_train_gpu.py", ...`${work} ${how}`.trim().split(" ")])
})
const rows: Readonly<Record<string, Work>> = {
  "generate-110m": decoding("size=110m batch=64 prompt=64 new=256"),
  "generate-1.1b": decoding("size=1.1b batch=64 prompt=64 new=256"),
  "generate-7b-16": decoding("size=7b batch=16 prompt=64 new=128"),
  "generate-7b-64": decoding("size=7b batch=64 prompt=64 new=256"),
  "train-110m": training("size=110m batch=16 length=1024", ["", "compile=on"]),
  "train-134m": training("size=134m batch=16 length=1024", ["", "compile=on"]),
  "train-1.1b": training("size=1.1b batch=4 length=4096", ["", "compile=on"]),
  "train-7b": training("size=7b batch=1 length=4096 micro=16 steps=2", [], "recompute=32"),
  "train-7b-kept": training("size=7b batch=1 length=4096 micro=16 steps=2", [])
}

const words = process.argv.slice(2)
const given = Object.fromEntries(words.filter((word) => word.includes("=")).map((word) => word.split("=") as [string, string]))
const asked = words.filter((word) => !word.includes("=") && word !== "--json")
const unknown = asked.filter((row) => rows[row] === undefined)
const rounds = Number(given.rounds ?? 3)
if (asked.length === 0 || unknown.length > 0 || !(rounds >= 1)) {
  process.stderr.write(
    `Usage: node bench/gpu.ts <rows> [rounds=3] [profile=on] [--json]\nRows: ${Object.keys(rows).join(", ")}${unknown.length > 0 ? `; got ${unknown.join(", ")}` : ""}\n`
  )
  process.exit(2)
}

/** What a benchmark prints: one line of JSON. */
interface Line {
  readonly who: string
  readonly tokensPerSecond: number
  readonly peakGiB: number
  readonly shareOfLimit?: number
  readonly mfu?: number
}
const here = fileURLToPath(new URL(".", import.meta.url))
/** A peer that fails is told of and left out: it may run out of memory where ours does not. */
const run = ([script, ...args]: ReadonlyArray<string>): Line | undefined => {
  const program = script!.endsWith(".py") ? (process.env.PYTHON ?? "python3") : process.execPath
  try {
    const output = execFileSync(program, [`${here}${script}`, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
    return JSON.parse(output.trim().split("\n").at(-1)!) as Line
  } catch (error) {
    const said = error instanceof Error && "stderr" in error ? String(error.stderr).trim().split("\n").at(-1) : String(error)
    process.stderr.write(`${script} ${args.join(" ")}: ${said}\n`)
    return undefined
  }
}
const spread = (values: ReadonlyArray<number>) => {
  const sorted = values.toSorted((a, b) => a - b)
  return { median: sorted[sorted.length >> 1]!, lowest: sorted[0]!, highest: sorted.at(-1)! }
}

for (const row of asked) {
  const { ours, peers } = rows[row]!
  if (given.profile === "on") {
    process.stdout.write(execFileSync(process.execPath, [`${here}${ours[0]}`, ...ours.slice(1), "profile=on"], { encoding: "utf8" }))
    continue
  }
  const lines: Array<Line> = []
  for (let round = 0; round < rounds; round++) {
    // Who goes first changes: what drifts then favours nobody.
    const all = [ours, ...peers]
    for (const command of round % 2 === 0 ? all : all.toReversed()) lines.push(...[run(command)].filter((line) => line !== undefined))
  }
  const whos = [...new Set(lines.map(({ who }) => who))].toSorted((a, b) => Number(b === "caravan") - Number(a === "caravan"))
  const table = whos.map((who) => {
    const its = lines.filter((line) => line.who === who)
    const { mfu, peakGiB, shareOfLimit } = its[0]!
    return {
      row,
      who,
      tokensPerSecond: spread(its.map((line) => line.tokensPerSecond)),
      peakGiB,
      ...(shareOfLimit === undefined ? {} : { shareOfLimit }),
      ...(mfu === undefined ? {} : { mfu })
    }
  })
  if (words.includes("--json")) {
    for (const line of table) process.stdout.write(`${JSON.stringify(line)}\n`)
    continue
  }
  const fastest = Math.max(...table.filter(({ who }) => who !== "caravan").map((line) => line.tokensPerSecond.median))
  process.stdout.write(
    `${row}: ${ours.slice(1).join(" ")}, ${rounds} rounds\n| who | tokens/s (lowest, highest) | peak | beside the fastest peer | of the limit |\n|---|---|---|---|---|\n`
  )
  for (const { mfu, peakGiB, shareOfLimit, tokensPerSecond: speed, who } of table) {
    const number = (value: number) => Math.round(value).toLocaleString("en")
    const ratio = who === "caravan" && Number.isFinite(fastest) ? (speed.median / fastest).toFixed(2) : ""
    const share = shareOfLimit ?? mfu
    process.stdout.write(
      `| ${who} | ${number(speed.median)} (${number(speed.lowest)}, ${number(speed.highest)}) | ${peakGiB.toFixed(1)} GiB | ${ratio} | ${share === undefined ? "" : share.toFixed(2)} |\n`
    )
  }
}
