/**
 * SentencePiece's .model file: a protobuf (sentencepiece_model.proto). Only the fields that this tokenizer needs are decoded; the rest is kept as bytes, so that a
 * file that is read and written again is unchanged. spm_encode and transformers can load the files written here.
 */
import { ArtifactError } from "../../schemas/artifact.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { decodeStrictly } from "./utf8.ts"

export type PieceType = "normal" | "unknown" | "control" | "user-defined" | "unused" | "byte"
export interface Piece {
  readonly text: string
  readonly score: number
  readonly type: PieceType
}
export interface ModelFile {
  readonly pieces: ReadonlyArray<Piece>
  /** Whether a space is prepended to every text. */
  readonly addDummyPrefix: boolean
  /** Whether characters without a piece are encoded as bytes (otherwise as the unknown piece). */
  readonly byteFallback: boolean
  /** The fields after the pieces (trainer, normalizer), as bytes. */
  readonly specification: Uint8Array
}

const types: ReadonlyArray<PieceType> = ["normal", "normal", "unknown", "control", "user-defined", "unused", "byte"]
const bpe = 2
const byteText = /^<0x[0-9A-F]{2}>$/

/** A reader of protobuf fields; every length is checked against the remaining bytes. */
class Fields {
  readonly #bytes: Uint8Array
  #at = 0
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }
  #varint(): number {
    let value = 0
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#bytes[this.#at++]
      if (byte === undefined) throw new Error(`it ends in the middle of a number (byte ${this.#at - 1})`)
      value += (byte & 127) * 2 ** shift
      if (byte < 128) return value
    }
    throw new Error(`a number that is too long at byte ${this.#at}`)
  }
  /** Field number and value (a number, or the bytes of a string or message), and the bytes of the complete field. */
  *[Symbol.iterator](): Generator<{
    readonly field: number
    readonly number: number
    readonly bytes: Uint8Array
    readonly raw: Uint8Array
  }> {
    const none = new Uint8Array()
    while (this.#at < this.#bytes.length) {
      const start = this.#at
      const tag = this.#varint()
      let number = 0
      let bytes: Uint8Array = none
      switch (tag & 7) {
        case 0:
          number = this.#varint()
          break
        case 1:
          bytes = this.#take(8)
          break
        case 2:
          bytes = this.#take(this.#varint())
          break
        case 5:
          bytes = this.#take(4)
          number = new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true)
          break
        default:
          throw new Error(`a field of unknown type at byte ${start}`)
      }
      yield { field: Math.floor(tag / 8), number, bytes, raw: this.#bytes.subarray(start, this.#at) }
    }
  }
  #take(length: number): Uint8Array {
    const left = this.#bytes.length - this.#at
    if (length > left) throw new Error(`a field of ${length} bytes where ${left} are left: the file is truncated, or of another format`)
    const out = this.#bytes.subarray(this.#at, this.#at + length)
    this.#at += length
    return out
  }
}

const readPiece = (message: Uint8Array): Piece => {
  let text = ""
  let score = 0
  let type = 1
  for (const { field, number, bytes } of new Fields(message)) {
    if (field === 1) text = decodeStrictly(bytes)
    else if (field === 2) score = number
    else if (field === 3) type = number
  }
  const named = types[type]
  if (text === "" || named === undefined || !Number.isFinite(score))
    throw new Error(`an invalid piece (text ${JSON.stringify(text)}, type ${type}, score ${score})`)
  return { text, score, type: named }
}

