/**
 * Estimates for training and sampling on many GPUs: the memory of a rank, the bytes that it sends and receives per step, the time for communication and computation; rollouts. Prints the tables of docs/scale.md.
 *
 *     node bench/scale.ts
 *
 * A batch has 4M tokens (Llama 2 §2.2), in rows of 4,096; the micro-batch of a rank and its recomputed blocks are those that `caravan run` chooses for an H200 (stages/training/fit.ts).
 */
import { presets } from "../models/config.ts"
import { accelerators, decodingTraffic, generationFlops, trainingFlops } from "../models/cost.ts"
import { generationMemory, type SpreadOver, totalMemory, trainedParameterCount, usableMemory, weightBytes } from "../models/memory.ts"
import { fitOnGpu, trainingStep } from "../stages/training/fit.ts"

const length = 4096
const batch = 4 * 2 ** 20
/** Bytes per second that a GPU sends and receives: over NVLink, measured by the probe of decision 23; over a network with 400 Gb/s per GPU, from the data sheet. */
const rates = { NVLink: 225e9, network: 50e9 }
const mfu = 0.4
const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1)
const { flops, memory: device } = accelerators.h200

const line = (cells: ReadonlyArray<string | number>) => process.stdout.write(`| ${cells.join(" | ")} |\n`)
line([
  "model",
  "GPUs",
  "micro-batches x rows",
  "blocks recomputed",
  "GiB per rank",
  "fits",
  "GB each way per step",
  "s compute",
  "s NVLink",
  "s network"
])
line(new Array<string>(10).fill("---"))
for (const name of ["7b", "13b", "70b"] as const)
  for (const ranks of [8, 64, 512]) {
    const model = { config: { ...presets[name], maxPositions: length }, scalarHead: false }
    const spread: SpreadOver = { ranks, sharding: "weights" }
    const step = trainingStep({ model, precision: "bfloat16", rows: batch / length, longest: length, keepsBest: false, spread })
    const { fits, memory, microBatch, recompute } = fitOnGpu({ microBatch: 0, recompute: "auto" }, device, step)
    const { tokens } = microBatch as { readonly tokens: number }
    const micro = Math.ceil((step.rows * length) / tokens)
    // Per micro-batch, 16-bit weights are gathered twice and float32 gradients are reduce-scattered once; a rank already has 1 / n of them.
    const sent = ((micro * (ranks - 1)) / ranks) * trainedParameterCount(model) * (2 + 2 + 4)
    const work = trainingFlops(model, step.rows * length, length / 2) * (1 + recompute / model.config.layers / 3)
    line([
      ...[name, ranks, `${micro} x ${tokens / length}`, recompute, gib(totalMemory(memory)), fits ? "yes" : "no", (sent / 1e9).toFixed(0)],
      ...[work / (flops.bfloat16 * mfu), sent / rates.NVLink, sent / rates.network].map((seconds) => seconds.toFixed(1))
    ])
  }

/**
 * Rollouts: data-parallel ranks, each with the whole model, and the largest of these batch sizes that fits. The rate is limited by the memory's bandwidth or by peak arithmetic, whichever is lower: 7B reaches 0.64 of 4.8 TB/s with
 * 64 sequences (docs/performance.md: 0.71 of 4.3 TB/s). The paper gives no lengths; 512 prompt tokens and 512 new tokens are an assumption.
 */
const lengths = { prompt: 512, response: 512 }
const ofBandwidth = 0.64
const gpus = [8, 64, 512]
process.stdout.write("\n")
line(["model", "sequences per GPU", "GiB per rank", "fits", "tokens/s per GPU", ...gpus.map((n) => `hours for 2M responses on ${n}`)])
line(new Array<string>(8).fill("---"))
for (const name of ["7b", "13b", "70b"] as const) {
  const model = { config: { ...presets[name], maxPositions: length }, scalarHead: false }
  const memoryOf = (sequences: number) => {
    const { activations, cache } = generationMemory(model, "bfloat16", sequences, lengths)
    return weightBytes(model, "bfloat16") + activations + cache
  }
  const fits = (sequences: number) => memoryOf(sequences) <= usableMemory(device)
  const sequences = [256, 128, 64, 32, 16].find(fits) ?? 16
  const traffic = decodingTraffic(model, "bfloat16", sequences, lengths) / (accelerators.h200.bandwidth * ofBandwidth)
  const computing = (sequences * generationFlops(model, lengths.prompt, lengths.response)) / (flops.bfloat16 * mfu)
  const rate = (sequences * lengths.response) / Math.max(traffic, computing)
  const hours = gpus.map((n) => ((2e6 * lengths.response) / (rate * n) / 3600).toFixed(1))
  line([name, sequences, gib(memoryOf(sequences)), fits(sequences) ? "yes" : "no", Math.round(rate).toLocaleString("en"), ...hours])
}
