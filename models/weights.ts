/** Reads and writes a model's weights in the Hugging Face layout: config.json and one or several safetensors files. */
import { existsSync } from "node:fs"
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { environment } from "../engine/device.ts"
import { type Device, type DType, keep, type Tensor } from "../engine/tensor.ts"
import { ArtifactError } from "../schemas/artifact.ts"
import { readJson, validateLayout, weightFiles } from "../schemas/checkpoint-files.ts"
import { type LlamaConfig, parameterShapes } from "./config.ts"
import { fromHuggingFace } from "./config-file.ts"
import { Llama } from "./llama.ts"
import { headName, RewardModel } from "./reward-model.ts"
import { openSafetensors } from "./safetensors.ts"

export interface LoadOptions {
  readonly device?: Device
  /** float32 by default, whatever the file contains. */
  readonly dtype?: DType
}

/** Tensors in old exports that follow from the config. */
const derived = /\.rotary_emb\.inv_freq$/

/** The safetensors dtypes allowed for weights. */
const floatingPoint: ReadonlySet<string> = new Set(["F64", "F32", "F16", "BF16"])

const list = (names: ReadonlyArray<string>): string =>
  names.length <= 8 ? names.join(", ") : `${names.slice(0, 8).join(", ")} and ${names.length - 8} more`

type Shapes = Readonly<Record<string, ReadonlyArray<number>>>

/** How to report errors about the tensors in files, and which tensors to ignore. */
interface TensorReporting {
  readonly doing: string
  readonly expected: string
  readonly hint: string
  /** Tensors that may exist and are not read; none by default. */
  readonly ignored?: (name: string) => boolean
}

/** Locates exactly these tensors in the files; missing or unknown tensors and wrong shapes are reported by name. Reads only headers; the files stay open for the duration of the scope. */
const findTensors = (paths: ReadonlyArray<string>, shapes: Shapes, reporting: TensorReporting) =>
  Effect.gen(function* () {
    const { ignored = () => false, ...explanation } = reporting
    const open = (path: string) => Effect.acquireRelease(openSafetensors(path), (file) => Effect.promise(() => file.close()))
    const files = yield* Effect.forEach(paths, open)
    const held = files.flatMap((file) => Array.from(file.entries.values(), (entry) => ({ file, ...entry })))
    const byName = new Map(held.map((entry) => [entry.name, entry]))
    const wanted = Object.entries(shapes).flatMap(([name, shape]) => (byName.has(name) ? [{ shape, entry: byName.get(name)! }] : []))
    const text = (shape: ReadonlyArray<number>) => `(${shape.join(", ")})`
    const wrong = {
      missing: Object.keys(shapes).filter((name) => !byName.has(name)),
      unknown: [...byName.keys()].filter((name) => !Object.hasOwn(shapes, name) && !derived.test(name) && !ignored(name)),
      "of another shape": wanted
        .filter(({ shape, entry }) => text(shape) !== text(entry.shape))
        .map(({ shape, entry }) => `${entry.name} ${text(entry.shape)} instead of ${text(shape)}`),
      "not floating point": wanted
        .filter(({ entry }) => !floatingPoint.has(entry.dtype))
        .map(({ entry }) => `${entry.name} ${entry.dtype}`),
      "in several files": held.filter((entry) => byName.get(entry.name) !== entry).map(({ name }) => name)
    }
    const found = Object.entries(wrong).filter(([, names]) => names.length > 0)
    if (found.length > 0)
      return yield* ArtifactError.of({ ...explanation, found: found.map(([what, names]) => `${what}: ${list(names)}`).join("; ") })
    return wanted.map(({ entry }) => entry)
  })

/** Fails for bfloat16 on a GPU that does not support it. */
export const checkPrecision = ({ device = "cpu", dtype }: LoadOptions, doing: string): Effect.Effect<void, ArtifactError> => {
  if (device === "cpu" || dtype !== "bfloat16") return Effect.void
  const { gpu, gpuGeneration } = environment()
  return gpuGeneration >= firstWithBfloat16
    ? Effect.void
    : ArtifactError.of({
        doing: `${doing} in bfloat16`,
        expected: `a GPU of compute capability ${firstWithBfloat16} or later (Ampere)`,
        found: `${gpu} with compute capability ${gpuGeneration}`,
        hint: "Set precision float32, or use another GPU."
      })
}
/** The first generation of NVIDIA GPUs that supports bfloat16. */
const firstWithBfloat16 = 8

