/** LoRA adapters from and to PEFT's layout: adapter_config.json and adapter_model.safetensors. */
import { existsSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { noGrad, type Tensor } from "../engine/tensor.ts"
import { ArtifactError } from "../schemas/artifact.ts"
import { adapterFile, readJson } from "../schemas/checkpoint-files.ts"
import type { Llama } from "./llama.ts"
import { Lora, type LoraConfig, loraShapes, linearLayers } from "./lora.ts"
import { headName, RewardModel } from "./reward-model.ts"
import { writeSafetensors } from "./safetensors.ts"
import { loadTensors } from "./weights.ts"

/** An adapter's weights in its folder. */
export const adapterWeightsFile = "adapter_model.safetensors"

const PeftConfig = Schema.Struct({
  peft_type: Schema.Literal("LORA"),
  r: Schema.Int.check(Schema.isGreaterThan(0)),
  lora_alpha: Schema.Finite,
  use_rslora: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  target_modules: Schema.Union([Schema.Literal("all-linear"), Schema.Array(Schema.Literals(linearLayers))]),
  // Others begin by changing the base (PiSSA, OLoRA, ...), which an adapter alone does not tell.
  init_lora_weights: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Boolean, Schema.Literals(["gaussian", "eva", "orthogonal"])]))),
  task_type: Schema.optionalKey(Schema.NullOr(Schema.Literal("CAUSAL_LM")))
})

/** Fields that change nothing of what a trained adapter computes. */
const inert: ReadonlySet<string> = new Set([
  ...["auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "lora_dropout", "megatron_core", "peft_version"],
  ...["qalora_group_size", "revision", "runtime_config"]
])
const isOff = (value: unknown): boolean =>
  value === null || value === false || value === "none" || (typeof value === "object" && Object.keys(value).length === 0)

/** The adapter in a folder of PEFT's layout, on the device and in the dtype of its base. What it can't be used for is told by name. */
export const loadAdapter = Effect.fn("loadAdapter")(function* (directory: string, base: Llama): Effect.fn.Return<Lora, ArtifactError> {
  const doing = `Reading the adapter ${directory}`
  const path = join(directory, adapterFile)
  if (!existsSync(path))
    return yield* ArtifactError.of({
      doing,
      expected: `a folder with ${adapterFile} and ${adapterWeightsFile}, as PEFT writes them`,
      found: existsSync(join(directory, "config.json")) ? "a whole model" : `no ${adapterFile}`,
      hint: "Give the folder of a LoRA adapter."
    })
  const json = yield* readJson(path, doing)
  const refuse = (expected: string, found: string) =>
    ArtifactError.of({
      doing: `Reading ${path}`,
      expected,
      found,
      hint: `Only LoRA on a causal language model is supported, on any of ${linearLayers.join(", ")}. Other adapters: merge them into their base with PEFT (merge_and_unload), and use that.`
    })
  const peft = yield* Schema.decodeUnknownEffect(PeftConfig, { errors: "all" })(json).pipe(
    Effect.mapError((error) =>
      refuse(
        "a LoRA adapter of rank 1 or more on a Llama's linear layers",
        error.message.replaceAll(/\n\s*at /g, " at ").replaceAll("\n", "; ")
      )
    )
  )
  const more = Object.entries(json).find(([name, value]) => !Object.hasOwn(PeftConfig.fields, name) && !inert.has(name) && !isOff(value))
  if (more !== undefined) return yield* refuse(`no ${more[0]}`, JSON.stringify(more[1]))
  const targets = peft.target_modules === "all-linear" ? linearLayers : peft.target_modules
  if (targets.length === 0) return yield* refuse("target_modules", "none")
  const config: LoraConfig = { rank: peft.r, alpha: peft.lora_alpha, rankStabilised: peft.use_rslora ?? false, targets }
  const { device, dtype } = base
  const tensors = yield* loadTensors(
    [join(directory, adapterWeightsFile)],
    loraShapes(base.config, config),
    { device, dtype },
    {
      doing,
      expected: `the tensors of its ${adapterFile} on this base`,
      hint: "The adapter belongs to another base, or changes its vocabulary: give the base that it was trained on."
    }
  )
  return new Lora(config, tensors)
})

/** PEFT's adapter_config.json. A scalar head is trained whole beside the adapter. */
const toPeft = ({ alpha, rank, rankStabilised, targets }: LoraConfig, scalarHead: boolean): Record<string, unknown> => ({
  peft_type: "LORA",
  task_type: scalarHead ? "SEQ_CLS" : "CAUSAL_LM",
  base_model_name_or_path: null,
  inference_mode: true,
  r: rank,
  lora_alpha: alpha,
  lora_dropout: 0,
  use_rslora: rankStabilised,
  bias: "none",
  fan_in_fan_out: false,
  init_lora_weights: true,
  modules_to_save: scalarHead ? ["score"] : null,
  target_modules: linearLayers.filter((target) => targets.includes(target))
})

/** What an adapter's files hold, by PEFT's names, and what is trained: the adapter, and a reward model's head. Throws where the model has no adapter. */
export const adapterTensors = (model: Llama | RewardModel): Readonly<Record<string, Tensor>> => {
  if (model.adapter === undefined) throw new Error("The model has no adapter.")
  const { parameters } = model.adapter
  return model instanceof RewardModel ? { ...parameters, [`base_model.model.${headName}`]: model.head } : parameters
}

/** Writes a model's adapter into a folder that is there, in PEFT's layout and its own dtype. The base is not named: it is whatever the reader puts it on. */
export const writeAdapter = async (directory: string, model: Llama | RewardModel): Promise<void> => {
  const tensors = adapterTensors(model)
  const config = toPeft(model.adapter!.config, model instanceof RewardModel)
  await writeFile(join(directory, adapterFile), `${JSON.stringify(config, undefined, 2)}\n`)
  await noGrad(() => writeSafetensors(join(directory, adapterWeightsFile), tensors))
}
