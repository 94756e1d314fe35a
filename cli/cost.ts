/** Estimated cost of a plan's stages: sizes are propagated through the graph, for a given accelerator at a given utilisation. */
import { existsSync, readdirSync, statSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { dataFiles } from "../data/read/files.ts"
import { readRecords } from "../data/records.ts"
import { type LlamaConfig, presets } from "../models/config.ts"
import { fromHuggingFace } from "../models/config-file.ts"
import { type Accelerator, accelerators, carbonIntensity, carbonKg, energyKwh } from "../models/cost.ts"
import { bytesOf, costedParameters, type Memory, type Precision, type SpreadOver, totalMemory, usableMemory } from "../models/memory.ts"
import type { Sizes } from "../runtime/define/cost.ts"
import { dependencies, type GraphNode, type StageNode } from "../runtime/define/graph.ts"
import type { RemoteFiles } from "../runtime/define/remote.ts"
import type { Plan, PlannedNode } from "../runtime/run/plan.ts"
import { ranksOf } from "../runtime/run/ranks.ts"
import { estimatorOf } from "../stages/common/cost/estimator.ts"
import { type Size, sized, unknownSize, UnknownSizeError } from "../stages/common/cost/size.ts"
import { type PlannedStep, type StageCost, type Work } from "../stages/common/cost/work.ts"
import { type Flags, type Given, numberFlag, UsageError } from "./command.ts"
import { gib } from "./display/units.ts"
import { pipelineOptions } from "./pipeline-file.ts"

export const costFlags: Flags = {
  gpu: {
    value: Object.keys(accelerators).join("|"),
    help: "GPU to plan for (default: this machine's GPU with --device cuda, otherwise a100-80gb as in the paper)"
  },
  mfu: { value: "share", help: "share of the GPU's peak FLOP/s reached in training and prefill (default: 0.4)" },
  mbu: { value: "share", help: "share of the GPU's memory bandwidth reached in decoding (default: 0.6)" },
  tdp: { value: "watts", help: "power per GPU (default: from its data sheet; the paper uses 350 for its 34B model)" },
  carbon: { value: "kg", help: `CO2 equivalent per kWh (default: ${carbonIntensity}, from table 2 of the paper)` }
}

/** The hardware that the estimate assumes. */
export interface CostMachine {
  readonly accelerator: Accelerator
  /** The ranks used by stages that support several. */
  readonly spread: SpreadOver
  readonly mfu: number
  readonly mbu: number
  readonly watts: number
  /** kg of CO2 equivalent per kWh. */
  readonly carbonIntensity: number
}

type Numerics = Readonly<Record<string, string>> | null

/** This machine's GPU according to its numerics; undefined on the CPU. A GPU that is not listed counts as an A100 with its own memory. */
export const presentGpu = (numerics: Numerics): Accelerator | undefined => {
  const memory = Number.parseInt(numerics?.gpuMemory ?? "", 10) * 2 ** 30
  if (numerics === null || numerics.device !== "cuda" || !(memory > 0)) return undefined
  const { gpu: name = "a GPU" } = numerics
  const words = name.toLowerCase().split(/[^a-z0-9]+/)
  const known = Object.entries(accelerators).find(([id]) => words.includes(id.split("-")[0]!))?.[1]
  return known === undefined ? { ...accelerators["a100-80gb"], name: `${name} (speed and power of an A100)`, memory } : { ...known, memory }
}

/** The GPU to plan for: the one named by --gpu; otherwise this machine's with `--device cuda`. */
export const costMachine = (given: Given, numerics: Numerics = null): CostMachine => {
  const gpu = given.flag("gpu")
  if (gpu !== undefined && !Object.hasOwn(accelerators, gpu))
    throw new UsageError(`--gpu must be one of ${Object.keys(accelerators).join(", ")}, got "${gpu}".`)
  const accelerator =
    gpu === undefined ? (presentGpu(numerics) ?? accelerators["a100-80gb"]) : accelerators[gpu as keyof typeof accelerators]
  const { ranks = 1, sharding = "weights" } = pipelineOptions(given)
  return {
    accelerator,
    spread: { ranks, sharding },
    mfu: numberFlag(given, "mfu", { above: 0, max: 1 }) ?? 0.4,
    mbu: numberFlag(given, "mbu", { above: 0, max: 1 }) ?? 0.6,
    watts: numberFlag(given, "tdp", { above: 0 }) ?? accelerator.watts,
    carbonIntensity: numberFlag(given, "carbon", { above: 0 }) ?? carbonIntensity
  }
}

export interface Cost {
  readonly tokens: number
  readonly flops: number
  readonly gpuHours: number
  /** Peak, in bytes. */
  readonly memory: Memory & { readonly total: number }
  /** Whether it fits on one GPU; if not, what would help and how many GPUs would hold it together. */
  readonly fits: boolean
  readonly advice: string | null
  readonly gpus: number
  /** For a training stage: how a batch is split, and how many blocks are recomputed. */
  readonly step: PlannedStep | null
  /** Bytes of one resume checkpoint; 0 if there is none or it is negligible. */
  readonly resume: number
  readonly energyKwh: number
  readonly carbonKg: number
  readonly work: ReadonlyArray<{ readonly what: string; readonly tokens: number; readonly flops: number; readonly gpuHours: number }>
}
export type NodeCost = Cost | { readonly unknown: string }

const gpuHours = ({ flops, precision, recomputed, traffic }: Work, { accelerator, mbu, mfu }: CostMachine): number =>
  Math.max((flops + recomputed) / (accelerator.flops[precision] * mfu), traffic / (accelerator.bandwidth * mbu)) / 3600

/** Advice for a stage that generates or scores. */
const readingAdvice = ({ weights }: Memory, usable: number): string =>
  weights > usable
    ? `The weights alone take ${gib(weights)}: use a smaller model, fewer bytes per weight (precision bfloat16), or a GPU with more memory.`
    : "Try a smaller batchSize, fewer maxNewTokens, precision bfloat16, or a smaller model."

/** A stage's work on a machine. Parts with the same name are merged. */
export const costOn = ({ advice, memory, resume, step, work }: StageCost, machine: CostMachine): Cost => {
  const parts = [...Map.groupBy(work, ({ what }) => what)].map(([what, same]) => ({
    what,
    tokens: same.reduce((sum, { tokens }) => sum + tokens, 0),
    flops: same.reduce((sum, { flops }) => sum + flops, 0),
    gpuHours: same.reduce((sum, part) => sum + gpuHours(part, machine), 0)
  }))
  const sum = (pick: (part: (typeof parts)[number]) => number) => parts.reduce((total, part) => total + pick(part), 0)
  const hours = sum((part) => part.gpuHours)
  const total = totalMemory(memory)
  const usable = usableMemory(machine.accelerator.memory)
  return {
    tokens: sum((part) => part.tokens),
    flops: sum((part) => part.flops),
    gpuHours: hours,
    memory: { ...memory, total },
    fits: total <= usable,
    advice: total <= usable ? null : (advice ?? readingAdvice(memory, usable)),
    gpus: Math.ceil(total / usable),
    step: step ?? null,
    resume: resume ?? 0,
    energyKwh: energyKwh(hours, machine.watts),
    carbonKg: carbonKg(hours, machine.watts, machine.carbonIntensity),
    work: parts
  }
}

/** Overrides sizes that follow from the inputs with those that the pipeline declares. Throws a RangeError for a model without a preset. */
const expecting = (size: Size, { model, ...sizes }: Sizes = {}): Size => {
  if (model === undefined) return sized(size, sizes)
  if (!Object.hasOwn(presets, model))
    throw new RangeError(`Unknown model size "${model}": expected one of ${Object.keys(presets).join(", ")}.`)
  return sized(size, { ...sizes, model: presets[model as keyof typeof presets] })
}

/** Larger files are not scanned to count their rows. */
const countedBytes = 64 << 20

/** The shape of the model in a folder; undefined if there is no model or it is not supported (the run reports why). */
const modelAt = async (folder: string): Promise<LlamaConfig | undefined> => {
  const path = join(folder, "config.json")
  if (!existsSync(path)) return undefined
  return Effect.runPromise(
    Effect.promise(() => readFile(path, "utf8")).pipe(
      Effect.flatMap((text) => Effect.try({ try: () => JSON.parse(text) as unknown, catch: (cause) => cause as Error })),
      Effect.flatMap((json) => fromHuggingFace(json, path)),
      Effect.catch(() => Effect.succeed(undefined))
    )
  )
}

/** The shape of a model on the Hub; only config.json is downloaded. */
const modelOnHub = async (remote: RemoteFiles): Promise<LlamaConfig | undefined> => {
  const config = remote.only("config.json")
  if (config.bytes === 0) return undefined
  await config.fetch({ onBytes: () => undefined })
  return modelAt(config.path)
}

/** The size of a user's file or folder: its rows, or its model. A file that can't be read has the expected size (the run reports the error). */
const sizeOfFile = async (path: string, expected: Size): Promise<Size> => {
  const model = await modelAt(path)
  if (model !== undefined) return { ...expected, model }
  let rows = 0
  try {
    const files = await dataFiles(path)
    if (files.reduce((sum, file) => sum + statSync(file.path).size, 0) > countedBytes) return expected
    for await (const _ of readRecords(path)) rows++
  } catch {
    return expected
  }
  return { ...expected, rows, prompts: rows }
}

/** The size of an artifact in the store: rows from its record, the model from its config.json, the rest as estimated. */
const sizeInStore = async (node: StageNode, planned: PlannedNode & { kind: "hit" }, estimated: Size, path: string): Promise<Size> => {
  if (node.type.kind === "checkpoint") return { ...estimated, model: (await modelAt(path)) ?? estimated.model }
  const { rows } = planned.trace.metrics
  if (node.type.kind !== "dataset" || rows === undefined) return estimated
  const samples = estimated.rows / estimated.prompts
  return { ...estimated, rows, prompts: Number.isNaN(samples) ? (node.type.name.includes("completion") ? NaN : rows) : rows / samples }
}

export interface PlanCost {
  readonly machine: CostMachine
  /** For the nodes that compute with tensors and would run. */
  readonly nodes: ReadonlyMap<string, NodeCost>
  /** Bytes of the checkpoints that would be made, by node; NaN if unknown. */
  readonly artifacts: ReadonlyMap<string, number>
}

/** Bytes of a checkpoint: in its stage's precision; without one, the size of the imported folder if there is one, or 16 bits per weight. */
const artifactBytes = (node: StageNode, { model }: Size, imported: number | undefined): number => {
  if (model === undefined) return NaN
  const scalarHead = /reward|value/.test(node.type.name)
  const { precision } = node.config as { readonly precision?: Precision }
  return precision === undefined && imported !== undefined
    ? imported
    : costedParameters({ config: model, scalarHead }) * bytesOf[precision ?? "bfloat16"]
}

/** Bytes of the files in a model's folder; links are followed. */
const folderBytes = (path: string): number =>
  readdirSync(path, { withFileTypes: true }).reduce(
    (sum, entry) => sum + (entry.isDirectory() ? 0 : statSync(join(path, entry.name)).size),
    0
  )

/** The cost of the plan's nodes; `pathOf` maps a digest to its folder in the store. */
export const costOfPlan = async (
  plan: Plan & { readonly selected: ReadonlySet<string> | undefined },
  machine: CostMachine,
  pathOf: (digest: string) => string
): Promise<PlanCost> => {
  const sizes = new Map<string, Size>()
  const nodes = new Map<string, NodeCost>()
  const artifacts = new Map<string, number>()
  const folders = new Map<string, number>()
  const expectedOf = (node: GraphNode, size: Size): Size => {
    try {
      return expecting(size, node.expected)
    } catch (cause) {
      throw new UsageError(`Estimating the cost of "${node.id}": ${(cause as Error).message}`)
    }
  }
  for (const node of plan.graph.nodes.values()) {
    const planned = plan.nodes.get(node.id)!
    if (node.kind === "file") {
      const expected = expectedOf(node, unknownSize)
      if (node.remote !== undefined && !node.remote.isThere()) {
        sizes.set(node.id, { ...expected, model: (await modelOnHub(node.remote)) ?? expected.model })
        folders.set(node.id, node.remote.bytes)
        continue
      }
      sizes.set(node.id, planned.kind === "file" ? await sizeOfFile(node.path, expected) : expected)
      if (planned.kind === "file" && statSync(node.path, { throwIfNoEntry: false })?.isDirectory() === true)
        folders.set(node.id, folderBytes(node.path))
      continue
    }
    const sizeOf = (id: string) => sizes.get(id)!
    const request = {
      config: node.config,
      inputs: Object.fromEntries(
        Object.entries(node.inputs).map(([port, ids]) => [
          port,
          ids === null ? undefined : typeof ids === "string" ? sizeOf(ids) : ids.map(sizeOf)
        ])
      ),
      expected: node.expected ?? {}
    }
    const estimator = await estimatorOf(node.stage)
    const estimated = expectedOf(node, estimator?.size(request) ?? unknownSize)
    sizes.set(node.id, planned.kind === "hit" ? await sizeInStore(node, planned, estimated, pathOf(planned.trace.digest)) : estimated)
    if (planned.kind === "hit" || plan.selected?.has(node.id) === false) continue
    if (node.type.kind === "checkpoint") {
      const imported = dependencies(node).flatMap((id) => folders.get(id) ?? [])[0]
      artifacts.set(node.id, artifactBytes(node, estimated, imported))
    }
    if (node.stage.resources.tensors !== true) continue
    if (estimator?.cost === undefined) {
      nodes.set(node.id, { unknown: `the cost of the stage ${node.stage.name}` })
      continue
    }
    try {
      nodes.set(
        node.id,
        costOn(
          estimator.cost({
            ...request,
            deviceMemory: machine.accelerator.memory,
            spread: { ...machine.spread, ranks: ranksOf(node, plan.facts.machine) }
          }),
          machine
        )
      )
    } catch (cause) {
      if (!(cause instanceof UnknownSizeError)) throw cause
      nodes.set(node.id, { unknown: cause.message })
    }
  }
  return { machine, nodes, artifacts }
}

export const isKnown = (cost: NodeCost): cost is Cost => !("unknown" in cost)
export const known = ({ nodes }: PlanCost): ReadonlyArray<Cost> => [...nodes.values()].filter(isKnown)

/** Maximum number of resume checkpoints of a stage on disk at the same time: two are kept while a third is written (runtime/store/resume-points.ts). */
export const resumeCopies = 3

/**
 * Bytes that a run needs on the store's disk: its checkpoints, plus the resume checkpoints of one stage at most, which are removed when the stage
 * ends.
 */
export const diskOf = (cost: PlanCost): { readonly artifacts: number; readonly resume: number; readonly total: number } => {
  const artifacts = [...cost.artifacts.values()].filter((bytes) => !Number.isNaN(bytes)).reduce((sum, bytes) => sum + bytes, 0)
  const resume = resumeCopies * Math.max(0, ...known(cost).map((one) => one.resume))
  return { artifacts, resume, total: artifacts + resume }
}

/** Sums over the stages with a known cost. */
export const totalCost = (cost: PlanCost) => {
  const sum = (pick: (cost: Cost) => number) => known(cost).reduce((total, one) => total + pick(one), 0)
  return {
    tokens: sum(({ tokens }) => tokens),
    flops: sum(({ flops }) => flops),
    gpuHours: sum((one) => one.gpuHours),
    energyKwh: sum((one) => one.energyKwh),
    carbonKg: sum((one) => one.carbonKg),
    disk: diskOf(cost),
    /** The number of stages with unknown cost; the sums exclude them. */
    unknown: cost.nodes.size - known(cost).length
  }
}
