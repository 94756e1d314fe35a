/**
 * The overhead of `Stage.map` per shard: the time of a map over many shards of ten rows, cold and with one more row, minus the time of the stage's own
 * reading and writing on as many folders. `node bench/runtime/shards.ts [shards]`. Prints CPU time and wall time: load on the machine affects only the latter.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import { Numerics } from "../../runtime/key/numerics.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { layer } from "../../runtime/run/layer.ts"
import { run } from "../../runtime/run/run.ts"
import { writeRows } from "../../schemas/dataset-file.ts"
import { Texts } from "../../schemas/rows.ts"
import { body, lines, shoutInParts, size } from "./shout.ts"

const count = Number(process.argv[2] ?? 1000)
const folder = mkdtempSync(join(tmpdir(), "shards-"))
const words = join(folder, "words.txt")

interface Took {
  readonly wall: number
  readonly cpu: number
}
const timed = async (work: () => Promise<unknown>): Promise<Took> => {
  const [wall, cpu] = [performance.now(), process.cpuUsage()]
  await work()
  const { user, system } = process.cpuUsage(cpu)
  return { wall: performance.now() - wall, cpu: (user + system) / 1000 }
}
const write = (rows: number) => writeFileSync(words, Array.from({ length: rows }, (_, i) => `word ${i}`).join("\n"))
const map = async (home: string) => {
  const pipeline = Pipeline.make("shards", { params: Schema.Struct({}) }, () => ({
    out: shoutInParts({ texts: lines({ file: fileAt(words) }) })
  }))
  const numerics = Layer.succeed(Numerics, { describe: () => Effect.succeed({}) })
  const services = Layer.merge(layer({ home: join(folder, home) }), numerics)
  const result = await Effect.runPromise(run(pipeline, {}).pipe(Effect.provide(services)))
  if (result.status !== "succeeded") throw new Error(result.nodes.map(({ error }) => error).join("\n"))
}
const writeInput = async () => {
  mkdirSync(join(folder, "alone", "in"), { recursive: true })
  await writeRows(
    join(folder, "alone", "in"),
    Texts,
    Array.from({ length: size }, (_, i) => ({ text: `word ${i}` }))
  )
}
const alone = async (shards: number) => {
  for (let i = 0; i < shards; i++) {
    const output = join(folder, "alone", `out-${i}`)
    mkdirSync(output)
    await Effect.runPromise(
      body({ path: join(folder, "alone", "in"), type: Texts.name, digest: "", contentDigest: "" }, { path: output, type: Texts })
    )
  }
}

try {
  await writeInput()
  // Warm up: load and compile code, pay the graph's fixed cost.
  write(200 * size)
  await map("warm")
  await alone(200)
  rmSync(join(folder, "alone", "out-0"), { recursive: true })
  write(size)
  const fixed = await timed(() => map("fixed"))
  rmSync(join(folder, "alone"), { recursive: true })
  await writeInput()
  const own = await timed(() => alone(count))
  write(count * size)
  const cold = await timed(() => map("measured"))
  write(count * size + 1)
  const appended = await timed(() => map("measured"))
  const row = (name: string, { wall, cpu }: Took) => ({
    name,
    "ms per shard, wall": +(wall / count).toFixed(3),
    "ms per shard, CPU": +(cpu / count).toFixed(3)
  })
  const less = (a: Took, ...others: ReadonlyArray<Took>): Took =>
    others.reduce((x, y) => ({ wall: x.wall - y.wall, cpu: x.cpu - y.cpu }), a)
  console.table([
    row("the stage alone", own),
    row(`map over ${count} shards`, cold),
    row("added by the map", less(cold, own, fixed)),
    row("one more row", less(appended, fixed))
  ])
} finally {
  rmSync(folder, { recursive: true, force: true })
}
