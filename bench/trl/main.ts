/**
 * One stage on the same work as TRL (pipeline.ts), run with `caravan run` and timed after a warm-up from its events. Prints a line of JSON.
 *
 *     PYTHONPATH=<trl> python3 bench/peers/trl/make_model.py <folder> <tokenizer.model> <harmless-base-test.jsonl.gz>
 *     node bench/trl/main.ts sft|reward|ppo model=<folder> [microPairs=8] [precision=float32] [device=cpu] ...
 *
 * Compared with bench/peers/trl/trl_bench.py, and with bench/peers/torch_ppo_gpu.py for PPO, which TRL 1.13 does not have. Tokens per second: for SFT, those of packed sequences, padding included; for the reward model,
 * those of both responses with their prompts.
 */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

interface Event {
  readonly time: string
  readonly type: string
  readonly node?: unknown
  readonly progress?: Readonly<Record<string, number | undefined>>
}

const [what = "", ...words] = process.argv.slice(2)
/** Warm-up steps, not timed. */
const warmUp = { sft: 5, reward: 5, ppo: 2 }[what]
const given = Object.fromEntries(words.map((word) => word.split("=") as [string, string]))
const { device = "cuda", ...params } = given
if (warmUp === undefined || params.model === undefined) {
  process.stderr.write(
    "Usage: node bench/trl/main.ts sft|reward|ppo model=<folder> [<parameter of bench/trl/pipeline.ts>=<value> ...] [device=cuda]\n"
  )
  process.exit(2)
}
const here = fileURLToPath(new URL(".", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "caravan-trl-"))
try {
  const events = join(folder, "events.ndjson")
  const sets = Object.entries(params).flatMap(([name, value]) => ["--set", `${name}=${value}`])
  const target = what === "reward" ? "accuracy" : what
  const command = [join(here, "../../cli/caravan.js"), "run", join(here, "pipeline.ts"), "--device", device, "--until", target]
  execFileSync(process.execPath, [...command, "--quiet", "--events", events, ...sets], {
    env: { ...process.env, CARAVAN_HOME: join(folder, "store") },
    stdio: ["ignore", "ignore", "inherit"]
  })
  const all = readFileSync(events, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Event)
  // The last metric of a PPO iteration is its seconds, that of a training step its loss.
  const end = what === "ppo" ? "generationSeconds" : "loss"
  const steps = all.flatMap(({ node, progress, time, type }) =>
    type === "progress" && node === what && progress?.[end] !== undefined ? [{ at: Date.parse(time), ...progress }] : []
  ) as ReadonlyArray<Readonly<Record<string, number>>>
  const timed = steps.slice(warmUp)
  if (timed.length === 0) throw new Error(`${what} took ${steps.length} steps and ${warmUp} are for warm-up: increase the number of steps`)
  const seconds = (timed.at(-1)!.at! - steps[warmUp - 1]!.at!) / 1000
  const total = (name: string) => timed.reduce((sum, step) => sum + (step[name] ?? 0), 0)
  const mean = (name: string) => total(name) / timed.length
  const line = {
    ...{ who: "caravan", what, steps: timed.length, millisecondsAStep: (1000 * seconds) / timed.length },
    ...(what === "ppo"
      ? {
          secondsPerIteration: seconds / timed.length,
          generationSeconds: mean("generationSeconds"),
          scoringSeconds: mean("scoringSeconds"),
          updateSeconds: mean("updateSeconds")
        }
      : { tokensPerSecond: Math.round(total("tokens") / seconds), lastLoss: timed.at(-1)!.loss }),
    // In MiB.
    peakGiB: Math.max(...steps.map((step) => step.gpuMemory ?? 0)) / 1024
  }
  process.stdout.write(`${JSON.stringify(line)}\n`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
