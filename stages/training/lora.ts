/**
 * Training low-rank adapters (models/lora.ts) on a frozen base instead of all weights. The stage's output is a complete model with the adapter merged
 * into it, so that every other stage can use it like any model; the adapter itself is stored with it in PEFT's layout.
 */
import * as Schema from "effect/Schema"
import type { Parameters } from "../../engine/gradients.ts"
import { adapterTensors } from "../../models/adapter-files.ts"
import type { Llama } from "../../models/llama.ts"
import { initLora, linearLayers, type LoraTarget } from "../../models/lora.ts"
import type { CostedModel } from "../../models/memory.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { hyper, hyperInt, hyperWords } from "../../schemas/hyper.ts"

const everyLayer = "all-linear"

/** Config fields of stages that can train an adapter. */
export const loraFields = {
  loraRank: hyperInt(0, "rank of the LoRA adapter that is trained instead of the weights; 0: all weights are trained", { min: 0 }),
  loraAlpha: hyper(16, "with loraRank: the adapter's output is scaled by loraAlpha / loraRank", { min: 0 }),
  loraTargets: hyperWords(everyLayer, "with loraRank: comma-separated PEFT names of the layers with an adapter", [
    everyLayer,
    ...linearLayers
  ]),
  rsLora: hyper(false, "with loraRank: scale by loraAlpha / sqrt(loraRank) instead (rsLoRA)")
}

/** Rejects a config with target layers but without an adapter. */
export const targetsNeedRank = Schema.makeFilter(({ loraRank, loraTargets }: LoraFields): ReadonlyArray<Schema.FilterIssue> =>
  loraRank > 0 || loraTargets === everyLayer
    ? []
    : [
        {
          path: ["loraTargets"],
          issue: `${loraTargets} has no effect with loraRank 0: set the adapter's rank, for example loraRank 16, or remove loraTargets`
        }
      ]
)

/** The values of `loraFields`. */
export interface LoraFields {
  readonly loraRank: number
  readonly loraAlpha: number
  readonly loraTargets: string
  readonly rsLora: boolean
}

/** The target layers of a config. */
export const targetsOf = (names: string): ReadonlyArray<LoraTarget> => {
  const words = names.split(",").map((word) => word.trim())
  return linearLayers.filter((target) => words.includes(everyLayer) || words.includes(target))
}

/** The fields that determine the adapter's size; if they are absent, no adapter is trained. */
export type LoraCost = Partial<Pick<LoraFields, "loraRank" | "loraTargets">>

/** The adapter that is trained with a config. */
export const adapterOf = ({ loraRank = 0, loraTargets = "" }: LoraCost): CostedModel["adapter"] =>
  loraRank === 0 ? undefined : { rank: loraRank, targets: targetsOf(loraTargets) }

/** A model as it is trained with a config. */
export const adaptedBy = (config: LoraCost, model: CostedModel): CostedModel => ({ ...model, adapter: adapterOf(config) })

/** The model that a stage trains: with a new adapter, or unchanged if loraRank is 0. */
export const withLora = (model: Llama, { loraAlpha, loraRank, loraTargets, rsLora }: LoraFields, seed: number): Llama => {
  if (loraRank === 0) return model
  const config = { rank: loraRank, alpha: loraAlpha, rankStabilised: rsLora, targets: targetsOf(loraTargets) }
  const { device, dtype } = model
  return model.withAdapter(initLora(model.config, config, { seed, device, dtype }))
}

/** A model's trained parameters: its adapter (and a reward model's head), or all weights if it has none. */
export const trainedParameters = (model: Llama | RewardModel): Parameters =>
  model.adapter === undefined ? model.parameters : adapterTensors(model)
