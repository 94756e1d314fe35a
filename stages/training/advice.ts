/** Chooses settings with which a training step fits the device. If there are none, says which changes to the config would fit the GPU. */
import { type Precision, totalMemory } from "../../models/memory.ts"
import type { Llama } from "../../models/llama.ts"
import { linearLayers } from "../../models/lora.ts"
import { type FitSettings, chooseFit, fitOnGpu, ownSpread, type Steps, trainingStep } from "./fit.ts"
import { adaptedBy, type LoraCost } from "./lora.ts"

/** Training steps with one changed setting, and the change in the config's terms. */
const alternatives = (training: Steps): ReadonlyArray<readonly [words: string, other: Steps]> => {
  const { longest, model, precision } = training
  const adapted = { ...training, model: { ...model, adapter: { rank: 16, targets: linearLayers } } }
  const shorter = [2, 4, 8, 16].map((times) => ({ ...training, longest: Math.ceil(longest / times) }))
  return [
    ...(precision === "float32" ? [["precision bfloat16", { ...training, precision: "bfloat16" }] as const] : []),
    ...(model.adapter === undefined ? [["LoRA (loraRank 16)", adapted] as const] : []),
    ...(model.adapter === undefined && precision === "float32"
      ? [["LoRA (loraRank 16) in bfloat16", { ...adapted, precision: "bfloat16" as const }] as const]
      : []),
    ...shorter.map((other) => [`sequences of ${other.longest} tokens`, other] as const)
  ]
}

/** One sentence: the alternatives that fit, the memory of each, and how many GPUs would hold the training unchanged. */
export const trainingAdvice = (training: Steps, deviceMemory: number): string => {
  const fitOf = (steps: Steps) => fitOnGpu({ microBatch: 0, recompute: "auto" }, deviceMemory, trainingStep(steps))
  const found = new Map<string, string>()
  for (const [words, other] of alternatives(training)) {
    const { fits, memory } = fitOf(other)
    // Only the longest of the shorter sequence lengths that fit.
    const kind = words.split(" ")[0]!
    if (fits && !found.has(kind)) found.set(kind, `${words} (${Math.ceil(totalMemory(memory) / 2 ** 30)} GiB)`)
  }
  const { ranks = 1 } = training.spread ?? {}
  const gpus = [2, 4, 8, 16, 32, 64].find(
    (more) => more > ranks && fitOf({ ...training, spread: { ranks: more, sharding: "weights" } }).fits
  )
  const more = gpus === undefined ? "more than 64 such GPUs" : `${gpus} such GPUs (--ranks ${gpus})`
  return found.size === 0
    ? `No smaller setting fits either: training needs ${more}, or a smaller model.`
    : `These would fit: ${[...found.values()].join("; ")}. Unchanged, training needs ${more}.`
}

/** Like chooseFit, for a stage that trains a single model. */
export const fitOneModel = (
  settings: FitSettings,
  machine: { readonly device: "cpu" | "cuda"; readonly rowsOnCpu: number },
  given: Steps
) => {
  const steps = { ...given, spread: ownSpread() }
  return chooseFit(settings, machine, trainingStep(steps), (deviceMemory) => trainingAdvice(steps, deviceMemory))
}

/** Sequences per micro-batch on the CPU, for stages that train on packed rows. */
export const defaultSequences = 8

/** The config fields of a stage that trains on packed rows. */
interface PackedFields extends Required<LoraCost> {
  readonly batchSize: number
  readonly sequenceLength: number
  readonly microBatchSize: number
  readonly recompute: string
  readonly precision: Precision
  readonly patience: number
}

/** How the steps of a language model that trains on packed rows fit the device. */
export const fitPacked = (
  { config: shape }: Llama,
  { batchSize, loraRank, loraTargets, microBatchSize, patience, precision, recompute, sequenceLength }: PackedFields,
  device: "cpu" | "cuda"
) => {
  const model = adaptedBy({ loraRank, loraTargets }, { config: shape, scalarHead: false })
  const longest = Math.min(sequenceLength, shape.maxPositions)
  const steps = { model, precision, rows: batchSize, longest, keepsBest: patience > 0 }
  return fitOneModel({ microBatch: microBatchSize, recompute }, { device, rowsOnCpu: defaultSequences }, steps)
}