/** Reads a .model file. Throws ArtifactError for an invalid file, or a kind of model that would be tokenised incorrectly. */
export const readModelFile = (bytes: Uint8Array, path: string): ModelFile => {
  const fail = (expected: string, found: string) =>
    ArtifactError.of({
      doing: `Reading the tokenizer ${path}`,
      expected,
      found,
      hint: "Pass Llama 2's tokenizer.model, or a model trained with Caravan or with spm_train --model_type=bpe --byte_fallback --normalization_rule_name=identity --remove_extra_whitespaces=false."
    })
  const pieces: Array<Piece> = []
  const rest: Array<Uint8Array> = []
  // Defaults for fields that the file does not set.
  const found = { modelType: 1, byteFallback: 0, suffix: 0, charsmap: 0, addDummyPrefix: 1, removesSpaces: 1, escapes: 1 }
  try {
    for (const { field, bytes: message, raw } of new Fields(bytes)) {
      if (field === 1) {
        pieces.push(readPiece(message))
        continue
      }
      rest.push(raw)
      if (field === 2) {
        for (const part of new Fields(message)) {
          if (part.field === 3) found.modelType = part.number
          else if (part.field === 24) found.suffix = part.number
          else if (part.field === 35) found.byteFallback = part.number
        }
      } else if (field === 3) {
        for (const part of new Fields(message)) {
          if (part.field === 2) found.charsmap = part.bytes.length
          else if (part.field === 3) found.addDummyPrefix = part.number
          else if (part.field === 4) found.removesSpaces = part.number
          else if (part.field === 5) found.escapes = part.number
        }
      }
    }
  } catch (cause) {
    throw fail("a SentencePiece model", `${bytes.length} bytes of something else: ${messageOf(cause)}`)
  }
  if (pieces.length === 0) throw fail("a SentencePiece model", `${bytes.length} bytes without any piece`)
  if (found.modelType !== bpe)
    throw fail("a BPE model", `model type ${["", "unigram", "BPE", "word", "character"][found.modelType] ?? found.modelType}`)
  if (found.charsmap !== 0 || found.removesSpaces !== 0 || found.escapes === 0 || found.suffix !== 0) {
    throw fail("a model that leaves text unchanged (identity normalisation, spaces kept, in front of words)", "a model that changes text")
  }
  const count = (type: PieceType) => pieces.filter((piece) => piece.type === type).length
  if (count("user-defined") > 0) throw fail("no user-defined pieces, since ordinary text would produce them", `${count("user-defined")}`)
  if (count("unknown") !== 1) throw fail("one unknown piece", `${count("unknown")}`)
  for (const text of ["<s>", "</s>"])
    if (!pieces.some((piece) => piece.text === text && piece.type === "control")) throw fail(`a control piece ${text}`, "none")
  const badByte = pieces.find((piece) => piece.type === "byte" && !byteText.test(piece.text))
  if (badByte !== undefined) throw fail("byte pieces <0x00> to <0xFF>", JSON.stringify(badByte.text))
  const distinct = new Set(pieces.map((piece) => piece.text)).size
  if (distinct !== pieces.length) throw fail("unique pieces", `${pieces.length - distinct} duplicates`)
  if (found.byteFallback !== 0 && count("byte") !== 256) throw fail("256 byte pieces (the file sets byte_fallback)", `${count("byte")}`)
  return { pieces, addDummyPrefix: found.addDummyPrefix !== 0, byteFallback: found.byteFallback !== 0, specification: Buffer.concat(rest) }
}

// ---- writing ---------------------------------------------------------------------------------------------------------------------------

const varint = (value: number): Array<number> => {
  const out: Array<number> = []
  let rest = value
  while (rest > 127) {
    out.push((rest % 128) | 128)
    rest = Math.floor(rest / 128)
  }
  out.push(rest)
  return out
}
const numberField = (field: number, value: number): Buffer => Buffer.from([...varint(field * 8), ...varint(value)])
const bytesField = (field: number, bytes: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(bytes.length)]), bytes])
const floatField = (field: number, value: number): Buffer => {
  const out = Buffer.alloc(5)
  out.writeUInt8(field * 8 + 5)
  out.writeFloatLE(value, 1)
  return out
}

/** Encodes a .model file; equal models give equal bytes. */
export const writeModelFile = (model: ModelFile): Buffer => {
  const pieces = model.pieces.map(({ text, score, type }) =>
    bytesField(
      1,
      Buffer.concat([
        bytesField(1, Buffer.from(text)),
        floatField(2, score),
        ...(type === "normal" ? [] : [numberField(3, types.lastIndexOf(type))])
      ])
    )
  )
  return Buffer.concat([...pieces, model.specification])
}

/** Trainer and normalizer settings as in Llama 2's model: BPE, split digits, byte fallback, text left unchanged. */
export const specificationOf = (options: {
  readonly vocabSize: number
  readonly characterCoverage: number
  readonly maxLength: number
}): Uint8Array => {
  const trainer = Buffer.concat([
    numberField(3, bpe),
    numberField(4, options.vocabSize),
    floatField(10, options.characterCoverage),
    numberField(20, options.maxLength),
    numberField(25, 1), // split_digits
    numberField(26, 1), // allow_whitespace_only_pieces
    numberField(35, 1), // byte_fallback
    numberField(40, 0), // unk_id
    numberField(41, 1), // bos_id
    numberField(42, 2) // eos_id
  ])
  const normalizer = Buffer.concat([
    bytesField(1, Buffer.from("identity")),
    bytesField(2, new Uint8Array()),
    numberField(3, 1),
    numberField(4, 0),
    numberField(5, 1)
  ])
  return Buffer.concat([bytesField(2, trainer), bytesField(3, normalizer)])
}
