/** Reads and writes tokenizer folders: SentencePiece's `tokenizer.model` or Hugging Face's `tokenizer.json`, with the chat template and the stop tokens stored next to it. */
import { existsSync, statSync } from "node:fs"
import { readFile, writeFile } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import { ArtifactError, type OutputSlot, type TokenizerFiles, type Written, written } from "../../schemas/artifact.ts"
import { readJson, roleFile } from "../../schemas/checkpoint-files.ts"
import { formatOf } from "../chat.ts"
import { ChatTemplateError, defaultDate } from "../chat-template.ts"
import { isLlama2Template } from "../llama2-format.ts"
import { HuggingFaceTokenizer, UnsupportedTokenizer } from "./hugging-face.ts"
import { type Piece, readModelFile, writeModelFile } from "./model-file.ts"
import { SentencePieceTokenizer } from "./sentencepiece.ts"
import type { ChatSettings, Tokenizer } from "./tokenizer.ts"
import { schemaIssues } from "../../schemas/schema-issues.ts"

export const templateFile = "chat_template.jinja"
/** Tokenizer files that transformers reads, copied with the tokenizer. */
const carried = ["tokenizer.json", "tokenizer_config.json", templateFile, "special_tokens_map.json", "added_tokens.json", "tokenizer.model"]

type Json = Readonly<Record<string, unknown>>

/** A JSON file in a folder; empty if it does not exist. */
const optionalJson = (folder: string, name: string): Effect.Effect<Json, ArtifactError> =>
  existsSync(join(folder, name)) ? readJson(join(folder, name), `Reading the tokenizer ${folder}`) : Effect.succeed({})

const bytesOf = (path: string, doing: string): Effect.Effect<Buffer, ArtifactError> =>
  Effect.tryPromise({
    try: () => readFile(path),
    catch: (cause) => ArtifactError.of({ doing, expected: "a readable file", found: String(cause), hint: "Check its permissions." })
  })

/** A folder's chat template: from its own file, or from a field in tokenizer_config.json; of several, the default one. */
const templateOf = Effect.fnUntraced(function* (folder: string, config: Json): Effect.fn.Return<string | undefined, ArtifactError> {
  const path = join(folder, templateFile)
  if (existsSync(path)) return (yield* bytesOf(path, `Reading the chat template ${path}`)).toString("utf8")
  const found = config["chat_template"]
  if (typeof found === "string" || found === undefined || found === null) return found ?? undefined
  const list = Array.isArray(found) ? (found as ReadonlyArray<unknown>) : [found]
  const named = list.find((one): one is { readonly template: string } => {
    const { name, template } = (one ?? {}) as Json
    return name === "default" && typeof template === "string"
  })
  if (named !== undefined) return named.template
  return yield* ArtifactError.of({
    doing: `Reading the chat template in ${join(folder, "tokenizer_config.json")}`,
    expected: 'a text, or a list with a template named "default"',
    found: JSON.stringify(found).slice(0, 200),
    hint: `Put the template into ${templateFile}.`
  })
})

/** Ids of the tokens that end an answer, from generation_config.json or else config.json: one or several. */
const stopsOf = Effect.fnUntraced(function* (folder: string): Effect.fn.Return<ReadonlyArray<number>, ArtifactError> {
  for (const name of ["generation_config.json", "config.json"]) {
    const { eos_token_id: found } = yield* optionalJson(folder, name)
    if (found === undefined || found === null) continue
    const stops: ReadonlyArray<unknown> = Array.isArray(found) ? found : [found]
    if (stops.length > 0 && stops.every((id): id is number => Number.isInteger(id) && (id as number) >= 0)) return stops
    return yield* ArtifactError.of({
      doing: `Reading ${join(folder, name)}`,
      expected: "eos_token_id as an id or a list of ids",
      found: JSON.stringify(found),
      hint: "Correct the field."
    })
  }
  return []
})

/** A named token in tokenizer_config.json: its text, or an object that contains it. */
const tokenText = (value: unknown): string | undefined => {
  const text = typeof value === "object" && value !== null ? (value as Json)["content"] : value
  return typeof text === "string" ? text : undefined
}

