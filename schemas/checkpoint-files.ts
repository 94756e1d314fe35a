/** The required files of a checkpoint directory, checked without reading its weights. */
import { existsSync } from "node:fs"
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { ArtifactError, type Role } from "./artifact.ts"
import { messageOf } from "./explained-error.ts"
import { checkSafetensors } from "./safetensors.ts"

export const roleFile = "caravan.json"
/** Marks a scorer that replaces a reward model (stages/reward/scorers.ts): a function, a program or a judge, without weights. */
export const scorerFile = "scorer.json"
/** PEFT's configuration of an adapter. */
export const adapterFile = "adapter_config.json"
/** Subfolder with the adapter alone, in a checkpoint that was trained with LoRA. */
export const adapterFolder = "adapter"

export const readJson = (path: string, doing: string): Effect.Effect<Record<string, any>, ArtifactError> =>
  Effect.gen(function* () {
    const fail = (found: string) =>
      ArtifactError.of({
        doing,
        expected: `a JSON object in ${path}`,
        found,
        hint: "The file is missing or damaged: download it or save it again."
      })
    const text = yield* Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => fail((cause as NodeJS.ErrnoException).code === "ENOENT" ? "no such file" : String(cause))
    })
    const json = yield* Effect.try({
      try: () => JSON.parse(text) as unknown,
      catch: (cause) => fail(messageOf(cause))
    })
    if (typeof json !== "object" || json === null || Array.isArray(json)) return yield* fail("another JSON value")
    return json as Record<string, any>
  })

/** The safetensors files of a checkpoint: one file, or the shards listed in its index. Names that leave the folder are refused. */
export const weightFiles = (directory: string): Effect.Effect<ReadonlyArray<string>, ArtifactError> =>
  Effect.gen(function* () {
    const index = join(directory, "model.safetensors.index.json")
    if (!existsSync(index)) return [join(directory, "model.safetensors")]
    const { weight_map: map } = yield* readJson(index, "Reading the checkpoint's index")
    const names = new Set(Object.values((map ?? {}) as Record<string, unknown>))
    for (const name of names) {
      if (typeof name !== "string" || !/^[^/\\\0]+\.safetensors$/.test(name)) {
        return yield* ArtifactError.of({
          doing: `Reading ${index}`,
          expected: "names of .safetensors files in the same folder",
          found: JSON.stringify(name),
          hint: "The index points outside the checkpoint's folder: do not trust this checkpoint."
        })
      }
    }
    if (names.size === 0)
      return yield* ArtifactError.of({
        doing: `Reading ${index}`,
        expected: "a weight_map object",
        found: "none",
        hint: "Download the checkpoint or save it again."
      })
    return ([...names] as Array<string>).sort().map((name) => join(directory, name))
  })

/** Fails for a folder whose only weights are PyTorch pickles: loading a pickle can run arbitrary code, so the conversion is left to the user. */
const refusePickles = Effect.fnUntraced(function* (directory: string): Effect.fn.Return<void, ArtifactError> {
  const names = yield* Effect.promise(() => readdir(directory))
  const pickles = names.filter((name) => /^pytorch_model.*\.bin$/.test(name)).sort()
  if (pickles.length === 0 || names.some((name) => name.endsWith(".safetensors"))) return
  return yield* ArtifactError.of({
    doing: `Reading the checkpoint ${directory}`,
    expected: "weights in model.safetensors",
    found: `${pickles[0]!}${pickles.length > 1 ? ` and ${pickles.length - 1} more` : ""}, which only PyTorch can read`,
    hint: `To convert them, run in that folder: python3 -c "import glob, torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() for f in sorted(glob.glob('pytorch_model*.bin')) for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, 'model.safetensors', {'format': 'pt'})"`
  })
})

/** Fails unless the directory holds a model in the Hugging Face layout (config.json and valid safetensors headers). */
export const validateLayout = (directory: string): Effect.Effect<void, ArtifactError> =>
  Effect.gen(function* () {
    if (!existsSync(join(directory, "config.json"))) {
      if (existsSync(join(directory, adapterFile)))
        return yield* ArtifactError.of({
          doing: `Reading the checkpoint ${directory}`,
          expected: "a complete model (config.json and all weights)",
          found: `an adapter (${adapterFile})`,
          hint: "Pass the base model that it was trained on; `caravan sample` and `caravan logprobs` accept the adapter with --adapter."
        })
      if (existsSync(join(directory, scorerFile)))
        return yield* ArtifactError.of({
          doing: `Reading the checkpoint ${directory}`,
          expected: "a model with weights",
          found: `a scorer without weights (${scorerFile})`,
          hint: "A scorer replaces a reward model when answers are scored; it cannot be trained, merged or sampled from. Pass a reward model here."
        })
      return yield* ArtifactError.of({
        doing: `Reading the checkpoint ${directory}`,
        expected: "a folder with config.json",
        found: "none",
        hint: "Pass the folder of a model in the Hugging Face layout (config.json, model.safetensors, tokenizer.model or tokenizer.json)."
      })
    }
    yield* readJson(join(directory, "config.json"), "Reading the checkpoint's configuration")
    yield* refusePickles(directory)
    for (const file of yield* weightFiles(directory)) yield* checkSafetensors(file)
  })

/** Fails unless the directory holds a checkpoint with one of these roles. */
export const validateCheckpoint = (directory: string, roles: ReadonlyArray<Role>): Effect.Effect<void, ArtifactError> =>
  Effect.gen(function* () {
    // A scorer has the role of a reward model, but only its own file instead of the Hugging Face layout.
    if (!existsSync(join(directory, scorerFile))) yield* validateLayout(directory)
    const { role } = yield* readJson(join(directory, roleFile), "Reading the checkpoint's role")
    if (!roles.includes(role as Role)) {
      return yield* ArtifactError.of({
        doing: `Reading the checkpoint ${directory}`,
        expected: `a checkpoint with the role ${roles.join(" or ")}`,
        found: JSON.stringify(role),
        hint: "Connect a checkpoint of that role to this port."
      })
    }
  })
