/**
 * Compares planned and measured memory of training steps and of generation, by part: random models on the GPU, two steps each, one process per row.
 *
 *     node bench/memory.ts                                                   # one row of each kind, at 134M
 *     node bench/memory.ts "sft size=1.1b micro=4 length=4096 parts=2" "sft size=7b length=4096 parts=16 recompute=32" --json
 *
 * A row is a kind (sft, reward, ppo, sample) and options: size; precision (bfloat16); micro: rows per micro-batch (pairs, responses; for sample: sequences); length: tokens per row
 * (per dialogue of a pair; for sample and ppo: prompt and answer together); parts: micro-batches per step; recompute: blocks; lora: rank of an adapter; device (cuda).
 */
import { execFileSync } from "node:child_process"
import * as Schema from "effect/Schema"
import { deviceMemory, environment, synchronize } from "../engine/device.ts"
import { accumulateGradients, clipGradientNorm, type Parameters } from "../engine/gradients.ts"
import { AdamW } from "../engine/optimizer.ts"
import { backward } from "../engine/segments.ts"
import { scoped, type Tensor } from "../engine/tensor.ts"
import { type LlamaConfig, llamaConfig } from "../models/config.ts"
import { Llama } from "../models/llama.ts"
import { generationMemory, type Memory, noMemory, type Precision, totalMemory, trainingMemory, weightBytes } from "../models/memory.ts"
import { initRewardModel } from "../models/reward-model.ts"
import { generate } from "../models/sampler.ts"
import { chunks, languageModelLoss, type PackedRow } from "../stages/common/sequences.ts"
import { PpoConfig } from "../stages/ppo/config.ts"
import { ppoStep } from "../stages/ppo/memory.ts"
import { cloneLlama, initValueModel } from "../stages/ppo/models.ts"
import { shapesOf } from "../stages/ppo/shapes.ts"
import { type Experience, PpoTrainer } from "../stages/ppo/trainer.ts"
import { pairLoss } from "../stages/reward/reward-model.ts"
import { randomLlama, sizes } from "./random-llama.ts"
import { adaptedBy, trainedParameters, withLora } from "../stages/training/lora.ts"

const shapes: Readonly<Record<string, LlamaConfig>> = {
  ...sizes,
  tiny: llamaConfig({ vocabSize: 500, dim: 64, layers: 2, heads: 4, kvHeads: 2, ffn: 160 })
}
const usual = [
  "sft micro=8 length=1024",
  "sft micro=8 length=1024 parts=2 recompute=6",
  "sft micro=8 length=1024 precision=float32",
  "sft micro=8 length=1024 lora=16",
  "reward micro=4 length=1024 parts=2",
  "ppo micro=16 length=512 parts=2",
  "ppo micro=16 length=512 parts=2 lora=16",
  "sample micro=256 length=512"
]

interface Row {
  readonly row: string
  readonly planned: Memory
  /** By part, in bytes; everything else at the peak counts as activations. null without a GPU. */
  readonly measured: { readonly weights: number; readonly optimiser: number; readonly gradients: number; readonly peak: number } | null
}

