/**
 * Compares ours with make, ninja and Snakemake on the same layered graph, cold and with nothing to do:
 *
 *     node bench/runtime/main.ts [nodes] [rounds] [peers]
 *
 * In each round every system starts in a new folder (a folder that was just emptied is slower on ext4, because inodes are not reused for some seconds);
 * the order changes. Peers that are not installed are skipped and listed. All must end with the same bytes. Prints tables of medians.
 * FOLDER is the working folder; its disk affects the measurement.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { availableParallelism, cpus, loadavg, tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { digestOfEnds, prepare } from "./layered.ts"
import type { Measured } from "./ours.ts"
import { median } from "../../stages/common/statistics.ts"

const [nodes, rounds] = [Number(process.argv[2] ?? 10_000), Number(process.argv[3] ?? 3)]
const wanted = (process.argv[4] ?? "make,ninja,snakemake").split(",").filter((name) => name !== "")
const jobs = String(availableParallelism())
const commands: Readonly<Record<string, readonly [program: string, ...args: ReadonlyArray<string>]>> = {
  make: ["make", "-s", "-j", jobs],
  ninja: ["ninja", "--quiet", "-j", jobs],
  snakemake: ["snakemake", "--quiet", "all", "--cores", jobs]
}
const folder = mkdtempSync(join(process.env.FOLDER ?? tmpdir(), "runtime-bench-"))
const missing = wanted.filter((name) => spawnSync(commands[name]![0], ["--version"]).status !== 0)
const peers = wanted.filter((name) => !missing.includes(name))

interface Took {
  readonly cold: number
  readonly idle: number
  readonly outputs: string
}

const runPeer = (name: string, where: string): Took => {
  const [program, ...args] = commands[name]!
  const once = (): number => {
    const started = performance.now()
    const { status, stderr } = spawnSync(program, args, { cwd: where, encoding: "utf8", maxBuffer: 1 << 28 })
    if (status !== 0) throw new Error(`${name} ended with ${status}: ${stderr.slice(-2000)}`)
    return (performance.now() - started) / 1000
  }
  const [cold, idle] = [once(), once()]
  return { cold, idle, outputs: digestOfEnds(where, nodes) }
}

const measure = (what: "run" | "run-child" | "run-process" | "plan", where: string): Measured & { readonly whole: number } => {
  const started = performance.now()
  const entry = fileURLToPath(new URL("ours.ts", import.meta.url))
  // Use a compile cache, as the command line does.
  const env = { ...process.env, NODE_COMPILE_CACHE: join(folder, "compile-cache") }
  const { status, stderr, stdout } = spawnSync(process.execPath, [entry, what, where, String(nodes)], { encoding: "utf8", env })
  if (status !== 0) throw new Error(`ours (${what}) ended with ${status}: ${stderr}`)
  return { ...(JSON.parse(stdout) as Measured), whole: (performance.now() - started) / 1000 }
}
const details: Record<string, Array<Measured>> = { "run, cold": [], "run, nothing to do": [], "plan, nothing to do": [] }
const runOurs = (what: "run" | "run-child" | "run-process", where: string): Took => {
  const [cold, idle] = [measure(what, where), measure(what, where)]
  if (cold.nodes.ran !== nodes || idle.nodes.hit !== nodes || cold.outputs !== idle.outputs)
    throw new Error(`ours ended with ${JSON.stringify([cold, idle])}`)
  if (what === "run") {
    details["run, cold"]!.push(cold)
    details["run, nothing to do"]!.push(idle)
    details["plan, nothing to do"]!.push(measure("plan", where))
  }
  return { cold: cold.whole, idle: idle.whole, outputs: cold.outputs }
}

const systems: Readonly<Record<string, (where: string) => Took>> = {
  ours: (where) => runOurs("run", where),
  "ours, in children": (where) => runOurs("run-child", where),
  "ours, one process per node": (where) => runOurs("run-process", where),
  ...Object.fromEntries(peers.map((name) => [name, (where: string) => runPeer(name, where)]))
}
const took = new Map<string, Array<Took>>()
try {
  for (let round = 0; round < rounds; round++) {
    const order = Object.keys(systems)
    for (const name of [...order.slice(round % order.length), ...order.slice(0, round % order.length)]) {
      const where = join(folder, `${round}-${name.replaceAll(/\W+/g, "-")}`)
      prepare(where, nodes)
      const result = systems[name]!(where)
      took.set(name, [...(took.get(name) ?? []), result])
      process.stderr.write(
        `${name}: cold ${result.cold.toFixed(2)} s, again ${result.idle.toFixed(2)} s (load ${loadavg()[0]!.toFixed(1)})\n`
      )
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
if (new Set([...took.values()].flat().map(({ outputs }) => outputs)).size !== 1)
  throw new Error("the systems did not end with the same bytes")

const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) =>
  process.stdout.write(`${[head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n")}\n\n`)
process.stdout.write(`${nodes} nodes, ${rounds} rounds, ${cpus()[0]?.model}, ${jobs} threads, Node ${process.version}\n\n`)
if (missing.length > 0) process.stdout.write(`Not installed: ${missing.join(", ")}\n\n`)
const of = (name: string, field: "cold" | "idle") => median(took.get(name)!.map((each) => each[field]))
table(
  ["whole process", "cold, s", "nodes/s", "ratio to ours", "nothing to do, s"],
  [...took.keys()].map((name) => [
    name,
    of(name, "cold").toFixed(2),
    (nodes / of(name, "cold")).toFixed(0),
    (of(name, "cold") / of("ours", "cold")).toFixed(2),
    of(name, "idle").toFixed(2)
  ])
)
table(
  ["ours, in process", "s", "CPU, s", "nodes/s", "start-up, s", "peak memory, MiB"],
  Object.entries(details).map(([name, all]) => {
    const value = (field: "seconds" | "cpuSeconds" | "startUp" | "mebibytes") => median(all.map((each) => each[field]))
    const [seconds, cpu, start] = [value("seconds"), value("cpuSeconds"), value("startUp")]
    return [name, seconds.toFixed(2), cpu.toFixed(2), (nodes / seconds).toFixed(0), start.toFixed(2), value("mebibytes").toFixed(0)]
  })
)