const readHuggingFace = Effect.fnUntraced(function* (
  folder: string,
  options: { readonly file: string; readonly chat: ChatSettings | undefined; readonly config: Json; readonly stops: ReadonlyArray<number> }
): Effect.fn.Return<Tokenizer, ArtifactError> {
  const { chat, config, file, stops } = options
  const doing = `Reading the tokenizer ${file}`
  const map = yield* optionalJson(folder, "special_tokens_map.json")
  const named = (name: string) => (Object.hasOwn(config, name) ? tokenText(config[name]) : tokenText(map[name]))
  const files = new Map<string, Buffer>()
  for (const name of carried) if (existsSync(join(folder, name))) files.set(name, yield* bytesOf(join(folder, name), doing))
  const json = yield* readJson(file, doing)
  const generation = yield* optionalJson(folder, "generation_config.json")
  return yield* Effect.try({
    try: () =>
      new HuggingFaceTokenizer({
        ...{ json, chat, files, generation, stops },
        ...{ bos: named("bos_token"), eos: named("eos_token"), unk: named("unk_token"), pad: named("pad_token") }
      }),
    catch: (cause) => {
      const [expected, found] =
        cause instanceof UnsupportedTokenizer
          ? [cause.expected, cause.found]
          : ["a Hugging Face tokenizer", cause instanceof Error ? schemaIssues(cause.message) : String(cause)]
      return ArtifactError.of({
        doing,
        expected,
        found: found.replaceAll(/\s*\n\s*/g, " "),
        hint: "Tokenizers like those of Llama 3, Qwen and Mistral can be read from tokenizer.json (docs/models.md lists them); for a SentencePiece tokenizer, put its tokenizer.model into the folder."
      })
    }
  })
})

const readSentencePiece = Effect.fnUntraced(function* (
  file: string,
  options: { readonly chat?: ChatSettings | undefined; readonly stops?: ReadonlyArray<number> }
): Effect.fn.Return<Tokenizer, ArtifactError> {
  const doing = `Reading the tokenizer ${file}`
  const bytes = yield* bytesOf(file, doing)
  return yield* Effect.try({
    try: () => new SentencePieceTokenizer(readModelFile(bytes, file), options),
    catch: (cause) =>
      cause instanceof ArtifactError
        ? cause
        : ArtifactError.of({ doing, expected: "a SentencePiece model", found: String(cause), hint: "Pass another file." })
  })
})

/**
 * Reads a .model file, a tokenizer.json, or a folder's tokenizer: its tokenizer.json if its chat template is not Llama 2's (templates are written for tokenizer.json), or if there is
 * no tokenizer.model. The template and date arguments take precedence over the folder's.
 */
export const loadTokenizer = Effect.fn("loadTokenizer")(function* (
  path: string,
  given: { readonly template?: string | undefined; readonly date?: string } = {}
): Effect.fn.Return<Tokenizer, ArtifactError> {
  const doing = `Reading the tokenizer ${path}`
  if (!existsSync(path))
    return yield* ArtifactError.of({
      doing,
      expected: "a .model file, a tokenizer.json, or a folder that contains one",
      found: "nothing at this path",
      hint: "Check the path."
    })
  const isFolder = statSync(path).isDirectory()
  if (!isFolder && basename(path) !== "tokenizer.json") return yield* readSentencePiece(path, {})
  const folder = isFolder ? path : dirname(path)
  const [model, json] = ["tokenizer.model", "tokenizer.json"].map((name) => join(folder, name)) as [string, string]
  const hasModel = isFolder && existsSync(model)
  if (!hasModel && !existsSync(json))
    return yield* ArtifactError.of({
      doing,
      expected: "a file tokenizer.model (SentencePiece) or tokenizer.json",
      found: "neither",
      hint: "Put the tokenizer that the model was trained with into the folder."
    })
  const config = yield* optionalJson(folder, "tokenizer_config.json")
  const template = given.template ?? (yield* templateOf(folder, config))
  const stops = yield* stopsOf(folder)
  const { chatDate } = yield* optionalJson(folder, roleFile)
  const date = given.date ?? (typeof chatDate === "string" ? chatDate : defaultDate)
  const chat = template === undefined || isLlama2Template(template) ? undefined : { template, date }
  const tokenizer =
    hasModel && (chat === undefined || !existsSync(json))
      ? yield* readSentencePiece(model, { chat, stops })
      : yield* readHuggingFace(folder, { file: json, chat, config, stops })
  // Reports an unusable template here, before any training.
  yield* Effect.try({
    try: () => formatOf(tokenizer),
    catch: (cause) => {
      if (!(cause instanceof ChatTemplateError)) throw cause
      const { doing, expected, found, hint } = cause
      return ArtifactError.of({ doing: `${doing} (${folder})`, expected, found, hint })
    }
  })
  return tokenizer
})

