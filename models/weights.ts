/** A model's weights from and to the Hugging Face layout: config.json and one or several safetensors files. */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { type Device, type DType, keep, type Tensor } from "../engine/tensor.ts"
import { ArtifactError } from "../schemas/artifact.ts"
import { readJson, validateLayout, weightFiles } from "../schemas/checkpoint-files.ts"
import { fromHuggingFace, type LlamaConfig, parameterShapes } from "./config.ts"
import { Llama } from "./llama.ts"
import { headName, RewardModel } from "./reward-model.ts"
import { openSafetensors } from "./safetensors.ts"

export interface LoadOptions {
  readonly device?: Device
  /** float32 unless told otherwise, whatever the file holds. */
  readonly dtype?: DType
}

/** Old exports carry these; they follow from the config. */
const derived = /\.rotary_emb\.inv_freq$/

/** safetensors' dtypes that weights come in. */
const floatingPoint: ReadonlySet<string> = new Set(["F64", "F32", "F16", "BF16"])

const list = (names: ReadonlyArray<string>): string =>
  names.length <= 8 ? names.join(", ") : `${names.slice(0, 8).join(", ")} and ${names.length - 8} more`

/** Reads exactly these tensors; what is missing, unknown or not as the config says is told by name. */
const loadTensors = (
  directory: string,
  shapes: Readonly<Record<string, ReadonlyArray<number>>>,
  ignored: (name: string) => boolean,
  options: LoadOptions
): Effect.Effect<Record<string, Tensor>, ArtifactError> =>
  Effect.gen(function* () {
    const open = (path: string) => Effect.acquireRelease(openSafetensors(path), (file) => Effect.promise(() => file.close()))
    const files = yield* Effect.forEach(yield* weightFiles(directory), open)
    const held = files.flatMap((file) => Array.from(file.entries.values(), (entry) => ({ file, ...entry })))
    const found = new Map(held.map((entry) => [entry.name, entry]))
    const wanted = Object.entries(shapes).flatMap(([name, shape]) => (found.has(name) ? [{ shape, entry: found.get(name)! }] : []))
    const text = (shape: ReadonlyArray<number>) => `(${shape.join(", ")})`
    const wrong = {
      missing: Object.keys(shapes).filter((name) => !found.has(name)),
      unknown: [...found.keys()].filter((name) => !Object.hasOwn(shapes, name) && !derived.test(name) && !ignored(name)),
      "of another shape": wanted
        .filter(({ shape, entry }) => text(shape) !== text(entry.shape))
        .map(({ shape, entry }) => `${entry.name} ${text(entry.shape)} instead of ${text(shape)}`),
      "not floating point": wanted
        .filter(({ entry }) => !floatingPoint.has(entry.dtype))
        .map(({ entry }) => `${entry.name} ${entry.dtype}`),
      "in several files": held.filter((entry) => found.get(entry.name) !== entry).map(({ name }) => name)
    }
    const told = Object.entries(wrong).filter(([, names]) => names.length > 0)
    if (told.length > 0) {
      return yield* ArtifactError.of({
        doing: `Reading the weights in ${directory}`,
        expected: "the tensors of its config.json",
        found: told.map(([what, names]) => `${what}: ${list(names)}`).join("; "),
        hint: "The weights and the configuration do not belong together."
      })
    }
    const tensors: Record<string, Tensor> = {}
    for (const { entry } of wanted)
      tensors[entry.name] = keep(
        yield* entry.file.read(entry.name, { dtype: options.dtype ?? "float32", device: options.device ?? "cpu" })
      ).requiresGrad()
    return tensors
  }).pipe(Effect.scoped)

/** The configuration of the model in a folder. */
export const loadConfig = (directory: string): Effect.Effect<LlamaConfig, ArtifactError> =>
  Effect.gen(function* () {
    yield* validateLayout(directory)
    const path = join(directory, "config.json")
    return yield* fromHuggingFace(yield* readJson(path, "Reading the model's configuration"), path)
  })

/** A language model from a folder. A tied output layer that the files repeat is left alone. */
export const loadLlama = Effect.fn("loadLlama")(function* (
  directory: string,
  options: LoadOptions = {}
): Effect.fn.Return<Llama, ArtifactError> {
  const config = yield* loadConfig(directory)
  return new Llama(
    config,
    yield* loadTensors(directory, parameterShapes(config), (name) => config.tiedEmbeddings && name === "lm_head.weight", options)
  )
})

/** A model with a scalar head from a folder. */
export const loadScalarModel = Effect.fn("loadScalarModel")(function* (
  directory: string,
  options: LoadOptions = {}
): Effect.fn.Return<RewardModel, ArtifactError> {
  const config = yield* loadConfig(directory)
  // The head takes the place of the output layer.
  const { "lm_head.weight": _, ...kept } = parameterShapes(config)
  const shapes = { ...kept, [headName]: [1, config.dim] }
  const { [headName]: head, ...backbone } = yield* loadTensors(directory, shapes, () => false, options)
  return new RewardModel(new Llama(config, backbone), head!)
})
