/**
 * Training by low-rank adapters (models/lora.ts) in place of all weights: the base is frozen. The stage's output is a whole model, the adapter merged
 * into it, so that every other stage takes it as any model; the adapter itself is beside it, in PEFT's layout.
 */
import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type { Parameters } from "../../engine/gradients.ts"
import { writeAdapter } from "../../models/adapter-files.ts"
import { saveCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import { initLora, linearLayers, type LoraTarget } from "../../models/lora.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import { ArtifactError, type Checkpoint, type OutputSlot, type Written } from "../../schemas/artifact.ts"
import { hyper, hyperInt, hyperWords } from "../../schemas/hyper.ts"

const everyLayer = "all-linear"

/** Fields of a stage's config. */
export const loraFields = {
  loraRank: hyperInt(0, "rank of the LoRA adapter that is trained in place of the weights; 0: all weights are trained", { min: 0 }),
  loraAlpha: hyper(16, "with loraRank: the adapter's output is scaled by loraAlpha / loraRank", { min: 0 }),
  loraTargets: hyperWords(everyLayer, "with loraRank: the layers that it is on, by PEFT's names, separated by commas", [
    everyLayer,
    ...linearLayers
  ]),
  rsLora: hyper(false, "with loraRank: the scale is loraAlpha / sqrt(loraRank)")
}

/** The values of those fields. */
export interface LoraFields {
  readonly loraRank: number
  readonly loraAlpha: number
  readonly loraTargets: string
  readonly rsLora: boolean
}

/** The layers that a config names. */
export const targetsOf = (names: string): ReadonlyArray<LoraTarget> => {
  const words = names.split(",").map((word) => word.trim())
  return linearLayers.filter((target) => words.includes(everyLayer) || words.includes(target))
}

/** The model that a stage trains: with a new adapter on it, or as it is where loraRank is 0. */
export const withLora = (model: Llama, { loraAlpha, loraRank, loraTargets, rsLora }: LoraFields, seed: number): Llama => {
  if (loraRank === 0) return model
  const config = { rank: loraRank, alpha: loraAlpha, rankStabilised: rsLora, targets: targetsOf(loraTargets) }
  const { device, dtype } = model
  return model.withAdapter(initLora(model.config, config, { seed, device, dtype }))
}

/** What of a model is trained: its adapter, or all weights where it has none. */
export const trainedParameters = (model: Llama): Parameters => model.adapter?.parameters ?? model.parameters

/** Writes a trained model as the stage's output: merged, with the adapter in the folder adapter/ where it has one. The model is not to be used after. */
export const saveTrained = Effect.fn("saveTrained")(function* (
  slot: OutputSlot<Checkpoint<"policy">>,
  { model, ...more }: { readonly model: Llama; readonly tokenizer: Tokenizer; readonly metrics?: Readonly<Record<string, number>> }
): Effect.fn.Return<Written<Checkpoint<"policy">>, ArtifactError> {
  const { adapter } = model
  if (adapter !== undefined) {
    const folder = join(slot.path, "adapter")
    yield* Effect.tryPromise({
      try: async () => {
        await mkdir(folder)
        await writeAdapter(folder, adapter)
      },
      catch: (cause) =>
        ArtifactError.of({
          doing: `Writing an adapter to ${folder}`,
          expected: "a folder that can be written",
          found: cause instanceof Error ? cause.message : String(cause),
          hint: "Free some space or set CARAVAN_HOME to another disk."
        })
    })
  }
  return yield* saveCheckpoint(slot, { model: model.merge(), ...more })
})