/** Reads exactly these tensors; missing or unknown tensors and wrong shapes are reported by name. The caller owns them; they require gradients. */
export const loadTensors = (
  paths: ReadonlyArray<string>,
  shapes: Shapes,
  options: LoadOptions,
  reporting: TensorReporting
): Effect.Effect<Record<string, Tensor>, ArtifactError> =>
  Effect.gen(function* () {
    yield* checkPrecision(options, reporting.doing)
    const tensors: Record<string, Tensor> = {}
    for (const entry of yield* findTensors(paths, shapes, reporting))
      tensors[entry.name] = keep(
        yield* entry.file.read(entry.name, { dtype: options.dtype ?? "float32", device: options.device ?? "cpu" })
      ).requiresGrad()
    return tensors
  }).pipe(Effect.scoped)

const reporting = (directory: string, ignored?: (name: string) => boolean): TensorReporting => ({
  doing: `Reading the weights in ${directory}`,
  expected: "the tensors of its config.json",
  hint: "The weights and the configuration do not belong together.",
  ...(ignored === undefined ? {} : { ignored })
})

/** Loads the tensors of a model's folder. */
const loadModelTensors = Effect.fnUntraced(function* (
  directory: string,
  shapes: Shapes,
  options: LoadOptions,
  ignored?: (name: string) => boolean
): Effect.fn.Return<Record<string, Tensor>, ArtifactError> {
  return yield* loadTensors(yield* weightFiles(directory), shapes, options, reporting(directory, ignored))
})

/** Whether the files repeat a tied output layer. */
const repeated =
  (config: LlamaConfig) =>
  (name: string): boolean =>
    config.tiedEmbeddings && name === "lm_head.weight"

/** The tensor shapes of a model with a scalar head, which replaces the output layer. */
const scalarShapes = (config: LlamaConfig): Shapes => {
  const { "lm_head.weight": _, ...kept } = parameterShapes(config)
  return { ...kept, [headName]: [1, config.dim] }
}

/** Fails unless the weights in a folder match its config.json, for a language model or a model with a scalar head. Does not read the weights. */
export const checkWeights = Effect.fn("checkWeights")(function* (
  directory: string,
  config: LlamaConfig,
  scalarHead: boolean
): Effect.fn.Return<void, ArtifactError> {
  const files = yield* weightFiles(directory)
  const [shapes, ignored] = scalarHead ? [scalarShapes(config), undefined] : [parameterShapes(config), repeated(config)]
  yield* findTensors(files, shapes, reporting(directory, ignored)).pipe(Effect.scoped)
})

/** The configuration of the model in a folder. */
export const loadConfig = (directory: string): Effect.Effect<LlamaConfig, ArtifactError> =>
  Effect.gen(function* () {
    yield* validateLayout(directory)
    const path = join(directory, "config.json")
    return yield* fromHuggingFace(yield* readJson(path, "Reading the model's configuration"), path)
  })

/**
 * A quick check of a model folder before gigabytes are read: its config.json and, if weights exist, their layout. A config.json alone is enough for
 * a plan.
 */
export const lookAtModel = (directory: string): Effect.Effect<void, ArtifactError> =>
  Effect.gen(function* () {
    const path = join(directory, "config.json")
    // A path that is not a folder has no files, and no config.json.
    const names = yield* Effect.promise(() => readdir(directory).catch(() => []))
    const hasWeights = names.some((name) => /\.(safetensors|bin|pt|pth)$/.test(name))
    if (hasWeights || !existsSync(path)) yield* loadConfig(directory)
    else yield* fromHuggingFace(yield* readJson(path, "Reading the model's configuration"), path)
  })

/** Loads a language model from a folder. A tied output layer that is repeated in the files is ignored. */
export const loadLlama = Effect.fn("loadLlama")(function* (
  directory: string,
  options: LoadOptions = {}
): Effect.fn.Return<Llama, ArtifactError> {
  const config = yield* loadConfig(directory)
  return new Llama(config, yield* loadModelTensors(directory, parameterShapes(config), options, repeated(config)))
})

/** Loads a language model from a folder without its output layer, for models with their own head. */
export const loadBackbone = Effect.fn("loadBackbone")(function* (
  directory: string,
  options: LoadOptions = {}
): Effect.fn.Return<Llama, ArtifactError> {
  const config = yield* loadConfig(directory)
  const { "lm_head.weight": _, ...shapes } = parameterShapes(config)
  return new Llama(config, yield* loadModelTensors(directory, shapes, options, (name) => name === "lm_head.weight"))
})

/** Loads a model with a scalar head from a folder. */
export const loadScalarModel = Effect.fn("loadScalarModel")(function* (
  directory: string,
  options: LoadOptions = {}
): Effect.fn.Return<RewardModel, ArtifactError> {
  const config = yield* loadConfig(directory)
  const { [headName]: head, ...backbone } = yield* loadModelTensors(directory, scalarShapes(config), options)
  return new RewardModel(new Llama(config, backbone), head!)
})
