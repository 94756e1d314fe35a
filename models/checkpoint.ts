/** Checkpoints: a model with its tokenizer and role. transformers can load the folder. */
import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { rank } from "../engine/ranks.ts"
import type { Piece } from "../engine/spread.ts"
import type { Tensor } from "../engine/tensor.ts"
import { type ArtifactRef, ArtifactError, type Checkpoint, type OutputSlot, type Role, type Written, written } from "../schemas/artifact.ts"
import { adapterFolder, roleFile } from "../schemas/checkpoint-files.ts"
import { messageOf } from "../schemas/explained-error.ts"
import { checkBase, loadAdapter, namesBase, writeAdapter, writeBase } from "./adapter-files.ts"
import { formatOf } from "./chat.ts"
import { templates } from "./chat-templates/index.ts"
import type { LlamaConfig } from "./config.ts"
import { toHuggingFace } from "./config-file.ts"
import type { Llama } from "./llama.ts"
import { RewardModel } from "./reward-model.ts"
import { openSafetensors, type SafetensorsFile, safetensorsNames, type TensorWriter, writeSafetensors } from "./safetensors.ts"
import { loadTokenizer, templateFile, writeTokenizer } from "./tokenizer/files.ts"
import { HuggingFaceTokenizer } from "./tokenizer/hugging-face.ts"
import type { Tokenizer } from "./tokenizer/tokenizer.ts"
import { loadLlama, loadScalarModel, type LoadOptions } from "./weights.ts"
import { weightsDigest } from "./weights-digest.ts"

/** Embedding tables are often padded to a round number of rows (Qwen 2.5 7B's has 399 extra rows): at most this many rows may have no token. */
const maxPaddedRows = 512

/** Fails unless the embedding table has one row per token of the tokenizer, apart from padding rows at its end. */
export const checkVocabulary = (tokenizer: Tokenizer, config: LlamaConfig, path: string): Effect.Effect<void, ArtifactError> => {
  const padding = config.vocabSize - tokenizer.vocabSize
  return padding >= 0 && padding <= maxPaddedRows
    ? Effect.void
    : Effect.fail(
        ArtifactError.of({
          doing: `Reading the checkpoint ${path}`,
          expected: `a tokenizer with the model's ${config.vocabSize} tokens`,
          found: `a tokenizer with ${tokenizer.vocabSize}`,
          hint: "The tokenizer belongs to another model: put the tokenizer that this model was trained with into the folder."
        })
      )
}

/** Loads a language model from a folder and merges an adapter into it, if one is given; if the adapter records its base weights, they are checked. */
export const loadMerged = Effect.fn("loadMerged")(function* (
  path: string,
  adapter: string | undefined,
  options: LoadOptions = {}
): Effect.fn.Return<Llama, ArtifactError> {
  const base = yield* loadLlama(path, options)
  if (adapter === undefined) return base
  const lora = yield* loadAdapter(adapter, base)
  if (namesBase(adapter)) yield* checkBase(adapter, { path, weights: yield* weightsDigest(path) })
  const merged = base.withAdapter(lora).merge()
  lora.free()
  return merged
})

/** A language model and its tokenizer, whose vocabulary has been checked against the model's. */
export interface LoadedPolicy {
  readonly model: Llama
  readonly tokenizer: Tokenizer
}
export interface LoadedReward {
  readonly model: RewardModel
  readonly tokenizer: Tokenizer
}

/** Loads a language model and its tokenizer from a folder; an adapter from another folder is merged into it. */
export const loadPolicyFrom = Effect.fn("loadPolicy")(function* (
  path: string,
  options: LoadOptions & { readonly adapter?: string | undefined } = {}
): Effect.fn.Return<LoadedPolicy, ArtifactError> {
  const model = yield* loadMerged(path, options.adapter, options)
  const tokenizer = yield* loadTokenizer(path)
  yield* checkVocabulary(tokenizer, model.config, path)
  return { model, tokenizer }
})
/** Loads a policy or a safety classifier that a stage receives as an input, and its tokenizer. Fails with ArtifactError for an invalid checkpoint. */
export const loadPolicy = (
  ref: ArtifactRef<Checkpoint<"policy">> | ArtifactRef<Checkpoint<"safety-classifier">>,
  options: LoadOptions = {}
): Effect.Effect<LoadedPolicy, ArtifactError> => loadPolicyFrom(ref.path, options)

