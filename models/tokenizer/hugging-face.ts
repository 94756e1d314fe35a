/**
 * Reads Hugging Face's tokenizer.json using @huggingface/tokenizers. Supports only what was verified to give the same ids as the Rust library (docs/decisions/0017-tokenizers-and-chat-templates.md):
 * BPE, on bytes or with byte fallback; anything else is refused by name.
 *
 * The library finds added tokens wherever a text spells them. Here it gets other names for them, which no text contains: control tokens are appended only by id, and added tokens
 * that a text may spell (<think>) are inserted by name.
 */
import * as Tokenizers from "@huggingface/tokenizers"
import * as Schema from "effect/Schema"
import type { Piece } from "./model-file.ts"
import type { TokenBuffer } from "./token-buffer.ts"
import type { ChatSettings, Tokenizer } from "./tokenizer.ts"
import { decodeStrictly } from "./utf8.ts"

/** tokenizer.json has a setting that is unknown or gives other ids than Hugging Face's own library: the field, the supported value, the value found. */
export class UnsupportedTokenizer extends Error {
  readonly expected: string
  readonly found: string
  constructor(expected: string, found: string) {
    super(`expected ${expected}, found ${found}`)
    this.expected = expected
    this.found = found
  }
}

const Added = Schema.Struct({
  id: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  content: Schema.NonEmptyString,
  single_word: Schema.optionalKey(Schema.Boolean),
  lstrip: Schema.optionalKey(Schema.Boolean),
  rstrip: Schema.optionalKey(Schema.Boolean),
  normalized: Schema.optionalKey(Schema.Boolean),
  special: Schema.optionalKey(Schema.Boolean)
})

/** A part of the pipeline (normalizer, pre-tokenizer, decoder): its type and its nested parts. */
interface Part {
  readonly type: string
  readonly [field: string]: unknown
}
const Step: Schema.Codec<Part | null> = Schema.NullOr(
  Schema.StructWithRest(Schema.Struct({ type: Schema.String }), [Schema.Record(Schema.String, Schema.Unknown)])
)

const TokenizerJson = Schema.Struct({
  added_tokens: Schema.Array(Added),
  normalizer: Step,
  pre_tokenizer: Step,
  post_processor: Schema.Unknown,
  decoder: Step,
  model: Schema.Struct({
    type: Schema.optionalKey(Schema.String),
    dropout: Schema.optionalKey(Schema.NullOr(Schema.Number)),
    unk_token: Schema.optionalKey(Schema.NullOr(Schema.String)),
    continuing_subword_prefix: Schema.optionalKey(Schema.NullOr(Schema.String)),
    end_of_word_suffix: Schema.optionalKey(Schema.NullOr(Schema.String)),
    fuse_unk: Schema.optionalKey(Schema.Boolean),
    byte_fallback: Schema.optionalKey(Schema.Boolean),
    ignore_merges: Schema.optionalKey(Schema.Boolean),
    // Validated one by one in `check`: a schema over hundreds of thousands of entries takes seconds.
    vocab: Schema.optionalKey(Schema.Unknown),
    merges: Schema.optionalKey(Schema.Unknown)
  })
})
type TokenizerJson = typeof TokenizerJson.Type

/** The supported types of each part. */
const known: Readonly<Record<"normalizer" | "pre_tokenizer" | "decoder", ReadonlyArray<string>>> = {
  normalizer: ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace"],
  pre_tokenizer: ["Sequence", "Split", "ByteLevel", "Metaspace", "Digits"],
  decoder: ["Sequence", "ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Metaspace"]
}

const partsOf = (part: Part | null): ReadonlyArray<Part> =>
  part === null
    ? []
    : part.type === "Sequence"
      ? Object.values(part).flatMap((value) => (Array.isArray(value) ? (value as ReadonlyArray<Part>).flatMap(partsOf) : []))
      : [part]

