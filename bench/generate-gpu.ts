/**
 * Generation with a random Llama on a GPU: prompts of equal length, a fixed number of new tokens, without early ends. Prints a line of JSON with the share of the limit set by the GPU's
 * memory bandwidth (reading the weights and the cache so far once per step).
 *
 *     node bench/generate-gpu.ts size=1.1b batch=64 prompt=64 new=256 [requests=64] [topk=50] [topp=0.9] [invariant=on] [kernels=off] [products=libtorch] [attention=plain] [profile=on]
 *
 * plans=FILE: JSON with a plan per product, { "1.1b qkv": [tile, split, stages], ... } (qkv, o, gateup, down, vocab). The others keep their built-in plan, or are libtorch's.
 */
import { readFileSync } from "node:fs"
import { deviceMemory, environment, synchronize } from "../engine/device.ts"
import { useKernels, useOwnProducts, useStreamedAttention } from "../engine/fused.ts"
import { describeProfile, profileGpu } from "../engine/profile.ts"
import { atenVoid, type DType } from "../engine/tensor.ts"
import { parameterCount } from "../models/config.ts"
import { decodingTraffic } from "../models/cost.ts"
import { generate } from "../models/sampler.ts"
import { randomLlama, sizes } from "./random-llama.ts"

const given = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=") as [string, string]))
const number = (name: string, otherwise: number) => Number(given[name] ?? otherwise)
const size = given.size ?? "1.1b"
const config = { ...sizes[size]!, maxPositions: 4096 }
const dtype = (given.dtype ?? "bfloat16") as DType
const [batch, prompt, response] = [number("batch", 64), number("prompt", 64), number("new", 256)]
const requests = number("requests", batch)
const [topK, topP] = [number("topk", 0), number("topp", 1)]
if (given.kernels === "off") useKernels(false)
if (given.products === "libtorch") useOwnProducts(false)
if (given.attention === "plain") useStreamedAttention(false)
if (given.plans !== undefined) {
  const { dim, ffn, headDim, heads, kvHeads, vocabSize } = config
  const shapes = {
    qkv: [(heads + 2 * kvHeads) * headDim, dim],
    o: [dim, heads * headDim],
    gateup: [ffn, dim],
    down: [dim, ffn],
    vocab: [vocabSize, dim]
  }
  const plans = JSON.parse(readFileSync(given.plans, "utf8")) as Record<string, ReadonlyArray<number>>
  for (const [product, [columns, width]] of Object.entries(shapes)) {
    const plan = plans[`${size} ${product}`]
    if (plan !== undefined) atenVoid("caravan::choose_product", columns, width, product === "gateup", ...plan.slice(0, 3))
  }
}
const model = randomLlama(config, { dtype, device: "cuda" })
const prompts = Array.from({ length: requests }, (_, row) =>
  Array.from({ length: prompt }, (__, i) => 3 + ((row * 31 + i * 7919) % 31_000))
)
const go = (maxNewTokens: number) =>
  generate(model, prompts, {
    ...{ maxNewTokens, temperature: 1, topK, topP, seeds: prompts.map((_, i) => i), eosId: undefined, padId: 0, batchSize: batch },
    batchInvariant: given.invariant === "on"
  })
const timed = (maxNewTokens: number) => {
  const started = performance.now()
  const answers = go(maxNewTokens)
  synchronize()
  return { answers, milliseconds: performance.now() - started }
}
go(16)
synchronize()
// Prompts, the recording of the graph and the first steps.
const beginning = timed(16).milliseconds
deviceMemory({ resetPeak: true })
const { answers, milliseconds } = timed(response)
const tokens = answers.reduce((sum, answer) => sum + answer.tokens.length, 0)
// For an H200, which reaches 4.3 TB/s of its data sheet's bandwidth.
const limit = (decodingTraffic({ config, scalarHead: false }, "bfloat16", batch, { prompt, response }) * (requests / batch)) / 4.3e12
const { gpu, libtorch } = environment()
const line = {
  ...{
    who: "caravan",
    size,
    dtype,
    batch,
    requests,
    prompt,
    new: response,
    kernels: given.kernels !== "off",
    topK,
    topP,
    invariant: given.invariant === "on",
    products: given.products ?? "own",
    attention: given.attention ?? "streamed",
    parameters: parameterCount(config)
  },
  ...{ tokensPerSecond: Math.round((tokens * 1000) / milliseconds), millisecondsAStep: milliseconds / (response * (requests / batch)) },
  // Without the prompts, as the peers are timed.
  ...(requests === batch && response > 16
    ? { decodingTokensPerSecond: Math.round((batch * (response - 16) * 1000) / (milliseconds - beginning)) }
    : {}),
  ...{
    limit: Math.round(tokens / limit),
    shareOfLimit: (limit * 1000) / milliseconds,
    peakGiB: (deviceMemory()?.peak ?? 0) / 2 ** 30,
    libtorch,
    gpu
  }
}
process.stdout.write(`${JSON.stringify(line)}\n`)
if (given.profile === "on") process.stdout.write(describeProfile(profileGpu(() => void go(32))))
