/** What a plan's stages would cost: sizes followed through the graph, on a stated accelerator at a stated utilisation. */
import { existsSync, statSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { readRecords } from "../data/records.ts"
import { fromHuggingFace, type LlamaConfig, presets } from "../models/config.ts"
import { type Accelerator, accelerators, carbonIntensity, carbonKg, energyKwh } from "../models/cost.ts"
import type { Sizes } from "../runtime/define/cost.ts"
import type { GraphNode, StageNode } from "../runtime/define/graph.ts"
import type { Plan, PlannedNode } from "../runtime/run/plan.ts"
import { estimatorOf } from "../stages/common/cost/estimator.ts"
import { type Size, sized, unknownSize, UnknownSizeError } from "../stages/common/cost/size.ts"
import { type Memory, type StageCost, totalMemory, type Work } from "../stages/common/cost/work.ts"
import { type Flags, type Given, UsageError } from "./command.ts"
import { count, size, table } from "./display/units.ts"

export const costFlags: Flags = {
  gpu: { value: Object.keys(accelerators).join("|"), help: "GPU to reckon the cost with; a100-80gb, the paper's, unless given" },
  mfu: { value: "share", help: "of the GPU's peak FLOP/s that training and reading reach; 0.4 unless given" },
  mbu: { value: "share", help: "of the GPU's memory bandwidth that decoding reaches; 0.6 unless given" },
  tdp: { value: "watts", help: "power of a GPU; by its data sheet unless given (the paper has 350 for its 34B model)" },
  carbon: { value: "kg", help: `CO2 equivalent of a kWh; ${carbonIntensity} unless given: table 2's` }
}

/** What stages are reckoned to run on. */
export interface CostMachine {
  readonly accelerator: Accelerator
  readonly mfu: number
  readonly mbu: number
  readonly watts: number
  /** kg of CO2 equivalent per kWh. */
  readonly carbonIntensity: number
}

const number = (given: Given, name: string, preset: number, most: number): number => {
  const text = given.flag(name)
  if (text === undefined) return preset
  const value = Number(text)
  if (text.trim() === "" || !(value > 0 && value <= most))
    throw new UsageError(`--${name} takes a number above 0${most === Infinity ? "" : ` and at most ${most}`}, got "${text}".`)
  return value
}

export const costMachine = (given: Given): CostMachine => {
  const gpu = given.flag("gpu") ?? "a100-80gb"
  if (!Object.hasOwn(accelerators, gpu)) throw new UsageError(`--gpu is ${Object.keys(accelerators).join(", ")}, got "${gpu}".`)
  const accelerator = accelerators[gpu as keyof typeof accelerators]
  return {
    accelerator,
    mfu: number(given, "mfu", 0.4, 1),
    mbu: number(given, "mbu", 0.6, 1),
    watts: number(given, "tdp", accelerator.watts, Infinity),
    carbonIntensity: number(given, "carbon", carbonIntensity, Infinity)
  }
}

export interface Cost {
  readonly tokens: number
  readonly flops: number
  readonly gpuHours: number
  /** Bytes at the peak. */
  readonly memory: Memory & { readonly total: number }
  /** GPUs whose memory together holds that. */
  readonly gpus: number
  readonly energyKwh: number
  readonly carbonKg: number
  readonly work: ReadonlyArray<{ readonly what: string; readonly tokens: number; readonly flops: number; readonly gpuHours: number }>
}
export type NodeCost = Cost | { readonly unknown: string }

const gpuHours = ({ flops, precision, traffic }: Work, { accelerator, mbu, mfu }: CostMachine): number =>
  Math.max(flops / (accelerator.flops[precision] * mfu), traffic / (accelerator.bandwidth * mbu)) / 3600

/** A stage's work on a machine. Parts of one name are told together. */
export const costOn = ({ memory, work }: StageCost, machine: CostMachine): Cost => {
  const parts = [...Map.groupBy(work, ({ what }) => what)].map(([what, same]) => ({
    what,
    tokens: same.reduce((sum, { tokens }) => sum + tokens, 0),
    flops: same.reduce((sum, { flops }) => sum + flops, 0),
    gpuHours: same.reduce((sum, part) => sum + gpuHours(part, machine), 0)
  }))
  const sum = (pick: (part: (typeof parts)[number]) => number) => parts.reduce((total, part) => total + pick(part), 0)
  const hours = sum((part) => part.gpuHours)
  const total = totalMemory(memory)
  return {
    tokens: sum((part) => part.tokens),
    flops: sum((part) => part.flops),
    gpuHours: hours,
    memory: { ...memory, total },
    gpus: Math.ceil(total / machine.accelerator.memory),
    energyKwh: energyKwh(hours, machine.watts),
    carbonKg: carbonKg(hours, machine.watts, machine.carbonIntensity),
    work: parts
  }
}

/** What a pipeline expects, over what follows from the inputs. Throws a RangeError for a model that has no preset. */
const expecting = (size: Size, { model, ...sizes }: Sizes = {}): Size => {
  if (model === undefined) return sized(size, sizes)
  if (!Object.hasOwn(presets, model))
    throw new RangeError(`There is no model of size "${model}": expected one of ${Object.keys(presets).join(", ")}.`)
  return sized(size, { ...sizes, model: presets[model as keyof typeof presets] })
}

/** Larger files are not read through to count their rows. */
const countedBytes = 64 << 20

/** The shape of the model in a folder; undefined where there is none, or none that this engine computes (the run tells why). */
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

/** A file of the user's that is there: rows of data, or a model's folder. What can't be read is left to the run to tell. */
const sizeOfFile = async (path: string, expected: Size): Promise<Size> => {
  const found = statSync(path)
  if (found.isDirectory()) return { ...expected, model: (await modelAt(path)) ?? expected.model }
  if (found.size > countedBytes) return expected
  let rows = 0
  try {
    for await (const _ of readRecords(path)) rows++
  } catch {
    return expected
  }
  return { ...expected, rows, prompts: rows }
}

/** An artifact in the store: its rows by its record, its model by its config.json; the rest as reckoned. */
const sizeInStore = async (node: StageNode, planned: PlannedNode & { kind: "hit" }, reckoned: Size, path: string): Promise<Size> => {
  if (node.type.kind === "checkpoint") return { ...reckoned, model: (await modelAt(path)) ?? reckoned.model }
  const { rows } = planned.trace.metrics
  if (node.type.kind !== "dataset" || rows === undefined) return reckoned
  const samples = reckoned.rows / reckoned.prompts
  return { ...reckoned, rows, prompts: Number.isNaN(samples) ? (node.type.name.includes("completion") ? NaN : rows) : rows / samples }
}

export interface PlanCost {
  readonly machine: CostMachine
  /** Of the nodes that compute with tensors and would run. */
  readonly nodes: ReadonlyMap<string, NodeCost>
}

/** What the plan's nodes would cost; `pathOf` gives an artifact's folder in the store. */
export const costOfPlan = async (
  plan: Plan & { readonly selected: ReadonlySet<string> | undefined },
  machine: CostMachine,
  pathOf: (digest: string) => string
): Promise<PlanCost> => {
  const sizes = new Map<string, Size>()
  const nodes = new Map<string, NodeCost>()
  const expectedOf = (node: GraphNode, size: Size): Size => {
    try {
      return expecting(size, node.expected)
    } catch (cause) {
      throw new UsageError(`Reckoning the cost of "${node.id}": ${(cause as Error).message}`)
    }
  }
  for (const node of plan.graph.nodes.values()) {
    const planned = plan.nodes.get(node.id)!
    if (node.kind === "file") {
      const expected = expectedOf(node, unknownSize)
      sizes.set(node.id, planned.kind === "file" ? await sizeOfFile(node.path, expected) : expected)
      continue
    }
    const sizeOf = (id: string) => sizes.get(id)!
    const asked = {
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
    const reckoned = expectedOf(node, estimator?.size(asked) ?? unknownSize)
    sizes.set(node.id, planned.kind === "hit" ? await sizeInStore(node, planned, reckoned, pathOf(planned.trace.digest)) : reckoned)
    if (node.stage.resources.tensors !== true || planned.kind === "hit" || plan.selected?.has(node.id) === false) continue
    if (estimator?.cost === undefined) {
      nodes.set(node.id, { unknown: `what the stage ${node.stage.name} computes` })
      continue
    }
    try {
      nodes.set(node.id, costOn(estimator.cost(asked), machine))
    } catch (cause) {
      if (!(cause instanceof UnknownSizeError)) throw cause
      nodes.set(node.id, { unknown: cause.message })
    }
  }
  return { machine, nodes }
}

const isKnown = (cost: NodeCost): cost is Cost => !("unknown" in cost)
const known = ({ nodes }: PlanCost): ReadonlyArray<Cost> => [...nodes.values()].filter(isKnown)

/** Sums over the stages whose cost is known. */
export const totalCost = (cost: PlanCost) => {
  const sum = (pick: (cost: Cost) => number) => known(cost).reduce((total, one) => total + pick(one), 0)
  return {
    tokens: sum(({ tokens }) => tokens),
    flops: sum(({ flops }) => flops),
    gpuHours: sum((one) => one.gpuHours),
    energyKwh: sum((one) => one.energyKwh),
    carbonKg: sum((one) => one.carbonKg),
    /** Stages whose cost is not known are not in these sums. */
    unknown: cost.nodes.size - known(cost).length
  }
}

const powers = ["", "k", "M", "G", "T", "P"]
/** 1234567 -> "1.2M". */
const short = (value: number): string => {
  let power = 0
  while (power < powers.length - 1 && value / 1000 ** power >= (power === 0 ? 1000 : 999.5)) power++
  const scaled = value / 1000 ** power
  return `${power === 0 || scaled >= 99.95 ? Math.round(scaled) : scaled.toFixed(1)}${powers[power]}`
}
/** Three digits, however small or large. */
const digits = (value: number): string =>
  value === 0
    ? "0"
    : value >= 999.5
      ? Math.round(value).toLocaleString("en-US")
      : value >= 0.001
        ? String(Number(value.toPrecision(3)))
        : value.toExponential(1)
const flops = (value: number): string => value.toExponential(2).replace("e+", "e")
const mass = (kg: number): string => (kg >= 1000 ? `${digits(kg / 1000)} t` : `${digits(kg)} kg`)

const few = (ids: ReadonlyArray<string>): string => `${ids.slice(0, 6).join(", ")}${ids.length > 6 ? ` and ${ids.length - 6} more` : ""}`

/** Assumptions that the estimates make, to be shown with them. */
const assumptions: ReadonlyArray<string> = [
  "training takes 6 N + 12 L d T FLOPs a token, reading 2 N + 4 L d T (PaLM, appendix B); N parameters, L layers of width d, T tokens a sequence",
  "decoding reads the weights once a step and the cache, and takes as long as the slower of that and its FLOPs",
  "sequences of fine-tuning are full; answers are as long as the pipeline expects, else maxNewTokens; nothing is drawn again, and PPO and filters go to their end",
  "memory is of one copy of each model, activations of the longest sequences, nothing recomputed; attention keeps no T x T matrix",
  "words that stages add to prompts (preprompts, instructions, the classifier's task) are not counted; rows of the small world are as long as its own tokenizer of 600 pieces has them"
]

/** What the figures rest on. */
export const statedAssumptions = ({ accelerator, carbonIntensity: intensity, mbu, mfu, watts }: CostMachine): ReadonlyArray<string> => [
  `${accelerator.name}: ${accelerator.flops.bfloat16 / 1e12} TFLOP/s in bfloat16, ${accelerator.flops.float32 / 1e12} in float32, ${size(accelerator.memory)} of memory at ${accelerator.bandwidth / 1e12} TB/s`,
  `utilisation: ${mfu} of the FLOP/s (MFU), ${mbu} of the bandwidth when decoding`,
  `energy: GPU-hours x ${watts} W; carbon: x ${intensity} kg CO2eq/kWh (Llama 2 table 2: no cooling, no other hardware)`,
  ...assumptions
]

/** The cost, stage by stage, as lines. */
export const costTable = (cost: PlanCost): ReadonlyArray<string> => {
  if (cost.nodes.size === 0) return []
  const total = totalCost(cost)
  const head = [
    "stage",
    "tokens",
    "FLOPs",
    "GPU-hours",
    "weights",
    "gradients",
    "optimiser",
    "activations",
    "memory",
    "GPUs",
    "kWh",
    "CO2eq"
  ]
  const rows = [...cost.nodes].flatMap(([id, one]) => {
    if (!isKnown(one)) return []
    const { activations, gradients, optimiser, total: all, weights } = one.memory
    return [
      [
        id,
        short(one.tokens),
        flops(one.flops),
        digits(one.gpuHours),
        ...[weights, gradients, optimiser, activations, all].map(size),
        String(one.gpus),
        digits(one.energyKwh),
        mass(one.carbonKg)
      ]
    ]
  })
  const sum = [
    "in all",
    short(total.tokens),
    flops(total.flops),
    digits(total.gpuHours),
    "",
    "",
    "",
    "",
    "",
    "",
    digits(total.energyKwh),
    mass(total.carbonKg)
  ]
  const untold = [
    ...Map.groupBy(
      [...cost.nodes].flatMap(([id, one]) => (isKnown(one) ? [] : [{ id, why: one.unknown }])),
      ({ why }) => why
    )
  ]
  const several = known(cost).filter(({ gpus }) => gpus > 1).length
  return [
    ...(rows.length === 0 ? [] : ["Cost of what would run:", ...table([head, ...rows, sum], "  ")]),
    ...(untold.length === 0
      ? []
      : ["Cost not known, because this is not:", ...untold.map(([why, stages]) => `  ${why}: ${few(stages.map(({ id }) => id))}`)]),
    ...(several === 0
      ? []
      : [`${count(several, "stage")} would take more than one GPU's memory: this engine computes on one, and would need a larger one.`]),
    ...(rows.length === 0 ? [] : ["Reckoned with:", ...statedAssumptions(cost.machine).map((line) => `  ${line}`)])
  ]
}