/** Throws UnsupportedTokenizer for unsupported settings. */
const check = (json: TokenizerJson): void => {
  const { model } = json
  const refuse = (expected: string, found: unknown) => {
    throw new UnsupportedTokenizer(expected, typeof found === "string" ? found : (JSON.stringify(found) ?? "none"))
  }
  if (model.type !== undefined && model.type !== "BPE") refuse('a model of type "BPE"', `"${model.type}"`)
  if (model.type === undefined && model.merges === undefined) refuse('a model of type "BPE"', "a model without a type and without merges")
  if ((model.dropout ?? 0) !== 0) refuse("no dropout", model.dropout)
  for (const field of ["continuing_subword_prefix", "end_of_word_suffix"] as const)
    if ((model[field] ?? "") !== "") refuse(`no ${field}`, model[field])
  for (const [name, types] of Object.entries(known))
    for (const part of partsOf(json[name as keyof typeof known])) {
      if (!types.includes(part.type)) refuse(`a ${name} of ${types.join(", ")}`, part.type)
      // The library does not split off a gap that is merged with its neighbour. Splits on spaces are safe: the normalizer has replaced all spaces.
      const { behavior, invert, pattern } = part
      const spaces =
        JSON.stringify(pattern) === '{"String":" "}' && JSON.stringify(json.normalizer ?? "").includes('"pattern":{"String":" "}')
      if (part.type === "Split" && (invert === true || (behavior !== "Isolated" && !spaces)))
        refuse('a Split of behavior "Isolated"', { behavior, invert })
      if (part.type === "Metaspace" && part["split"] !== false && name === "pre_tokenizer")
        refuse("a Metaspace with split false", { split: part["split"] ?? true })
    }
  for (const token of json.added_tokens) {
    const flag = (["single_word", "lstrip", "rstrip"] as const).find((name) => token[name] === true)
    if (flag !== undefined) refuse(`added tokens without ${flag}`, token.content)
    if (token.special === true && Array.from(token.content).length < 2)
      refuse("control tokens of two characters or more", JSON.stringify(token.content))
    if (token.special !== true && token.normalized === true && json.normalizer !== null)
      refuse("added tokens that are not normalized", token.content)
  }
  const { vocab, merges } = model
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab))
    refuse("a vocab that maps each piece to its id", Array.isArray(vocab) ? "an array" : typeof vocab)
  const ids = Object.values(vocab as object)
  const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id > 2 ** 24)
  if (bad !== -1) refuse("integers as ids", ids[bad])
  if (new Set(ids).size !== ids.length) refuse("unique ids", "an id that occurs twice")
  if (!Array.isArray(merges)) return refuse("a list of merges", typeof merges)
  const pair = (merge: unknown) =>
    typeof merge === "string" || (Array.isArray(merge) && merge.length === 2 && merge.every((part) => typeof part === "string"))
  const odd = merges.findIndex((merge) => !pair(merge))
  if (odd !== -1) refuse("merges of two pieces each", merges[odd])
}

/** The library's name of an added token: noncharacters around its id. In a text that contains such a name anyway, they are replaced with U+FFFD. */
const nameOf = (id: number): string => `\ufdd0${id}\ufdd1`
const names = /\ufdd0(?=\d+\ufdd1)/g

const escaped = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")
/** Matches any of these texts, longest first; undefined for an empty list. */
export const anyOf = (texts: ReadonlyArray<string>): RegExp | undefined =>
  texts.length === 0
    ? undefined
    : new RegExp(
        texts
          .toSorted((a, b) => b.length - a.length)
          .map(escaped)
          .join("|"),
        "gu"
      )

/** Each byte that is not valid UTF-8 becomes one U+FFFD, as in the Rust library. */
const byteFallback = {
  decode: (bytes: Uint8Array): string => {
    try {
      return decodeStrictly(bytes)
    } catch {
      return "\ufffd".repeat(bytes.length)
    }
  }
}

