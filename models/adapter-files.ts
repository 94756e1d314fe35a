/**
 * Reads and writes LoRA adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors; a reward model's adapter (SEQ_CLS) includes its head.
 * Adapters written by Caravan also have base.json, which identifies the weights that the adapter was trained on.
 */
import { existsSync } from "node:fs"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Tensor } from "../engine/tensor.ts"
import { ArtifactError } from "../schemas/artifact.ts"
import { adapterFile, readJson } from "../schemas/checkpoint-files.ts"
import type { Llama } from "./llama.ts"
import { Lora, type LoraConfig, loraShapes, linearLayers } from "./lora.ts"
import { headName, RewardModel } from "./reward-model.ts"
import { type TensorWriter, writeSafetensors } from "./safetensors.ts"
import { loadTensors } from "./weights.ts"
import { schemaIssues } from "../schemas/schema-issues.ts"

export const adapterWeightsFile = "adapter_model.safetensors"

/** A reward model's head under PEFT's name. */
const headTensor = `base_model.model.${headName}`

const PeftConfig = Schema.Struct({
  peft_type: Schema.Literal("LORA"),
  r: Schema.Int.check(Schema.isGreaterThan(0)),
  lora_alpha: Schema.Finite,
  use_rslora: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  target_modules: Schema.Union([Schema.Literal("all-linear"), Schema.Array(Schema.Literals(linearLayers))]),
  // Other initialisations (PiSSA, OLoRA, ...) modify the base first, which the adapter's files do not contain.
  init_lora_weights: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Boolean, Schema.Literals(["gaussian", "eva", "orthogonal"])]))),
  task_type: Schema.optionalKey(Schema.NullOr(Schema.Literals(["CAUSAL_LM", "SEQ_CLS"]))),
  modules_to_save: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.String)))
})

