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

const list = (names: ReadonlyArray<string>): string => (names.length <= 8 ? names.join(", ") : `${names.slice(0, 8).join(", ")} and ${names.length - 8} more`)

/** Reads exactly these tensors; missing, unknown and misshapen ones are all named. */
const loadTensors = (directory: string, shapes: Readonly<Record<string, ReadonlyArray<number>>>, ignored: (name: string) => boolean, options: LoadOptions): Effect.Effect<Record<string, Tensor>, ArtifactError> =>
  Effect.gen(function* () {
    const files = yield* Effect.forEach(yield* weightFiles(directory), openSafetensors)
    const close = Effect.promise(() => Promise.all(files.map((file) => file.close())))
    return yield* Effect.gen(function* () {
      const where = new Map(files.flatMap((file) => [...file.entries.keys()].map((name) => [name, file] as const)))
      const missing = Object.keys(shapes).filter((name) => !where.has(name))
      const unknown = [...where.keys()].filter((name) => !(name in shapes) && !derived.test(name) && !ignored(name))
      const misshapen = Object.entries(shapes).flatMap(([name, shape]) => {
        const found = where.get(name)?.entries.get(name)?.shape
        return found === undefined || (found.length === shape.length && found.every((size, i) => size === shape[i])) ? [] : [`${name} (${found.join(", ")}) instead of (${shape.join(", ")})`]
      })
      const wrong = [
        ...(missing.length > 0 ? [`missing: ${list(missing)}`] : []),
        ...(unknown.length > 0 ? [`unknown: ${list(unknown)}`] : []),
        ...(misshapen.length > 0 ? [`of another shape: ${list(misshapen)}`] : [])
      ]
      if (wrong.length > 0) {
        return yield* ArtifactError.of({ doing: `Reading the weights in ${directory}`, expected: "the tensors of its config.json", found: wrong.join("; "), hint: "The weights and the configuration do not belong together." })
      }
      const tensors: Record<string, Tensor> = {}
      for (const name of Object.keys(shapes)) tensors[name] = keep(yield* where.get(name)!.read(name, { dtype: options.dtype ?? "float32", device: options.device ?? "cpu" })).requiresGrad()
      return tensors
    }).pipe(Effect.ensuring(close))
  })

/** The configuration of the model in a folder. */
export const loadConfig = (directory: string): Effect.Effect<LlamaConfig, ArtifactError> =>
  Effect.gen(function* () {
    yield* validateLayout(directory)
    const path = join(directory, "config.json")
    return yield* fromHuggingFace(yield* readJson(path, "Reading the model's configuration"), path)
  })

/** A language model from a folder. A tied output layer that the files repeat is left alone. */
export const loadLlama = Effect.fn("loadLlama")(function* (directory: string, options: LoadOptions = {}): Effect.fn.Return<Llama, ArtifactError> {
  const config = yield* loadConfig(directory)
  return new Llama(config, yield* loadTensors(directory, parameterShapes(config), (name) => config.tiedEmbeddings && name === "lm_head.weight", options))
})

/** A model with a scalar head from a folder. */
export const loadScalarModel = Effect.fn("loadScalarModel")(function* (directory: string, options: LoadOptions = {}): Effect.fn.Return<RewardModel, ArtifactError> {
  const config = yield* loadConfig(directory)
  // The head takes the place of the output layer.
  const { "lm_head.weight": _, ...kept } = parameterShapes(config)
  const shapes = { ...kept, [headName]: [1, config.dim] }
  const { [headName]: head, ...backbone } = yield* loadTensors(directory, shapes, () => false, options)
  return new RewardModel(new Llama(config, backbone), head!)
})
