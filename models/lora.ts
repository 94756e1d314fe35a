/**
 * Low-rank adapters (Hu et al. 2021): a frozen linear layer W (N, K) computes W x + scale B A x, with A (r, K) and B (N, r); only A and B are
 * trained. scale is alpha / r, or alpha / sqrt(r) with rank stabilisation (rsLoRA, Kalajdzievski 2023). A is initialised as in PEFT, kaiming-uniform with
 * a = sqrt(5), which is uniform within 1 / sqrt(K); B starts at zero, so that a new adapter does not change the output.
 */
import { Random } from "../engine/random.ts"
import { type Device, type DType, keep, linear, noGrad, scoped, tensor, type Tensor, zeros } from "../engine/tensor.ts"
import { type LlamaConfig, parameterShapes } from "./config.ts"

/** The layers that an adapter may target, by PEFT's names, with their paths in a block. */
const places = {
  q_proj: "self_attn.q_proj",
  k_proj: "self_attn.k_proj",
  v_proj: "self_attn.v_proj",
  o_proj: "self_attn.o_proj",
  gate_proj: "mlp.gate_proj",
  up_proj: "mlp.up_proj",
  down_proj: "mlp.down_proj"
} as const
export type LoraTarget = keyof typeof places
export const linearLayers = Object.keys(places) as ReadonlyArray<LoraTarget>

export interface LoraConfig {
  /** r, at least 1. */
  readonly rank: number
  readonly alpha: number
  /** Whether the scale is alpha / sqrt(r) instead of alpha / r. */
  readonly rankStabilised: boolean
  readonly targets: ReadonlyArray<LoraTarget>
}

/** The name of an adapter's tensor in PEFT's files. */
const nameOf = (layer: string, matrix: "A" | "B"): string => `base_model.model.${layer}.lora_${matrix}.weight`

/** The layers that an adapter targets, "model.layers.0.self_attn.q_proj", ... with the shape (N, K) of each. */
const layersOf = (model: LlamaConfig, targets: ReadonlyArray<LoraTarget>): ReadonlyArray<readonly [string, number, number]> => {
  const shapes = parameterShapes(model)
  return Array.from({ length: model.layers }, (_, block) =>
    linearLayers
      .filter((target) => targets.includes(target))
      .map((target) => {
        const layer = `model.layers.${block}.${places[target]}`
        const [rows, columns] = shapes[`${layer}.weight`] as [number, number]
        return [layer, rows, columns] as const
      })
  ).flat()
}

/** Shapes of an adapter's tensors under PEFT's names. */
export const loraShapes = (
  model: LlamaConfig,
  { rank, targets }: Pick<LoraConfig, "rank" | "targets">
): Record<string, ReadonlyArray<number>> =>
  Object.fromEntries(
    layersOf(model, targets).flatMap(([layer, rows, columns]) => [
      [nameOf(layer, "A"), [rank, columns]],
      [nameOf(layer, "B"), [rows, rank]]
    ])
  )

export class Lora {
  readonly config: LoraConfig
  /** By PEFT's name. */
  readonly parameters: Readonly<Record<string, Tensor>>

  constructor(config: LoraConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.config = config
    this.parameters = parameters
  }

  get scale(): number {
    const { alpha, rank, rankStabilised } = this.config
    return alpha / (rankStabilised ? Math.sqrt(rank) : rank)
  }

  /** A (r, K) and B (N, r) of a layer ("model.layers.0.self_attn.q_proj"); undefined if the layer has no adapter. */
  #of(layer: string): { readonly a: Tensor; readonly b: Tensor } | undefined {
    const [a, b] = [this.parameters[nameOf(layer, "A")], this.parameters[nameOf(layer, "B")]]
    return a === undefined || b === undefined ? undefined : { a, b }
  }

  /** The adapter's contribution to a layer's output: x (..., K) -> scale B A x (..., N); undefined if it does not target that layer. */
  output(layer: string, x: Tensor): Tensor | undefined {
    const found = this.#of(layer)
    return found && linear(linear(x, found.a).mul(this.scale), found.b)
  }

  /** The adapter's contribution to a layer's weight: scale B A (N, K); undefined if it does not target that layer. */
  weight(layer: string): Tensor | undefined {
    const found = this.#of(layer)
    return found?.b.matmul(found.a).mul(this.scale)
  }

  free(): void {
    for (const tensor of Object.values(this.parameters)) tensor.free()
  }
}

/** A new adapter for a model of this shape. Each tensor's values depend only on the seed and its name. Throws RangeError for a rank below 1 or without targets. */
export const initLora = (
  model: LlamaConfig,
  config: LoraConfig,
  options: { readonly seed: number; readonly device?: Device; readonly dtype?: DType }
): Lora => {
  const { seed, device = "cpu", dtype = "float32" } = options
  if (!Number.isInteger(config.rank) || config.rank < 1)
    throw new RangeError(`A LoRA adapter's rank must be an integer of 1 or more, got ${config.rank}.`)
  if (config.targets.length === 0) throw new RangeError(`A LoRA adapter must target at least one of ${linearLayers.join(", ")}.`)
  const parameters: Record<string, Tensor> = {}
  for (const [name, shape] of Object.entries(loraShapes(model, config))) {
    const made = scoped(() =>
      noGrad(() => {
        if (name.endsWith(".lora_B.weight")) return zeros(shape, { dtype, device })
        const [rank, columns] = shape as [number, number]
        const random = new Random(seed, "LoRA", name)
        const bound = 1 / Math.sqrt(columns)
        return tensor(
          Float32Array.from({ length: rank * columns }, () => (2 * random.next() - 1) * bound),
          { shape }
        ).to({ dtype, device })
      })
    )
    parameters[name] = keep(made).requiresGrad()
  }
  return new Lora(config, parameters)
}