/** Config fields that do not affect what a trained adapter computes. */
const inert: ReadonlySet<string> = new Set([
  ...["auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "lora_dropout", "megatron_core", "peft_version"],
  ...["qalora_group_size", "revision", "runtime_config"]
])
const isOff = (value: unknown): boolean =>
  value === null || value === false || value === "none" || (typeof value === "object" && Object.keys(value).length === 0)

/** Checks an adapter_config.json field by field and names every unsupported setting. */
const readConfig = Effect.fnUntraced(function* (directory: string, scalarHead: boolean): Effect.fn.Return<LoraConfig, ArtifactError> {
  const doing = `Reading the adapter ${directory}`
  const path = join(directory, adapterFile)
  if (!existsSync(path))
    return yield* ArtifactError.of({
      doing,
      expected: `a folder with ${adapterFile} and ${adapterWeightsFile}, as PEFT writes them`,
      found: existsSync(join(directory, "config.json")) ? "a complete model" : `no ${adapterFile}`,
      hint: "Pass the folder of a LoRA adapter."
    })
  const json = yield* readJson(path, doing)
  const refuse = (expected: string, found: string) =>
    ArtifactError.of({
      doing: `Reading ${path}`,
      expected,
      found,
      hint: `Only LoRA on a ${scalarHead ? "model with a scalar head" : "causal language model"} is supported here, on any of ${linearLayers.join(", ")}. For another adapter, merge it into its base with PEFT (merge_and_unload) and use the merged model.`
    })
  const peft = yield* Schema.decodeUnknownEffect(PeftConfig, { errors: "all" })(json).pipe(
    Effect.mapError((error) => refuse("a LoRA adapter of rank 1 or more on a Llama's linear layers", schemaIssues(error.message)))
  )
  const more = Object.entries(json).find(([name, value]) => !Object.hasOwn(PeftConfig.fields, name) && !inert.has(name) && !isOff(value))
  if (more !== undefined) return yield* refuse(`no ${more[0]}`, JSON.stringify(more[1]))
  const [task, whole] = [peft.task_type ?? "CAUSAL_LM", peft.modules_to_save ?? []]
  if ((task === "SEQ_CLS") !== scalarHead) return yield* refuse(`the task_type ${scalarHead ? "SEQ_CLS" : "CAUSAL_LM"}`, task)
  // PEFT lists both head names that such a model may have; Llama's is "score".
  const heads = scalarHead ? ["score", "classifier"] : []
  if (whole.some((name) => !heads.includes(name)) || (scalarHead && !whole.includes("score")))
    return yield* refuse(scalarHead ? 'modules_to_save ["score"]' : "no modules_to_save", JSON.stringify(whole))
  const targets = peft.target_modules === "all-linear" ? linearLayers : peft.target_modules
  if (targets.length === 0) return yield* refuse("target_modules", "none")
  return { rank: peft.r, alpha: peft.lora_alpha, rankStabilised: peft.use_rslora ?? false, targets }
})

const readTensors = (directory: string, shapes: Readonly<Record<string, ReadonlyArray<number>>>, { device, dtype }: Llama) =>
  loadTensors(
    [join(directory, adapterWeightsFile)],
    shapes,
    { device, dtype },
    {
      doing: `Reading the adapter ${directory}`,
      expected: `the tensors of its ${adapterFile} on this base`,
      hint: "The adapter belongs to another base, or changes the vocabulary: pass the base that it was trained on."
    }
  )

/** Loads a language model's adapter from a folder in PEFT's layout, on the device and in the dtype of its base. */
export const loadAdapter = Effect.fn("loadAdapter")(function* (directory: string, base: Llama): Effect.fn.Return<Lora, ArtifactError> {
  const config = yield* readConfig(directory, false)
  return new Lora(config, yield* readTensors(directory, loraShapes(base.config, config), base))
})

/** Builds a reward model from a base, an adapter in PEFT's layout and the head stored with it. The base is shared and frozen. */
export const loadRewardAdapter = Effect.fn("loadRewardAdapter")(function* (
  directory: string,
  base: Llama
): Effect.fn.Return<RewardModel, ArtifactError> {
  const config = yield* readConfig(directory, true)
  const shapes = { ...loraShapes(base.config, config), [headTensor]: [1, base.config.dim] }
  const { [headTensor]: head, ...adapter } = yield* readTensors(directory, shapes, base)
  return new RewardModel(base.withAdapter(new Lora(config, adapter)), head!)
})

/** The content of PEFT's adapter_config.json. A scalar head is trained in full along with the adapter. */
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

/** The tensors of an adapter's files under PEFT's names, which are the trained ones: the adapter, and a reward model's head. Throws for a model without an adapter. */
export const adapterTensors = (model: Llama | RewardModel): Readonly<Record<string, Tensor>> => {
  if (model.adapter === undefined) throw new Error("The model has no adapter. Write it with saveCheckpoint.")
  const { parameters } = model.adapter
  return model instanceof RewardModel ? { ...parameters, [headTensor]: model.head } : parameters
}

/** Writes a model's adapter to an existing folder, in PEFT's layout and its own dtype; `write` writes the tensors. The base is not recorded: the reader chooses it. */
export const writeAdapter = async (
  directory: string,
  model: Llama | RewardModel,
  write: TensorWriter = writeSafetensors
): Promise<void> => {
  const tensors = adapterTensors(model)
  const config = toPeft(model.adapter!.config, model instanceof RewardModel)
  await writeFile(join(directory, adapterFile), `${JSON.stringify(config, undefined, 2)}\n`)
  await write(join(directory, adapterWeightsFile), tensors)
}

/** The file beside an adapter with the digest of its base weights (weights-digest.ts). */
const baseFile = "base.json"
const Base = Schema.fromJsonString(Schema.Struct({ format: Schema.Literal(1), weights: Schema.String }))

/** Records in an adapter's folder which weights the adapter belongs to. */
export const writeBase = (directory: string, weights: string): Promise<void> =>
  writeFile(join(directory, baseFile), `${JSON.stringify({ format: 1, weights } satisfies (typeof Base)["Type"])}\n`)

/** Whether an adapter's folder records its base weights; PEFT's own do not. */
export const namesBase = (directory: string): boolean => existsSync(join(directory, baseFile))

/** Fails unless an adapter's folder records these weights as its base; they are the weights of `base`. */
export const checkBase = Effect.fn("checkBase")(function* (
  directory: string,
  base: { readonly path: string; readonly weights: string }
): Effect.fn.Return<void, ArtifactError> {
  const refuse = (expected: string, found: string, hint: string) =>
    ArtifactError.of({ doing: `Applying the adapter ${directory} to ${base.path}`, expected, found, hint })
  const path = join(directory, baseFile)
  const text = yield* Effect.tryPromise({
    try: () => readFile(path, "utf8"),
    catch: () =>
      refuse(
        `${baseFile}, which identifies its base weights`,
        "none",
        "Train the adapter again: the stages that train with LoRA write this file."
      )
  })
  const { weights } = yield* Schema.decodeUnknownEffect(Base)(text).pipe(
    Effect.mapError((error) => refuse(`a valid ${baseFile}`, schemaIssues(error.message), "Train the adapter again."))
  )
  if (weights !== base.weights)
    return yield* refuse(
      `the weights that it was trained on (sha256 ${weights.slice(0, 12)})`,
      `other weights (${base.weights.slice(0, 12)})`,
      "Pass the base that the adapter was trained on."
    )
})
