/**
 * Speed of OpenBLAS's kernels on this processor: products of 512 x 512 float32 matrices on one thread, in GFLOP/s, the median and the best of ten rounds of a hundred.
 *
 *     node bench/kernels.ts [cores]        # for example Prescott Haswell SkylakeX; default: the choice of engine/kernels.ts
 */
import { spawnSync } from "node:child_process"
import { environment } from "../engine/device.ts"
import { noGrad, scoped, tensor } from "../engine/tensor.ts"

const cores = process.argv.slice(2)
if (cores.length > 0) {
  for (const core of cores)
    spawnSync(process.execPath, [import.meta.filename], { env: { ...process.env, OPENBLAS_CORETYPE: core }, stdio: "inherit" })
} else {
  const size = 512
  const [often, rounds] = [100, 10]
  const matrix = tensor(
    Float32Array.from({ length: size * size }, (_, i) => Math.sin(i)),
    { shape: [size, size] }
  )
  const product = () => scoped(() => void noGrad(() => matrix.matmul(matrix)))
  for (let i = 0; i < often; i++) product()
  const speeds = Array.from({ length: rounds }, () => {
    const started = performance.now()
    for (let i = 0; i < often; i++) product()
    return (2 * size ** 3 * often) / (performance.now() - started) / 1e6
  }).toSorted((a, b) => a - b)
  process.stdout.write(
    `${environment().blas.split(" ").at(-1)!.padEnd(12)} ${speeds[rounds >> 1]!.toFixed(0)} GFLOP/s, at best ${speeds.at(-1)!.toFixed(0)}\n`
  )
}