// The library's type declarations have no file extensions, which TypeScript does not resolve from a module.
interface LibraryDecoder {
  readonly config: { readonly type: string }
  readonly decoders?: ReadonlyArray<LibraryDecoder>
  text_decoder?: { readonly decode: (bytes: Uint8Array) => string }
}
type PreTokenizer = (text: string, options: { readonly section_index: number }) => ReadonlyArray<string>
interface Library {
  pre_tokenizer: PreTokenizer | null
  readonly model: { readonly vocab: Array<string | undefined> }
  readonly decoder: LibraryDecoder | null
  readonly encode: (text: string, options: { readonly add_special_tokens: boolean }) => { readonly ids: ReadonlyArray<number> }
  readonly decode: (ids: ReadonlyArray<number>) => string
  readonly get_added_tokens_decoder: () => Map<number, { content: string }>
}
const openLibrary = (json: object): Library => new Tokenizers.Tokenizer(json, { clean_up_tokenization_spaces: false }) as Library

const decodersOf = (decoder: LibraryDecoder | null): ReadonlyArray<LibraryDecoder> =>
  decoder === null ? [] : (decoder.decoders?.flatMap(decodersOf) ?? [decoder])

export interface HuggingFaceFiles {
  /** Parsed tokenizer.json. */
  readonly json: unknown
  /** The named tokens from tokenizer_config.json or special_tokens_map.json. */
  readonly bos: string | undefined
  readonly eos: string | undefined
  readonly unk: string | undefined
  readonly pad: string | undefined
  /** Ids of further tokens that end an answer (generation_config.json). */
  readonly stops: ReadonlyArray<number>
  readonly chat: ChatSettings | undefined
  /** The original files by name, to be written with a checkpoint. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Parsed generation_config.json. */
  readonly generation?: Readonly<Record<string, unknown>>
}

export class HuggingFaceTokenizer implements Tokenizer {
  readonly #library: Library
  /** Matches the added tokens that are not control tokens. */
  readonly #spelled: RegExp | undefined
  readonly #idOf: ReadonlyMap<string, number>
  readonly #controlIds: ReadonlySet<number>
  readonly files: ReadonlyMap<string, Uint8Array>
  readonly generation: Readonly<Record<string, unknown>>
  readonly chat: ChatSettings | undefined
  readonly controls: ReadonlyMap<string, number>
  readonly vocabSize: number
  readonly bosId: number | undefined
  readonly eosId: number
  readonly padId: number
  readonly stopIds: ReadonlyArray<number>
  #pieces: ReadonlyArray<Piece> | undefined

