/**
 * Rows of the GPU tables in docs/performance.md: Caravan and its peers, alternating, each in a separate process. Prints the median with the lowest and highest value, peak memory, and the
 * ratio to the fastest peer.
 *
 *     node bench/gpu.ts generate-1.1b train-1.1b [rounds=3] [--json]
 *     node bench/gpu.ts generate-1.1b profile=on       # only Caravan, with the time per kernel and the gaps between kernels
 *     TRL_MODEL=<folder of bench/peers/trl/make_model.py> HH_RLHF=<harmless-base-test.jsonl.gz> node bench/gpu.ts trl-sft trl-reward trl-reward-8 ppo-134m
 *
 * PYTHON is the path of a Python with torch and transformers (for the trl rows, also trl). A row takes one to eight minutes.
 */
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { median } from "../stages/common/statistics.ts"

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
/** The same work as TRL's benchmark. */
const trl = (
  what: "sft" | "reward" | "ppo",
  ours: string,
  ways: ReadonlyArray<string>,
  others: ReadonlyArray<ReadonlyArray<string>> = []
): Work => {
  const { HH_RLHF: data = "", TRL_MODEL: model = "" } = process.env
  return {
    ours: ["trl/main.ts", what, `model=${model}`, ...ours.split(" ").filter((word) => word !== "")],
    peers: [
      ...others.map((other) => [...other, model]),
      ...ways.map((way) => ["peers/trl/trl_bench.py", model, data, what, ...way.split(" ")])
    ]
  }
}
const rows: Readonly<Record<string, Work>> = {
  "generate-110m": decoding("size=110m batch=64 prompt=64 new=256"),
  "generate-1.1b": decoding("size=1.1b batch=64 prompt=64 new=256"),
  "generate-7b-16": decoding("size=7b batch=16 prompt=64 new=128"),
  "generate-7b-64": decoding("size=7b batch=64 prompt=64 new=256"),
  "train-110m": training("size=110m batch=16 length=1024", ["", "compile=on"]),
  "train-134m": training("size=134m batch=16 length=1024", ["", "compile=on"]),
  "train-1.1b": training("size=1.1b batch=4 length=4096", ["", "compile=on"]),
  "train-7b": training("size=7b batch=1 length=4096 micro=16 steps=2", [], "recompute=32"),
  "train-7b-kept": training("size=7b batch=1 length=4096 micro=16 steps=2", []),
  "generate-7b-mixed": {
    ours: ["mixed-gpu.ts", "size=7b"],
    peers: [["peers/torch_mixed_gpu.py", "size=7b"]]
  },
  "trl-sft": trl("sft", "", ["--precision autocast --packing wrapped", "--precision bf16 --packing wrapped"]),
  "trl-reward": trl("reward", "", ["--precision autocast", "--precision bf16"]),
  "trl-reward-8": trl("reward", "microPairs=8", ["--precision autocast", "--precision bf16"]),
  "ppo-134m": trl("ppo", "", [], [["peers/torch_ppo_gpu.py"]])
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

/** The output of a benchmark: one line of JSON. */
interface Line {
  readonly who: string
  /** Only from TRL. */
  readonly precision?: string
  readonly tokensPerSecond: number
  /** Only from PPO. */
  readonly secondsPerIteration?: number
  readonly peakGiB: number
  readonly shareOfLimit?: number
  readonly mfu?: number
}
const here = fileURLToPath(new URL(".", import.meta.url))
/** A peer that fails is reported and left out: it may run out of memory where Caravan does not. */
const run = ([script, ...args]: ReadonlyArray<string>): Line | undefined => {
  const program = script!.endsWith(".py") ? (process.env.PYTHON ?? "python3") : process.execPath
  try {
    const output = execFileSync(program, [`${here}${script}`, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
    const line = JSON.parse(output.trim().split("\n").at(-1)!) as Line
    return line.precision === undefined ? line : { ...line, who: `${line.who}, ${line.precision}` }
  } catch (error) {
    const message = error instanceof Error && "stderr" in error ? String(error.stderr).trim().split("\n").at(-1) : String(error)
    process.stderr.write(`${script} ${args.join(" ")}: ${message}\n`)
    return undefined
  }
}
const spread = (values: ReadonlyArray<number>) => ({ median: median(values), lowest: Math.min(...values), highest: Math.max(...values) })

for (const row of asked) {
  const { ours, peers } = rows[row]!
  if (given.profile === "on") {
    process.stdout.write(execFileSync(process.execPath, [`${here}${ours[0]}`, ...ours.slice(1), "profile=on"], { encoding: "utf8" }))
    continue
  }
  const lines: Array<Line> = []
  for (let round = 0; round < rounds; round++) {
    // Alternate the order, so that drift favours nobody.
    const all = [ours, ...peers]
    for (const command of round % 2 === 0 ? all : all.toReversed()) lines.push(...[run(command)].filter((line) => line !== undefined))
  }
  const whos = [...new Set(lines.map(({ who }) => who))].toSorted((a, b) => Number(b === "caravan") - Number(a === "caravan"))
  const unit = lines.some(({ secondsPerIteration }) => secondsPerIteration !== undefined) ? "iterations/min" : "tokens/s"
  const table = whos.map((who) => {
    const its = lines.filter((line) => line.who === who)
    const { mfu, peakGiB, shareOfLimit } = its[0]!
    const speed = spread(
      its.map(({ secondsPerIteration, tokensPerSecond }) =>
        secondsPerIteration === undefined ? tokensPerSecond : 60 / secondsPerIteration
      )
    )
    return { row, who, unit, speed, peakGiB, share: shareOfLimit ?? mfu ?? null }
  })
  if (words.includes("--json")) {
    for (const line of table) process.stdout.write(`${JSON.stringify(line)}\n`)
    continue
  }
  const fastest = Math.max(...table.filter(({ who }) => who !== "caravan").map(({ speed }) => speed.median))
  process.stdout.write(
    `${row}: ${ours.slice(1).join(" ")}, ${rounds} rounds\n| who | ${unit} (lowest, highest) | peak | ratio to the fastest peer | share of the limit |\n|---|---|---|---|---|\n`
  )
  for (const { peakGiB, share, speed, who } of table) {
    const number = (value: number) => (value < 1000 ? value.toPrecision(3) : Math.round(value).toLocaleString("en"))
    const ratio = who === "caravan" && Number.isFinite(fastest) ? (speed.median / fastest).toFixed(2) : ""
    process.stdout.write(
      `| ${who} | ${number(speed.median)} (${number(speed.lowest)}, ${number(speed.highest)}) | ${peakGiB.toFixed(1)} GiB | ${ratio} | ${share === null ? "" : share.toFixed(2)} |\n`
    )
  }
}
