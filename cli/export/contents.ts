/** Which files of an artifact or of a user's folder are exported, and how they are written. */
import { constants, existsSync, statSync } from "node:fs"
import { chmod, copyFile, readdir, writeFile } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { writeParquet } from "../../data/write-parquet.ts"
import type { DType } from "../../engine/tensor.ts"
import { adapterWeightsFile, checkBase, namesBase } from "../../models/adapter-files.ts"
import { formatOf } from "../../models/chat.ts"
import { templates } from "../../models/chat-templates/index.ts"
import { loadPolicyFrom, writeCheckpoint } from "../../models/checkpoint.ts"
import { loadTokenizer, templateFile } from "../../models/tokenizer/files.ts"
import { weightsDigest } from "../../models/weights-digest.ts"
import { manifestName } from "../../runtime/store/objects.ts"
import { adapterFile, adapterFolder, readJson, roleFile, validateLayout, weightFiles } from "../../schemas/checkpoint-files.ts"
import { fileName as datasetFile, openAnyRows } from "../../schemas/dataset-file.ts"
import { artifactPath } from "../artifact-path.ts"
import { UsageError } from "../command.ts"

export type Kind = "model" | "adapter" | "dataset" | "report" | "tokenizer"

/** The content of an export, after all checks have passed. */
export interface Contents {
  readonly kind: Kind
  /** Files of the folder that are not exported. */
  readonly leftOut: ReadonlyArray<string>
  /** Writes all files into an empty folder. */
  readonly write: (folder: string) => Promise<void>
  /** For the card: a model's model_type and class; whether it scores instead of generating; a dataset's rows. */
  readonly facts: Facts
}
export interface Facts {
  readonly architecture?: string
  readonly scores?: boolean
  readonly chat?: boolean
  /** The date used in training for a template that asks for today's date. */
  readonly chatDate?: string | undefined
  readonly rank?: number
  readonly rows?: number
  readonly merged?: boolean
}

/** The files that transformers reads besides the weights; the role, which Caravan reads; and the license. */
const modelFiles =
  /^(config\.json|generation_config\.json|model\.safetensors\.index\.json|tokenizer\.model|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|special_tokens_map\.json|added_tokens\.json|caravan\.json|(LICENSE|NOTICE|USE_POLICY)(\.\w+)?)$/i
const adapterFiles = /^(adapter_config\.json|adapter_model\.safetensors|base\.json|(LICENSE|NOTICE)(\.\w+)?)$/i

/** A copy that its owner may modify; files of the store are read-only. */
const copy = async (from: string, to: string): Promise<void> => {
  await copyFile(from, to, constants.COPYFILE_FICLONE)
  await chmod(to, 0o666 & ~process.umask())
}
const copyAll = async (from: string, to: string, names: ReadonlyArray<string>): Promise<void> => {
  for (const name of names) await copy(join(from, name), join(to, name))
}
const writeJsonFile = (path: string, value: unknown) => writeFile(path, `${JSON.stringify(value, undefined, 2)}\n`)

/** Sorts the folder's files by whether they are exported. Subfolders are not (adapter/ of a checkpoint trained with LoRA). */
const sorted = async (path: string, isWanted: (name: string) => boolean) => {
  const names = (await readdir(path)).filter((name) => name !== manifestName).sort()
  const { false: leftOut = [], true: wanted = [] } = Object.groupBy(
    names,
    (name) => String(isWanted(name) && statSync(join(path, name)).isFile()) as "true" | "false"
  )
  return { wanted, leftOut }
}

const hasTokenizer = (path: string): boolean => ["tokenizer.json", "tokenizer.model"].some((name) => existsSync(join(path, name)))

/**
 * A full model. A folder without a chat template is used with Llama 2's format here, so that template is exported; a folder without
 * generation_config.json gets its stop tokens.
 */
const model = Effect.fnUntraced(function* (path: string): Effect.fn.Return<Contents, ArtifactError> {
  yield* validateLayout(path)
  const config = yield* readJson(join(path, "config.json"), `Reading the checkpoint ${path}`)
  const weights = (yield* weightFiles(path)).map((file) => basename(file))
  const { wanted, leftOut } = yield* Effect.promise(() => sorted(path, (name) => modelFiles.test(name) || weights.includes(name)))
  const architecture = String((config["architectures"] as ReadonlyArray<string> | undefined)?.[0] ?? config["model_type"])
  const scores = architecture.endsWith("ForSequenceClassification")
  const tokenizer = hasTokenizer(path) ? yield* loadTokenizer(path) : undefined
  const added: Array<readonly [string, string]> = []
  if (tokenizer !== undefined) {
    const { stopIds } = formatOf(tokenizer)
    if (tokenizer.chat === undefined && !wanted.includes(templateFile)) added.push([templateFile, templates.llama2])
    const ids = {
      bos_token_id: tokenizer.bosId ?? null,
      eos_token_id: stopIds.length === 1 ? stopIds[0] : stopIds,
      pad_token_id: tokenizer.padId
    }
    if (!scores && !wanted.includes("generation_config.json"))
      added.push(["generation_config.json", `${JSON.stringify(ids, undefined, 2)}\n`])
  }
  const template = tokenizer?.chat?.template ?? ""
  return {
    kind: "model",
    leftOut,
    facts: {
      ...{ architecture, scores, chat: tokenizer !== undefined },
      ...(/strftime_now|date_string/.test(template) && { chatDate: tokenizer?.chat?.date })
    },
    write: async (folder) => {
      await copyAll(path, folder, wanted)
      for (const [name, text] of added) await writeFile(join(folder, name), text)
    }
  }
})