  /** Throws UnsupportedTokenizer for an unsupported tokenizer.json, or one that lacks the named tokens; rethrows the library's error for an invalid file. */
  constructor({ json, bos, chat, eos, files, generation = {}, pad, stops, unk }: HuggingFaceFiles) {
    const read = Schema.decodeUnknownSync(TokenizerJson)(json)
    check(read)
    this.files = files
    this.generation = generation
    this.chat = chat
    const vocab = read.model.vocab as Readonly<Record<string, number>>
    const renamed = read.added_tokens.map((token) => ({ ...token, content: nameOf(token.id), normalized: false }))
    this.#library = openLibrary({ ...read, added_tokens: renamed })
    // If no piece spans two words, words (a run of spaces and the text after it) are tokenised separately, and the library caches them.
    const whole = partsOf(read.pre_tokenizer).every(({ type }) => type === "Metaspace" || type === "Split")
    if (whole && read.model.byte_fallback === true && Object.keys(vocab).every((piece) => !/[^\u2581]\u2581/.test(piece))) {
      const before = this.#library.pre_tokenizer
      this.#library.pre_tokenizer = (text, options) =>
        (before?.(text, options) ?? [text]).flatMap((part) => part.match(/\u2581+[^\u2581]*|[^\u2581]+/g) ?? [])
    }
    // Decoding uses their original names.
    const held = this.#library.get_added_tokens_decoder()
    for (const { id, content } of read.added_tokens) held.get(id)!.content = this.#library.model.vocab[id] = content
    // The library's decoder drops a byte-order mark.
    for (const decoder of decodersOf(this.#library.decoder)) if (decoder.config.type === "ByteFallback") decoder.text_decoder = byteFallback
    this.#idOf = new Map(read.added_tokens.map(({ content, id }) => [content, id]))
    const special = read.added_tokens.filter((token) => token.special === true)
    this.controls = new Map(special.map(({ content, id }) => [content, id]))
    this.#controlIds = new Set(this.controls.values())
    this.#spelled = anyOf(read.added_tokens.flatMap((token) => (token.special === true ? [] : [token.content])))
    this.vocabSize = [...Object.values(vocab), ...read.added_tokens.map(({ id }) => id)].reduce((most, id) => Math.max(most, id + 1), 0)
    const named = (what: string, text: string | undefined): number | undefined => {
      if (text === undefined) return undefined
      const id = this.#idOf.get(text) ?? (Object.hasOwn(vocab, text) ? vocab[text] : undefined)
      if (id === undefined) throw new UnsupportedTokenizer(`the ${what} ${JSON.stringify(text)} among the tokens of tokenizer.json`, "none")
      return id
    }
    this.bosId = named("bos_token", bos)
    const eosId = named("eos_token", eos) ?? stops[0]
    if (eosId === undefined) throw new UnsupportedTokenizer("an eos_token in tokenizer_config.json", "none")
    this.eosId = eosId
    this.stopIds = [...new Set([eosId, ...stops])]
    const stray = this.stopIds.find((id) => id >= this.vocabSize)
    if (stray !== undefined) throw new UnsupportedTokenizer(`stop tokens below ${this.vocabSize}`, `${stray}`)
    this.padId = [named("pad_token", pad), named("unk_token", unk), this.bosId].find((id) => id !== undefined && id !== eosId) ?? eosId
    for (const [text, id] of this.controls)
      if (this.encode(text).includes(id))
        throw new UnsupportedTokenizer("control tokens that text cannot produce", `${JSON.stringify(text)}, which its own text produces`)
  }

  get pieces(): ReadonlyArray<Piece> {
    this.#pieces ??= Array.from({ length: this.vocabSize }, (_, id): Piece => {
      const text = this.#library.model.vocab[id]
      if (text === undefined) return { text: "", score: 0, type: "unused" }
      return { text, score: -id, type: this.#controlIds.has(id) ? "control" : "normal" }
    })
    return this.#pieces
  }

  /** Ids of a text at the start of the input, or after a control token. */
  #encode(text: string, place: "first" | "after a control token"): ReadonlyArray<number> {
    if (text === "") return []
    const clean = text.toWellFormed().replaceAll(names, "\ufffd")
    const named = this.#spelled === undefined ? clean : clean.replaceAll(this.#spelled, (token) => nameOf(this.#idOf.get(token)!))
    const [control] = this.#controlIds
    if (place === "first" || control === undefined) return this.#library.encode(named, { add_special_tokens: false }).ids
    return this.#library.encode(nameOf(control) + named, { add_special_tokens: false }).ids.slice(1)
  }

  encode(text: string): Array<number> {
    return [...this.#encode(text, "first")]
  }

  append(text: string, out: TokenBuffer): void {
    for (const id of this.#encode(text, out.length === 0 ? "first" : "after a control token")) out.push(id)
  }

  appendAfter(before: string, text: string, out: TokenBuffer): boolean {
    const first = this.#encode(before, "after a control token")
    const whole = this.#encode(before + text, "after a control token")
    if (first.some((id, i) => whole[i] !== id)) return false
    for (const id of whole.slice(first.length)) out.push(id)
    return true
  }

  decode(ids: Iterable<number>): string {
    const shown = Array.from(ids).filter((id) => {
      if (this.#library.model.vocab[id] === undefined) throw new RangeError(`token ${id} is not in the vocabulary of ${this.vocabSize}`)
      return !this.#controlIds.has(id)
    })
    return shown.length === 0 ? "" : this.#library.decode(shown)
  }
}
