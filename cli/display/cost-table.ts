/** The estimated cost of a plan's stages as a text table, with its assumptions. */
import { type CostMachine, isKnown, type PlanCost, totalCost } from "../cost.ts"
import { few, gib, table } from "./units.ts"

const powers = ["", "k", "M", "G", "T", "P"]
/** 1234567 -> "1.2M". */
const short = (value: number): string => {
  let power = 0
  while (power < powers.length - 1 && value / 1000 ** power >= (power === 0 ? 1000 : 999.5)) power++
  const scaled = value / 1000 ** power
  return `${power === 0 || scaled >= 99.95 ? Math.round(scaled) : scaled.toFixed(1)}${powers[power]}`
}
/** Three significant digits at any magnitude. */
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

/** Assumptions of the estimates, printed with them. */
const assumptions: ReadonlyArray<string> = [
  "training: 6 N + 12 L d T FLOPs per token; a forward pass: 2 N + 4 L d T (PaLM, appendix B); N parameters, L layers of width d, T tokens per sequence",
  "decoding reads the weights and the cache once per step; its time is the larger of that and its FLOPs",
  "fine-tuning sequences are full; answers have the pipeline's expected length, otherwise maxNewTokens; no resampling; PPO and filters do not stop early",
  "memory counts one copy of each model and the activations of the longest possible sequences; micro-batch and recomputation are as a run on this GPU chooses them",
  "text that stages add to prompts (preprompts, instructions, the classifier's task) is not counted; small-world rows are measured with its own 600-token vocabulary"
]

/** The assumptions behind the figures. */
export const statedAssumptions = ({ accelerator, carbonIntensity: intensity, mbu, mfu, watts }: CostMachine): ReadonlyArray<string> => [
  `${accelerator.name}: ${accelerator.flops.bfloat16 / 1e12} TFLOP/s in bfloat16, ${accelerator.flops.float32 / 1e12} in float32, ${gib(accelerator.memory)} of memory at ${accelerator.bandwidth / 1e12} TB/s`,
  `utilisation: ${mfu} of the FLOP/s (MFU), ${mbu} of the bandwidth when decoding`,
  `energy: GPU-hours x ${watts} W; carbon: x ${intensity} kg CO2eq/kWh (Llama 2 table 2: no cooling, no other hardware)`,
  ...assumptions
]

/** The cost per stage, as lines. */
export const costTable = (cost: PlanCost): ReadonlyArray<string> => {
  if (cost.nodes.size === 0) return []
  const total = totalCost(cost)
  const head = ["stage", "tokens", "FLOPs", "GPU-hours", "kWh", "CO2eq"]
  const rows = [...cost.nodes].flatMap(([id, one]) => {
    if (!isKnown(one)) return []
    return [[id, short(one.tokens), flops(one.flops), digits(one.gpuHours), digits(one.energyKwh), mass(one.carbonKg)]]
  })
  const sum = ["total", short(total.tokens), flops(total.flops), digits(total.gpuHours), digits(total.energyKwh), mass(total.carbonKg)]
  const unknownCosts = [
    ...Map.groupBy(
      [...cost.nodes].flatMap(([id, one]) => (isKnown(one) ? [] : [{ id, why: one.unknown }])),
      ({ why }) => why
    )
  ]
  return [
    ...(rows.length === 0 ? [] : ["Cost of the stages that would run:", ...table([head, ...rows, sum], "  ")]),
    ...(unknownCosts.length === 0
      ? []
      : [
          "Cost unknown, because these are unknown:",
          ...unknownCosts.map(([why, stages]) => `  ${why}: ${few(stages.map(({ id }) => id))}`)
        ]),
    ...(rows.length === 0 ? [] : ["Assumptions:", ...statedAssumptions(cost.machine).map((line) => `  ${line}`)])
  ]
}