/** An adapter in PEFT's format, with its base's name if known. */
const adapter = Effect.fnUntraced(function* (path: string, base: string | undefined): Effect.fn.Return<Contents, ArtifactError> {
  const config = yield* readJson(join(path, adapterFile), `Reading the adapter ${path}`)
  if (!existsSync(join(path, adapterWeightsFile)))
    throw new UsageError(
      `Exporting the adapter ${path}: expected ${adapterWeightsFile} next to ${adapterFile}, found none. Export the folder of a complete adapter.`
    )
  if (base !== undefined && namesBase(path) && existsSync(join(base, "config.json")))
    yield* checkBase(path, { path: base, weights: yield* weightsDigest(base) })
  const { wanted, leftOut } = yield* Effect.promise(() => sorted(path, (name) => adapterFiles.test(name)))
  return {
    kind: "adapter",
    leftOut,
    facts: { rank: config["r"] as number, scores: config["task_type"] === "SEQ_CLS" },
    write: async (folder) => {
      await copyAll(path, folder, wanted)
      if (base !== undefined) await writeJsonFile(join(folder, adapterFile), { ...config, base_model_name_or_path: base })
    }
  }
})

const dtypes: Readonly<Record<string, DType>> = { bfloat16: "bfloat16", float16: "float16", float32: "float32" }

/** A language model's adapter, merged into its base in the base's dtype. */
const merged = Effect.fnUntraced(function* (path: string, base: string): Effect.fn.Return<Contents, ArtifactError> {
  const { task_type: task } = yield* readJson(join(path, adapterFile), `Reading the adapter ${path}`)
  if (task === "SEQ_CLS")
    throw new UsageError(
      `Merging the adapter ${path}: it belongs to a reward model. Export the result that contains it, which is the merged model.`
    )
  const config = yield* readJson(join(base, "config.json"), `Reading the base ${base}`)
  const dtype = dtypes[String(config["dtype"] ?? config["torch_dtype"])] ?? "float32"
  const loaded = yield* loadPolicyFrom(base, { adapter: path, dtype })
  return {
    kind: "model",
    leftOut: [],
    facts: { architecture: (config["architectures"] as ReadonlyArray<string> | undefined)?.[0] ?? "", chat: true, merged: true },
    write: (folder) => writeCheckpoint(folder, { ...loaded, role: "policy" })
  }
})

const dataset = Effect.fnUntraced(function* (path: string): Effect.fn.Return<Contents, ArtifactError> {
  const file = join(path, datasetFile)
  const source = yield* openAnyRows(file)
  const rows = source.rowCount
  yield* Effect.promise(() => source.close())
  return {
    kind: "dataset",
    leftOut: [],
    facts: { rows },
    write: async (folder) => {
      const opened = await Effect.runPromise(openAnyRows(file))
      try {
        await writeParquet(opened, join(folder, "data.parquet"))
      } finally {
        await opened.close()
      }
    }
  }
})

/** All files unchanged. */
const asIs = async (kind: Kind, path: string): Promise<Contents> => {
  const { leftOut, wanted } = await sorted(path, (name) => name !== "README.md")
  return { kind, leftOut, facts: {}, write: (folder) => copyAll(path, folder, wanted) }
}

/** What to export from a folder. Throws a UsageError for unsupported content or options that do not apply. */
export const contentsOf = async (
  path: string,
  { base, merge }: { readonly base: string | undefined; readonly merge: boolean }
): Promise<Contents> => {
  const has = (name: string) => existsSync(join(path, name))
  if (!statSync(path).isDirectory())
    throw new UsageError(`Exporting ${path}: expected the folder of a checkpoint, an adapter, a dataset or a report, found a file.`)
  const isAdapter = has(adapterFile) && !has("config.json")
  // scorer.json too: the layout check identifies it.
  const isModel = has("config.json") || has(roleFile)
  if (merge && !isAdapter && !isModel)
    throw new UsageError(`Exporting ${path}: --merge is only for adapters, and this is not an adapter. Remove --merge.`)
  if (base !== undefined && !isAdapter && !isModel)
    throw new UsageError(`Exporting ${path}: --base is only for adapters and models, and this is neither. Remove --base.`)
  if (isAdapter) {
    if (!merge) return Effect.runPromise(adapter(path, base))
    if (base !== undefined) return Effect.runPromise(merged(path, await artifactPath(base)))
    // Trained with LoRA by a stage: the result is already the merged model.
    const owner = dirname(path)
    if (basename(path) === adapterFolder && existsSync(join(owner, roleFile)))
      return { ...(await Effect.runPromise(model(owner))), leftOut: [] }
    throw new UsageError(`Merging the adapter ${path}: its base is unknown. Add --base <checkpoint>.`)
  }
  if (isModel) return Effect.runPromise(model(path))
  if (has(datasetFile)) return Effect.runPromise(dataset(path))
  if (has("report.json")) return asIs("report", path)
  if (hasTokenizer(path)) return asIs("tokenizer", path)
  const found = (await readdir(path)).slice(0, 6).join(", ")
  throw new UsageError(
    `Exporting ${path}: expected a checkpoint (config.json), an adapter (${adapterFile}), a dataset (${datasetFile}), a report (report.json) or a tokenizer, found ${found === "" ? "an empty folder" : found}.`
  )
}

/** The files of a folder with their sizes in bytes. */
export const listing = async (folder: string): Promise<ReadonlyArray<{ readonly name: string; readonly bytes: number }>> =>
  (await readdir(folder)).sort().map((name) => ({ name, bytes: statSync(join(folder, name)).size }))
