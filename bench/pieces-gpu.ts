/**
 * Time of each part of a Llama block on a GPU, forward and backward, with our kernels and with libtorch's operators, compared with the time that its products or
 * bytes need at the GPU's full speed. Prints a table.
 *
 *     node bench/pieces-gpu.ts size=7b tokens=4096 length=4096
 */
import { environment, gpuKernelsMissing, synchronize } from "../engine/device.ts"
import { joinedLinear, rmsNorm, swiglu, tokenDistribution, useKernels } from "../engine/fused.ts"
import { AdamW } from "../engine/optimizer.ts"
import { clearGradients, keep, linear, noGrad, scoped, tensor, type Tensor, zeros } from "../engine/tensor.ts"
import { causalLayout, rotaryAttention } from "../models/attention.ts"
import { presets } from "../models/config.ts"
import { RotaryTable } from "../models/rotary.ts"

const given = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=") as [string, string]))
const config = { ...presets[(given.size ?? "7b") as keyof typeof presets], maxPositions: 4096 }
const tokens = Number(given.tokens ?? 4096)
const length = Number(given.length ?? 4096)
const { dim, ffn, headDim, heads, kvHeads, vocabSize } = config
const device = "cuda"
const like = { dtype: "bfloat16", device } as const
const random = (...shape: ReadonlyArray<number>) => keep(scoped(() => noGrad(() => zeros(shape, like).normal_(0, 0.5)))).requiresGrad()

/** The GPU's data sheet: dense bfloat16 FLOP/s and bytes per second. */
const [peak, bandwidth] = [989e12, 4.8e12]
const time = (run: () => void): number => {
  for (let i = 0; i < 3; i++) run()
  synchronize()
  const started = performance.now()
  for (let i = 0; i < 20; i++) run()
  synchronize()
  return (performance.now() - started) / 20
}
/** Milliseconds of the forward pass, and of the backward pass (both passes minus forward). */
const both = (leaves: ReadonlyArray<Tensor>, form: () => Tensor) => {
  const forward = time(() => scoped(() => noGrad(() => void form())))
  const gradient = keep(scoped(() => noGrad(() => form().normal_(0, 1))))
  const all = time(() => {
    scoped(() => form().backward(gradient))
    clearGradients(leaves)
  })
  gradient.free()
  return { forward, backward: all - forward }
}
const x = random(tokens / length, length, dim)
const wide = random(tokens / length, length, 2 * ffn)
const narrow = random(tokens / length, length, ffn)
const qkv = random(tokens / length, length, (heads + 2 * kvHeads) * headDim)
const norm = random(dim)
const [q, k, v] = [random(heads * headDim, dim), random(kvHeads * headDim, dim), random(kvHeads * headDim, dim)]
const [gate, up, down, output] = [random(ffn, dim), random(ffn, dim), random(dim, ffn), random(vocabSize, dim)]
const rotation = new RotaryTable(config).at(device, "bfloat16", length)
const layout = causalLayout(length, "bfloat16", device)
const targets = tensor(
  Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocabSize),
  { dtype: "int64", device }
)
const flat = keep(scoped(() => noGrad(() => x.view(tokens, dim).clone()))).requiresGrad()
const optimizer = new AdamW({ parameters: { gate, up, down } })

const product = (rows: number, columns: number) => (2 * tokens * rows * columns) / peak
const bytes = (numbers: number) => (2 * numbers) / bandwidth
const pieces: ReadonlyArray<readonly [string, ReadonlyArray<Tensor>, () => Tensor, number, number]> = [
  ["norm", [x, norm], () => rmsNorm(x, norm, 1e-5), bytes(2 * tokens * dim), bytes(3 * tokens * dim)],
  [
    "q, k, v",
    [x, q, k, v],
    () => joinedLinear(x, [q, k, v]),
    product(dim, (heads + 2 * kvHeads) * headDim),
    2 * product(dim, (heads + 2 * kvHeads) * headDim)
  ],
  [
    "attention with rotation",
    [qkv],
    () => rotaryAttention(qkv, rotation, layout, heads, kvHeads),
    (2 * tokens * length * heads * headDim) / peak,
    (5 * tokens * length * heads * headDim) / peak
  ],
  ["gate, up", [x, gate, up], () => joinedLinear(x, [gate, up]), product(dim, 2 * ffn), 2 * product(dim, 2 * ffn)],
  ["SwiGLU", [wide], () => swiglu(wide), bytes(3 * tokens * ffn), bytes(5 * tokens * ffn)],
  ["down", [narrow, down], () => linear(narrow, down), product(ffn, dim), 2 * product(ffn, dim)],
  ["residual", [x], () => x.add(x), bytes(3 * tokens * dim), bytes(2 * tokens * dim)],
  [
    "vocabulary",
    [flat, output],
    () => tokenDistribution(flat, output, targets).logProbabilities,
    product(dim, vocabSize),
    2 * product(dim, vocabSize)
  ]
]
const row = (...cells: ReadonlyArray<string | number>) =>
  process.stdout.write(`| ${cells.map((cell) => (typeof cell === "number" ? cell.toFixed(3) : cell)).join(" | ")} |\n`)
const { gpu, libtorch } = environment()
process.stdout.write(
  `${gpu}, libtorch ${libtorch}, ${JSON.stringify(given)}${gpuKernelsMissing() === undefined ? "" : `, no kernels: ${gpuKernelsMissing()}`}; milliseconds\n\n`
)
row("part", "forward", "libtorch's", "limit", "backward", "libtorch's", "limit")
row(...new Array<string>(7).fill("---"))
for (const [name, leaves, form, forwardLimit, backwardLimit] of pieces) {
  const ours = both(leaves, form)
  useKernels(false)
  const theirs = both(leaves, form)
  useKernels(true)
  row(name, ours.forward, theirs.forward, forwardLimit * 1000, ours.backward, theirs.backward, backwardLimit * 1000)
}
const step = () => {
  scoped(() => gate.sum().add(up.sum()).add(down.sum()).backward())
  optimizer.step(1e-5)
}
const sums = time(() => {
  scoped(() => gate.sum().add(up.sum()).add(down.sum()).backward())
  clearGradients([gate, up, down])
})
const own = time(step) - sums
useKernels(false)
const libtorchs = time(step) - sums
useKernels(true)
row("AdamW of gate, up and down", own, libtorchs, (28 * 3 * dim * ffn * 1000) / bandwidth, "", "", "")