/** Computes one row in this process. */
const compute = (row: string): Row => {
  const [what, ...words] = row.split(" ")
  const given = Object.fromEntries(words.map((word) => word.split("=") as [string, string]))
  const number = (name: string, otherwise: number) => Number(given[name] ?? otherwise)
  const [micro, length, parts, recompute, loraRank] = [
    number("micro", 1),
    number("length", 512),
    number("parts", 1),
    number("recompute", 0),
    number("lora", 0)
  ]
  const precision = (given.precision ?? "bfloat16") as Precision
  const device = (given.device ?? "cuda") as "cuda" | "cpu"
  const config: LlamaConfig = { ...shapes[given.size ?? "134m"]!, maxPositions: Math.max(4096, length + 1) }
  const lora = { loraRank, loraAlpha: 16, loraTargets: "all-linear", rsLora: false }
  const costed = { config, scalarHead: false }

  const current = () => {
    synchronize()
    return deviceMemory()?.current ?? 0
  }
  const begin = current()
  let [weights, optimiser, gradients] = [0, 0, 0]
  const random = (): Llama => randomLlama(config, { dtype: precision, device })
  const tokens = (count: number, from: number) =>
    Int32Array.from({ length: count }, (_, i) => 3 + ((from + i * 7919) % (config.vocabSize - 3)))

  /** Runs two steps and measures the second. */
  const train = (parameters: Parameters, planned: Memory, loss: (part: number) => Tensor): Row => {
    weights = current() - begin
    const optimizer = new AdamW({ parameters })
    optimiser = current() - begin - weights
    for (let step = 0; step < 2; step++) {
      deviceMemory({ resetPeak: true })
      scoped(() => {
        accumulateGradients(
          parameters,
          Array.from({ length: parts }, (_, part) => part),
          (part) => scoped(() => backward(loss(part).div(parts))),
          { recompute }
        )
        gradients = current() - begin - weights - optimiser
        clipGradientNorm(parameters, 1)
        optimizer.step(1e-5)
      })
    }
    return measured(planned)
  }
  const measured = (planned: Memory): Row => {
    synchronize()
    const peak = deviceMemory()?.peak
    return { row, planned, measured: peak === undefined ? null : { weights, optimiser, gradients, peak: peak - begin } }
  }
  const cut = { several: parts > 1, recompute }

  if (what === "sft") {
    const model = withLora(random(), lora, 1)
    const rows = Array.from({ length: micro }, (_, i): PackedRow => ({
      tokens: tokens(length + 1, i),
      lossMask: Uint8Array.from({ length: length + 1 }, (_, at) => (at === 0 ? 0 : 1)),
      // Three dialogues per row.
      segments: Int32Array.from({ length: length + 1 }, (_, at) => Math.floor((3 * at) / (length + 1)))
    }))
    const planned = trainingMemory(adaptedBy(lora, costed), precision, { ...cut, tokens: micro * length })
    return train(trainedParameters(model), planned, () => languageModelLoss(model, rows, { device, isolate: true }))
  }
  if (what === "reward") {
    const { "lm_head.weight": output, ...backbone } = random().parameters
    output?.free()
    const model = initRewardModel(withLora(new Llama(config, backbone), lora, 1), { seed: 1 })
    const pairs = Array.from({ length: micro }, (_, i) => ({
      chosen: [...tokens(length, i)],
      rejected: [...tokens(length, i + 1)],
      margin: 0
    }))
    const planned = trainingMemory(adaptedBy(lora, { config, scalarHead: true }), precision, { ...cut, tokens: 2 * micro * length })
    return train(trainedParameters(model), planned, () => pairLoss(model, pairs, { padId: 0, device }))
  }
  if (what === "ppo") {
    const reference = random()
    const { "lm_head.weight": output, ...backbone } = random().parameters
    output?.free()
    const helpfulness = initRewardModel(new Llama(config, backbone), { seed: 1 })
    const ppo = Schema.decodeSync(PpoConfig)({
      ...lora,
      precision,
      miniBatchSize: parts * micro,
      microBatchSize: micro,
      recompute: String(recompute)
    })
    const policy = loraRank === 0 ? cloneLlama(reference) : withLora(reference, lora, 1)
    const value = initValueModel(helpfulness.backbone, { seed: 2, lora })
    weights = current() - begin
    const trainer = new PpoTrainer({ policy, reference, value, config: ppo, padId: 0, seed: 1 })
    optimiser = current() - begin - weights
    const half = Math.floor(length / 2)
    const numbers = (count: number) => new Array<number>(count).fill(0.1)
    const rollouts = Array.from({ length: parts * micro }, (_, i): Experience => ({
      ...{ prompt: [...tokens(length - half, i)], response: [...tokens(half, i + 1)], score: 0 },
      ...{ logProbabilities: numbers(half), advantages: numbers(half), values: numbers(half), returns: numbers(half) }
    }))
    for (let step = 0; step < 2; step++) {
      deviceMemory({ resetPeak: true })
      scoped(() => {
        const losses = trainer.loss(rollouts)
        gradients = current() - begin - weights - optimiser
        trainer.step(losses)
      })
    }
    const all = shapesOf(ppo, { policy: costed, rewards: [{ config, scalarHead: true }], keepsBest: false })
    return measured(ppoStep({ ...all, precision }, ppo, length).memory({ ...cut, tokens: micro * length }))
  }
  if (what === "sample") {
    const model = random()
    weights = current() - begin
    const half = Math.floor(length / 2)
    const prompts = Array.from({ length: micro }, (_, i) => [...tokens(length - half, i)])
    const seeds = prompts.map((_, i) => i)
    // Here the end-of-sequence token is as likely as any other: some sequences end early, and the cache is made smaller.
    const options = { maxNewTokens: half, temperature: 1, seeds, eosId: 5, padId: 0 }
    for (const batch of chunks(prompts, micro)) generate(model, batch, options)
    const generating = generationMemory(costed, precision, micro, { prompt: length - half, response: half })
    return measured({ ...noMemory, weights: weightBytes(costed, precision), ...generating })
  }
  throw new Error(`Expected a row that begins with sft, reward, ppo or sample, got ${JSON.stringify(row)}.`)
}

const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(2)
const linesOf = ({ measured, planned, row }: Row): Array<string> => {
  const optimiser = planned.masters + planned.moments
  const other = (peak: number, ...known: ReadonlyArray<number>) => peak - known.reduce((sum, part) => sum + part, 0)
  const total = totalMemory(planned)
  const cells = [planned.weights, optimiser, planned.gradients, other(total, planned.weights, optimiser, planned.gradients), total]
  const line = (name: string, values: ReadonlyArray<string>) => `  ${name.padEnd(10)}${values.map((value) => value.padStart(13)).join("")}`
  const found =
    measured === null
      ? []
      : [
          line(
            "measured",
            [
              ...[measured.weights, measured.optimiser, measured.gradients],
              other(measured.peak, measured.weights, measured.optimiser, measured.gradients),
              measured.peak
            ].map(gib)
          ),
          line("planned / measured", ["", "", "", "", (total / measured.peak).toFixed(3)])
        ]
  return [row, line("GiB", ["weights", "optimiser", "gradients", "other", "peak"]), line("planned", cells.map(gib)), ...found]
}

const words = process.argv.slice(2)
if (words[0] === "--one") process.stdout.write(JSON.stringify(compute(words[1]!)))
else {
  const named = words.filter((word) => !word.startsWith("--"))
  const rows = (named.length === 0 ? usual : named).map((row): Row | { readonly row: string; readonly failed: string } => {
    try {
      return JSON.parse(
        execFileSync(process.execPath, [import.meta.filename, "--one", row], {
          encoding: "utf8",
          stdio: ["ignore", "pipe", "pipe"]
        })
      ) as Row
    } catch (cause) {
      const said = String((cause as { readonly stderr?: string }).stderr ?? cause).split("\n")
      return { row, failed: said.find((line) => /Error: /.test(line)) ?? said.join(" ") }
    }
  })
  if (words.includes("--json"))
    process.stdout.write(`${JSON.stringify({ gpu: environment().gpu, libtorch: environment().libtorch, rows })}\n`)
  else
    for (const row of rows) process.stdout.write(`${("failed" in row ? [row.row, `  failed: ${row.failed}`] : linesOf(row)).join("\n")}\n`)
}
