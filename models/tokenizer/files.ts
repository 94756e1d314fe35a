/** Tokenizers from and to folders: SentencePiece's `tokenizer.model`, and what transformers reads beside it. */
import { existsSync, statSync } from "node:fs"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { ArtifactError, type OutputSlot, type TokenizerFiles, type Written, written } from "../../schemas/artifact.ts"
import { type Piece, readModelFile, writeModelFile } from "./model-file.ts"
import { Tokenizer } from "./tokenizer.ts"

/** Reads a .model file, or the tokenizer.model of a folder. */
export const loadTokenizer = Effect.fn("loadTokenizer")(function* (path: string): Effect.fn.Return<Tokenizer, ArtifactError> {
  const doing = `Reading the tokenizer ${path}`
  if (!existsSync(path))
    return yield* ArtifactError.of({
      doing,
      expected: "a .model file or a folder with tokenizer.model",
      found: "nothing there",
      hint: "Check the path."
    })
  const file = statSync(path).isDirectory() ? join(path, "tokenizer.model") : path
  if (!existsSync(file)) {
    const found = existsSync(join(path, "tokenizer.json")) ? "only tokenizer.json" : "none"
    return yield* ArtifactError.of({
      doing,
      expected: "a file tokenizer.model (SentencePiece)",
      found,
      hint: "Put the tokenizer.model that the model was trained with into the folder."
    })
  }
  const bytes = yield* Effect.tryPromise({
    try: () => readFile(file),
    catch: (cause) => ArtifactError.of({ doing, expected: "a readable file", found: String(cause), hint: "Check its permissions." })
  })
  return yield* Effect.try({
    try: () => new Tokenizer(readModelFile(bytes, file)),
    catch: (cause) =>
      cause instanceof ArtifactError
        ? cause
        : ArtifactError.of({ doing, expected: "a SentencePiece model", found: String(cause), hint: "Give another file." })
  })
})

/** Writes tokenizer.model, tokenizer.json and tokenizer_config.json into a folder. */
export const writeTokenizer = async (directory: string, tokenizer: Tokenizer): Promise<void> => {
  await writeFile(join(directory, "tokenizer.model"), writeModelFile(tokenizer.model))
  await writeFile(join(directory, "tokenizer.json"), JSON.stringify(tokenizerJson(tokenizer)))
  await writeFile(join(directory, "tokenizer_config.json"), `${JSON.stringify(tokenizerConfig(tokenizer), undefined, 2)}\n`)
}

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

/** Every way to make a piece of two others, best piece first: ranks that give the same choices as the scores do. */
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

/** The layout of Hugging Face's tokenizers, as LlamaTokenizerFast has it: BPE with byte fallback. */
const tokenizerJson = (tokenizer: Tokenizer): unknown => {
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

/** The class that takes tokenizer.json as it is: LlamaTokenizer of transformers 5 makes its own, which drops the space put in front of spaces. */
const tokenizerConfig = (tokenizer: Tokenizer): unknown => ({
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: tokenizer.pieces[tokenizer.bosId]!.text,
  eos_token: tokenizer.pieces[tokenizer.eosId]!.text,
  unk_token: tokenizer.pieces[tokenizer.unkId]!.text,
  pad_token: null,
  clean_up_tokenization_spaces: false
})
