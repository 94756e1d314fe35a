/**
 * The cost of a curve with many steps (runtime/run/curve.ts): a row, a checkpoint, the Parquet file and memory.
 *
 *     node bench/curve.ts 1000000
 */
import { Curve } from "../runtime/run/curve.ts"

const rows = Number(process.argv[2] ?? 1_000_000)
const resident = () => process.memoryUsage.rss() / 2 ** 20
const timed = async <A>(body: () => A | Promise<A>): Promise<readonly [A, number]> => {
  const started = process.cpuUsage()
  const result = await body()
  const { system, user } = process.cpuUsage(started)
  return [result, (system + user) / 1000]
}

const before = resident()
const curve = new Curve()
const [, adding] = await timed(() => {
  for (let step = 1; step <= rows; step++)
    curve.add({ step, total: rows, loss: 1 / step, learningRate: 1e-5, gradientNorm: Math.sqrt(step), tokens: 4096 })
})
const held = resident() - before
const [checkpoint, encoding] = await timed(() => curve.encode())
const [file, writing] = await timed(() => curve.parquet())
const [, again] = await timed(() => curve.parquet())
process.stdout.write(
  `${JSON.stringify({
    rows,
    microsecondsARow: (1000 * adding) / rows,
    heldMiB: held,
    checkpoint: { MiB: checkpoint.length / 2 ** 20, milliseconds: encoding },
    parquet: { MiB: file.length / 2 ** 20, milliseconds: writing, whenLoaded: again },
    residentMiB: resident()
  })}\n`
)