/** Loads a reward or value model that a stage receives as an input, and its tokenizer. Fails with ArtifactError for an invalid checkpoint. */
export const loadReward = Effect.fn("loadReward")(function* (
  ref: ArtifactRef<Checkpoint<"helpfulness-reward" | "safety-reward" | "general-reward" | "value">>,
  options: LoadOptions = {}
): Effect.fn.Return<LoadedReward, ArtifactError> {
  const model = yield* loadScalarModel(ref.path, options)
  const tokenizer = yield* loadTokenizer(ref.path)
  yield* checkVocabulary(tokenizer, model.config, ref.path)
  return { model, tokenizer }
})

/** Writes a checkpoint's role and its chat template's date. */
export const writeRole = (directory: string, role: Role, { chat }: Tokenizer): Promise<void> =>
  writeFile(join(directory, roleFile), `${JSON.stringify({ format: 1, role, chatDate: chat?.date }, undefined, 2)}\n`)

/** Writes a model and its tokenizer to a folder, in the model's dtype; `write` writes the tensors. */
export const writeCheckpoint = async (
  directory: string,
  options: { readonly model: Llama | RewardModel; readonly tokenizer: Tokenizer; readonly role: Role },
  write: TensorWriter = writeSafetensors
): Promise<void> => {
  const { model, tokenizer, role } = options
  if (model.adapter !== undefined) throw new Error("A checkpoint must hold a complete model: merge the adapter into it first.")
  const scalarHead = model instanceof RewardModel
  const { dtype } = scalarHead ? model.backbone : model
  const { stopIds } = formatOf(tokenizer)
  const ids = { bosId: tokenizer.bosId, eosId: stopIds.length === 1 ? stopIds[0]! : stopIds, padId: tokenizer.padId }
  const json = (name: string, value: unknown) => writeFile(join(directory, name), `${JSON.stringify(value, undefined, 2)}\n`)
  await json("config.json", toHuggingFace(model.config, { scalarHead, dtype, ...ids }))
  // Keeps the published model's other generation settings.
  const sampling = tokenizer instanceof HuggingFaceTokenizer ? tokenizer.generation : {}
  if (!scalarHead)
    await json("generation_config.json", { ...sampling, bos_token_id: ids.bosId ?? null, eos_token_id: ids.eosId, pad_token_id: ids.padId })
  await writeRole(directory, role, tokenizer)
  await write(join(directory, "model.safetensors"), model.parameters)
  await writeTokenizer(directory, tokenizer)
  // Without a template, transformers could not render a dialogue. When read back, this one is recognised as Llama 2's format (isLlama2Template).
  if (tokenizer.chat === undefined) await writeFile(join(directory, templateFile), templates.llama2)
}

/** The role of a stage's output checkpoint. */
export const roleOf = (slot: OutputSlot<any>): Role => slot.type.name.replace("checkpoint:", "") as Role

/**
 * Reads a file into existing tensors, bit for bit. Fails before changing any of them unless the file has exactly these names, each with the
 * shape and dtype of its tensor.
 */
export const readInto = (path: string, tensors: Readonly<Record<string, Tensor>>): Effect.Effect<void, ArtifactError> =>
  Effect.acquireUseRelease(
    openSafetensors(path),
    (file) => readFrom(file, path, tensors, true),
    (file) => Effect.promise(() => file.close())
  )

/** Like readInto, for tensors that arrive in groups, each read before the next is requested: a rank never holds all its parts at once. */
export const readPieces = (path: string, pieces: Iterable<Piece>): Effect.Effect<void, ArtifactError> =>
  Effect.acquireUseRelease(
    openSafetensors(path),
    Effect.fnUntraced(function* (file) {
      const read = new Set<string>()
      for (const { take, tensors } of pieces) {
        yield* readFrom(file, path, tensors, false)
        for (const name of Object.keys(tensors)) read.add(name)
        take()
      }
      yield* rejectOthers(file, path, read)
    }),
    (file) => Effect.promise(() => file.close())
  )

