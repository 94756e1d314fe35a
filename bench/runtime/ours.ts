/**
 * One measurement of ours, in a separate process. The folder was made by layered.ts `prepare`:
 *
 *     node bench/runtime/ours.ts run|run-child|run-process|plan <folder> <nodes>
 *
 * run-child runs the nodes in reused children, run-process starts one process per node, as the peers do. Prints a line of JSON: seconds in process (graph, code identity, work, journal), their CPU seconds,
 * seconds from the process's start until then, peak memory in MiB, numbers of nodes by status, and a digest of the pipeline's outputs.
 */
import { createHash } from "node:crypto"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Numerics } from "../../runtime/key/numerics.ts"
import type { StoredOutput } from "../../runtime/run/events.ts"
import { layer } from "../../runtime/run/layer.ts"
import { plan } from "../../runtime/run/plan.ts"
import { run } from "../../runtime/run/run.ts"
import { pipelineOf, read } from "./cat.ts"

export interface Measured {
  readonly seconds: number
  readonly cpuSeconds: number
  readonly startUp: number
  readonly mebibytes: number
  readonly nodes: Readonly<Record<string, number>>
  readonly outputs: string
}

const [what, folder, count] = process.argv.slice(2)
if (!["run", "run-child", "run-process", "plan"].includes(what!) || folder === undefined || count === undefined) {
  process.stderr.write("Usage: node bench/runtime/ours.ts run|run-child|run-process|plan <folder> <nodes>\n")
  process.exit(2)
}
const started = performance.now()
const before = process.cpuUsage()
const pipeline = pipelineOf(
  Number(count),
  join(folder, "sources"),
  what === "run-process" ? "process" : what === "run-child" ? "in-child" : "in-process"
)
const options = { jobs: 4 }
const services = Layer.merge(layer({ home: join(folder, "home") }), Layer.succeed(Numerics, { describe: () => Effect.succeed({}) }))
const ends: Array<string> = []
const outputs = new Map<string, string>()
if (what === "plan") {
  const planned = await Effect.runPromise(plan(pipeline, {}, options).pipe(Effect.provide(services)))
  for (const { kind } of planned.nodes.values()) ends.push(kind)
} else {
  const result = await Effect.runPromise(run(pipeline, {}, options).pipe(Effect.provide(services)))
  for (const { status } of result.nodes) ends.push(status)
  for (const [name, { path }] of Object.entries<StoredOutput>(result.outputs)) outputs.set(name, path)
}
const seconds = (performance.now() - started) / 1000
const { system, user } = process.cpuUsage(before)

const nodes: Record<string, number> = {}
for (const end of ends) nodes[end] = (nodes[end] ?? 0) + 1
const hash = createHash("sha256")
for (const name of [...outputs.keys()].sort()) hash.update(read(outputs.get(name)!))
const measured: Measured = {
  seconds,
  cpuSeconds: (system + user) / 1e6,
  startUp: started / 1000,
  mebibytes: process.resourceUsage().maxRSS / 1024,
  nodes,
  outputs: hash.digest("hex")
}
process.stdout.write(`${JSON.stringify(measured)}\n`)
