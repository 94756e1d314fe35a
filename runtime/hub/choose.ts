/** Selects the files of a repository that a name stands for, and whether readers get a folder, a file or a pattern. */
import { matchesGlob } from "node:path"
import { isDataFile, mixedSplits } from "../../schemas/data-files.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type HubName, hubNameText } from "../../schemas/hub-name.ts"
import { PipelineError } from "../errors.ts"
import type { RemoteFile } from "./cache.ts"

/** Which files of a model are needed: all files to run it, or only its tokenizer's. */
export type Wanted = "all" | "tokenizer"

export interface Chosen {
  readonly files: ReadonlyArray<RemoteFile>
  /** The path of the named part within its folder; "" for the folder itself. */
  readonly place: string
}

/** The files read from a model's folder, and its license. Excludes other content of repositories: PyTorch, ONNX or GGUF weights, Mistral's own files. */
const modelFile =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|adapter_config|base|caravan|model\.safetensors\.index)\.json$|^(tokenizer\.model|chat_template\.jinja)$|^(LICENSE|NOTICE|USE_POLICY)(\.\w+)?$/i
const weights = /^(model|adapter_model)(-\d+-of-\d+)?\.safetensors$/
const pickles = /^(pytorch_model|adapter_model).*\.bin$/

const isHidden = (path: string): boolean => path.split("/").some((segment) => segment.startsWith("."))
/** Maximum number of names listed in errors. */
const shownNames = 12
const listed = (names: ReadonlyArray<string>): string =>
  names.length === 0
    ? "nothing"
    : `${names.slice(0, shownNames).join(", ")}${names.length > shownNames ? ` and ${names.length - shownNames} more` : ""}`

/** Throws a PipelineError if nothing matches. */
export const choose = (name: HubName, files: ReadonlyArray<RemoteFile>, wanted: Wanted): Chosen => {
  const text = hubNameText(name)
  const { kind, path } = name
  const fail = (message: string) => new PipelineError({ message: `Choosing the files of ${text}: ${message}` })
  if (path !== undefined) {
    const file = files.find((one) => one.path === path)
    if (file !== undefined) return { files: [file], place: path }
  }
  const below = path === undefined ? files : files.filter((one) => one.path.startsWith(`${path}/`))
  if (below.length === 0 && path !== undefined) {
    const matching = /[*?[\]{}]/.test(path) ? files.filter((one) => !isHidden(one.path) && matchesGlob(one.path, path)) : []
    if (matching.length > 0) return { files: matching, place: "**" }
    const there = files.filter((one) => !isHidden(one.path)).map((one) => one.path)
    throw fail(
      `expected a file or folder of the repository, or a matching pattern; found none.${there.length > shownNames ? ` Available: ${listed(there)}.` : didYouMean(path, there)}`
    )
  }
  const nameOf = (one: RemoteFile) => (path === undefined ? one.path : one.path.slice(path.length + 1))
  const place = path ?? ""
  if (kind === "dataset") {
    const data = below.filter((one) => !isHidden(nameOf(one)) && isDataFile(one.path.split("/").at(-1)!))
    if (data.length === 0)
      throw fail(
        `expected data files (.jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt), found ${listed(below.map(nameOf))}. The Hub converts most datasets: try @refs/convert/parquet.`
      )
    const mixed = mixedSplits(data.map(nameOf))
    if (mixed !== undefined) {
      const named = hubNameText({ ...name, path: path === undefined ? mixed.pattern : `${path}/${mixed.pattern}` })
      throw fail(`expected files of one split, found ${mixed.found}. Select one split: ${named} for ${mixed.first}.`)
    }
    return { files: data, place }
  }
  const model = below.filter((one) => modelFile.test(nameOf(one)))
  const tensors = below.filter((one) => weights.test(nameOf(one)))
  if (wanted === "tokenizer" ? model.length === 0 : tensors.length === 0) {
    const pickle = below.map(nameOf).find((one) => pickles.test(one))
    throw fail(
      pickle !== undefined && wanted === "all"
        ? `expected weights in safetensors, found ${pickle}, which only PyTorch reads and which may run arbitrary code. Look for a copy in safetensors (many repositories have one as @refs/pr/1), or download and convert it (docs/models.md).`
        : `expected ${wanted === "all" ? "a model (config.json and model.safetensors, or its shards)" : "a model's or a tokenizer's files"}, found ${listed(below.map(nameOf))}. Select a folder with :folder; for a dataset use hf:datasets/${name.owner}/${name.name}.`
    )
  }
  return { files: wanted === "tokenizer" ? model : below.filter((one) => model.includes(one) || tensors.includes(one)), place }
}