const describeEntry = ({ dtype, shape }: { readonly dtype: string; readonly shape: ReadonlyArray<number> }) =>
  `${dtype} (${shape.join(", ")})`
const belongsElsewhere = (path: string, name: string, wanted: string | undefined, held: string | undefined) =>
  ArtifactError.of({
    doing: `Reading ${path}`,
    expected: `${name} as ${wanted ?? "no tensor"}`,
    found: held ?? "none",
    hint: "The file belongs to another model: delete its folder."
  })

/** Fails if a file has tensors other than those read. */
const rejectOthers = ({ entries }: SafetensorsFile, path: string, read: ReadonlySet<string>): Effect.Effect<void, ArtifactError> => {
  const other = [...entries.values()].find(({ name }) => !read.has(name))
  return other === undefined ? Effect.void : belongsElsewhere(path, other.name, undefined, describeEntry(other))
}

/** Reads these tensors. Fails before changing any of them unless the file has each with its shape and dtype and, with `alone`, no others. */
const readFrom = Effect.fnUntraced(function* (
  file: SafetensorsFile,
  path: string,
  tensors: Readonly<Record<string, Tensor>>,
  alone: boolean
): Effect.fn.Return<void, ArtifactError> {
  for (const [name, { dtype, shape }] of Object.entries(tensors)) {
    const entry = file.entries.get(name)
    const [wanted, held] = [describeEntry({ dtype: safetensorsNames[dtype], shape }), entry && describeEntry(entry)]
    if (wanted !== held) return yield* belongsElsewhere(path, name, wanted, held)
  }
  if (alone) yield* rejectOthers(file, path, new Set(Object.keys(tensors)))
  for (const [name, tensor] of Object.entries(tensors)) yield* file.readInto(name, tensor)
})

/**
 * Writes a checkpoint as the stage's output, with the output's role. A model with an adapter is merged: neither it nor a model that shares its weights may be used
 * afterwards. The adapter is also written to the folder adapter/, with the digest of its base weights. With several ranks, the first one writes.
 */
export const saveCheckpoint = Effect.fn("saveCheckpoint")(function* <R extends Role>(
  slot: OutputSlot<Checkpoint<R>>,
  options: {
    readonly model: R extends "policy" | "safety-classifier" ? Llama : RewardModel
    readonly tokenizer: Tokenizer
    readonly metrics?: Readonly<Record<string, number>>
    /** For a model with an adapter: the checkpoint with its base weights. */
    readonly base?: { readonly path: string }
  }
): Effect.fn.Return<Written<Checkpoint<R>>, ArtifactError> {
  const { model, tokenizer, base }: Pick<typeof options, "tokenizer" | "base"> & { readonly model: Llama | RewardModel } = options
  if (model.adapter !== undefined && base === undefined)
    throw new Error("Saving a model with an adapter needs the checkpoint of its base weights: pass `base`.")
  // All ranks hold the same model.
  if (rank() > 0) return written(slot, options.metrics ?? {})
  const weights = model.adapter === undefined || base === undefined ? undefined : yield* weightsDigest(base.path)
  yield* Effect.tryPromise({
    try: async () => {
      if (weights !== undefined) {
        const folder = join(slot.path, adapterFolder)
        await mkdir(folder)
        await writeAdapter(folder, model)
        await writeBase(folder, weights)
      }
      await writeCheckpoint(slot.path, { model: model.merge(), tokenizer, role: roleOf(slot) })
    },
    catch: (cause) =>
      ArtifactError.of({
        doing: `Writing a checkpoint to ${slot.path}`,
        expected: "a writable folder with enough free space for the model",
        found: messageOf(cause),
        hint: "Free some space or set CARAVAN_HOME to a folder on another disk."
      })
  })
  return written(slot, options.metrics ?? {})
})
