/**
 * Runs ours and a peer alternately, fifteen times each, and prints the ratio of their speeds for each case: the median, and the lowest and
 * highest pair.
 *
 *     node bench/pairs.ts train|generate [pairs]
 *
 * The peers are plain PyTorch with one thread (bench/peers/). PYTHON is the path of a Python with torch; the default, Debian's, is on the same libtorch.
 */
import { execFileSync } from "node:child_process"
import { cpus } from "node:os"
import { fileURLToPath } from "node:url"
import { environment } from "../engine/device.ts"
import { median } from "../stages/common/statistics.ts"

const here = fileURLToPath(new URL(".", import.meta.url))
const python = process.env.PYTHON ?? "/usr/bin/python3"
const [what = "train", count = "15"] = process.argv.slice(2)
const ours = { train: "train.ts", generate: "generate.ts" }[what]
const peer = { train: "torch_train_cpu.py", generate: "torch_generate_cpu.py" }[what]
if (ours === undefined || peer === undefined) {
  process.stderr.write("Usage: node bench/pairs.ts train|generate [pairs]\n")
  process.exit(2)
}

try {
  execFileSync(python, ["-c", "import torch"], { stdio: "ignore" })
} catch {
  process.stderr.write(
    `The peer needs torch, which ${python} does not have: set PYTHON to a Python that does (on Debian: apt install python3-torch).\n`
  )
  process.exit(1)
}

// Loads libtorch before the first pair: this sets the variable with which the peer gets the same OpenBLAS kernels (engine/kernels.ts).
const { libtorch, blas, cpuCapability } = environment()

/** Tokens per second for each case, from lines that name a case and contain "N tok/s" or "tok/s N". */
const speeds = (output: string): Map<string, number> => {
  const found = new Map<string, number>()
  for (const line of output.split("\n")) {
    const size = /\b(s260k|m3)\b/.exec(line)?.[1]
    const batch = /\bB(\d+)\b/.exec(line)?.[1]
    const speed = /tok\/s ([\d,]+)/.exec(line)?.[1] ?? /([\d,]+) tok\/s/.exec(line)?.[1]
    if (size !== undefined && speed !== undefined)
      found.set(batch === undefined ? size : `${size} B${batch}`, Number(speed.replaceAll(",", "")))
  }
  return found
}

const ratios = new Map<string, Array<{ readonly ours: number; readonly peer: number }>>()
for (let pair = 0; pair < Number(count); pair++) {
  const runOurs = () => speeds(execFileSync(process.execPath, [`${here}${ours}`], { encoding: "utf8" }))
  // Debian's OpenBLAS has threads of its own, which torch.set_num_threads does not limit.
  const env = { ...process.env, OPENBLAS_NUM_THREADS: "1" }
  const runPeer = () => speeds(execFileSync(python, [`${here}peers/${peer}`], { encoding: "utf8", env }))
  // Alternate the order, so that drift (heat, other load) favours neither.
  const [a, b] = pair % 2 === 0 ? [runOurs(), runPeer()] : [runPeer(), runOurs()].reverse()
  for (const [name, speed] of a!) ratios.set(name, [...(ratios.get(name) ?? []), { ours: speed, peer: b!.get(name)! }])
}

process.stdout.write(
  `${what}, ${count} pairs, ${cpus()[0]?.model}, libtorch ${libtorch}, ${blas.split(" ").slice(0, 2).join(" ")} (${blas.split(" ").at(-1)}), ${cpuCapability}, 1 thread\n`
)
process.stdout.write("| case | ours, tokens/s | peer, tokens/s | ratio (median) | lowest | highest |\n|---|---|---|---|---|---|\n")
for (const [name, pairs] of ratios) {
  const each = pairs.map((pair) => pair.ours / pair.peer)
  const cells = [
    median(pairs.map((pair) => pair.ours)).toFixed(0),
    median(pairs.map((pair) => pair.peer)).toFixed(0),
    median(each).toFixed(2),
    Math.min(...each).toFixed(2),
    Math.max(...each).toFixed(2)
  ]
  process.stdout.write(`| ${name} | ${cells.join(" | ")} |\n`)
}