/** Writes a tokenizer and its chat template to a folder: the files as they were read, or tokenizer.model, tokenizer.json and tokenizer_config.json. */
export const writeTokenizer = async (directory: string, tokenizer: Tokenizer): Promise<void> => {
  if (tokenizer instanceof HuggingFaceTokenizer) {
    for (const [name, bytes] of tokenizer.files) await writeFile(join(directory, name), bytes)
    return
  }
  if (!(tokenizer instanceof SentencePieceTokenizer)) throw new Error("writeTokenizer needs a tokenizer that Caravan read or trained")
  await writeFile(join(directory, "tokenizer.model"), writeModelFile(tokenizer.model))
  await writeFile(join(directory, "tokenizer.json"), JSON.stringify(tokenizerJson(tokenizer)))
  await writeFile(join(directory, "tokenizer_config.json"), `${JSON.stringify(tokenizerConfig(tokenizer), undefined, 2)}\n`)
  if (tokenizer.chat !== undefined) await writeFile(join(directory, templateFile), tokenizer.chat.template)
}

/** Writes a tokenizer as the stage's output. */
export const saveTokenizer = Effect.fn("saveTokenizer")(function* (
  slot: OutputSlot<TokenizerFiles>,
  tokenizer: Tokenizer
): Effect.fn.Return<Written<TokenizerFiles>> {
  yield* Effect.promise(() => writeTokenizer(slot.path, tokenizer))
  return written(slot, { vocabSize: tokenizer.vocabSize })
})

const control = (content: string, id: number) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true
})

/** Every merge of two pieces into another, best piece first: the ranks give the same choices as the scores. */
const mergesOf = (pieces: ReadonlyArray<Piece>): Array<[string, string]> => {
  const normal = pieces.flatMap((piece, id) => (piece.type === "normal" ? [{ ...piece, id }] : []))
  const ids = new Map(normal.map(({ text, id }) => [text, id]))
  return normal
    .sort((a, b) => b.score - a.score || a.id - b.id)
    .flatMap(({ text }) => {
      const characters = Array.from(text)
      const ways = characters
        .slice(1)
        .map((_, i): [string, string] => [characters.slice(0, i + 1).join(""), characters.slice(i + 1).join("")])
      const possible = ways.filter(([left, right]) => ids.has(left) && ids.has(right))
      return possible.sort((a, b) => ids.get(a[0])! - ids.get(b[0])! || ids.get(a[1])! - ids.get(b[1])!)
    })
}

/** The layout of Hugging Face's tokenizers, as in LlamaTokenizerFast: BPE with byte fallback. */
const tokenizerJson = (tokenizer: SentencePieceTokenizer): unknown => {
  const [unk, bos, eos] = [tokenizer.unkId, tokenizer.bosId, tokenizer.eosId].map((id) => tokenizer.pieces[id]!.text) as [
    string,
    string,
    string
  ]
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [control(unk, tokenizer.unkId), control(bos, tokenizer.bosId), control(eos, tokenizer.eosId)].sort((a, b) => a.id - b.id),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "\u2581" },
        { type: "Replace", pattern: { String: " " }, content: "\u2581" }
      ]
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: bos, type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } }
      ],
      special_tokens: { [bos]: { id: bos, ids: [tokenizer.bosId], tokens: [bos] } }
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "\u2581" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 }
      ]
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unk,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: tokenizer.model.byteFallback,
      vocab: Object.fromEntries(tokenizer.pieces.map(({ text }, id) => [text, id])),
      merges: mergesOf(tokenizer.pieces)
    }
  }
}

/** The class that uses tokenizer.json unchanged: LlamaTokenizer of transformers 5 builds its own, which drops the space prepended to leading spaces. */
const tokenizerConfig = (tokenizer: SentencePieceTokenizer): unknown => ({
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: tokenizer.pieces[tokenizer.bosId]!.text,
  eos_token: tokenizer.pieces[tokenizer.eosId]!.text,
  unk_token: tokenizer.pieces[tokenizer.unkId]!.text,
  pad_token: null,
  clean_up_tokenization_spaces: false
})
