/**
 * Losses of the first steps of training all weights, in bfloat16 with float32 masters, on ranks or in one process, for comparison with FSDP2's on the same weights and tokens (bench/peers/fsdp2_losses.py, with the same arguments and output):
 *
 *     node bench/on-ranks.ts 2 bench/losses.ts <model folder> steps=20 batch=2 length=4096 recompute=32
 *     torchrun --nproc-per-node 2 bench/peers/fsdp2_losses.py <model folder> steps=20 batch=2 length=4096
 *
 * batch: sequences per rank; choose it so that the global batch stays the same for other numbers of ranks. device=cpu, dtype=float32: for testing without GPUs.
 */
import * as Effect from "effect/Effect"
import { accumulateGradients, clipGradientNorm } from "../engine/gradients.ts"
import { AdamW } from "../engine/optimizer.ts"
import { rank, ranks, type Sharding, sumOver } from "../engine/ranks.ts"
import { backward } from "../engine/segments.ts"
import { spreadOver } from "../engine/spread.ts"
import { type DType, scoped, tensor } from "../engine/tensor.ts"
import { loadPolicyFrom } from "../models/checkpoint.ts"
import { joinFromEnvironment } from "./join-ranks.ts"

const [folder, ...words] = process.argv.slice(2)
const given = Object.fromEntries(words.map((word) => word.split("=") as [string, string]))
const number = (name: string, otherwise: number) => Number(given[name] ?? otherwise)
const [steps, batch, length, recompute] = [number("steps", 20), number("batch", 2), number("length", 4096), number("recompute", 0)]
const device = (given.device ?? "cuda") as "cuda" | "cpu"
joinFromEnvironment((given.sharding ?? "weights") as Sharding, device)
const { model } = await Effect.runPromise(loadPolicyFrom(folder!, { device, dtype: (given.dtype ?? "bfloat16") as DType }))
const { config, parameters } = model
for (const weight of Object.values(parameters)) weight.requiresGrad()
const spread = spreadOver(parameters)
const optimizer = new AdamW({ parameters: spread.parameters })

/** Token t of a row of the batch: a learnable sequence, different in each row. */
const token = (row: number, t: number): number => 3 + ((row * 31 + t * 7) % 251)
for (let step = 0; step < steps; step++) {
  const rows = Array.from({ length: batch }, (_, i) => (step * ranks() + rank()) * batch + i)
  let mine = 0
  scoped(() => {
    const ids = tensor(
      Int32Array.from({ length: batch * length }, (_, i) => token(rows[Math.floor(i / length)]!, i % length)),
      { shape: [batch, length], dtype: "int64", device }
    )
    const targets = tensor(
      Int32Array.from({ length: batch * length }, (_, i) => token(rows[Math.floor(i / length)]!, (i % length) + 1)),
      { dtype: "int64", device }
    )
    accumulateGradients(
      parameters,
      [undefined],
      () => {
        const states = model.hidden(ids).view(-1, config.dim)
        const sum = model.distribution(states, targets).logProbabilities.sum()
        mine = sum.toNumbers()[0]!
        backward(sum.div(-batch * length * ranks()))
      },
      { recompute, weights: spread }
    )
    clipGradientNorm(spread.parameters, 1, spread)
    optimizer.step(1e-5)
    spread.updated()
  })
  const [sum] = sumOver([mine], "the loss")
  process.stdout.write(`step ${step + 1} loss ${(-sum! / (batch * length * ranks())).toFixed(5)}\n`)
}
process.exit(0)
