/**
 * SentencePiece's .model file: a protobuf (sentencepiece_model.proto). Only what this tokenizer needs is read; what it writes, spm_encode and
 * transformers load.
 */
import { ArtifactError } from "../../schemas/artifact.ts"

export type PieceType = "normal" | "unknown" | "control" | "user-defined" | "unused" | "byte"
export interface Piece {
  readonly text: string
  readonly score: number
  readonly type: PieceType
}
export interface ModelFile {
  readonly pieces: ReadonlyArray<Piece>
  readonly addDummyPrefix: boolean
}

const types: ReadonlyArray<PieceType> = ["normal", "normal", "unknown", "control", "user-defined", "unused", "byte"]
const bpe = 2

/** A reader of protobuf fields; every length is checked against what is left. */
class Fields {
  readonly #bytes: Uint8Array
  #at = 0
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }
  #varint(): number {
    let value = 0
    for (let shift = 0; shift < 64; shift += 7) {
      const byte = this.#bytes[this.#at++]
      if (byte === undefined) throw new Error(`it ends in the middle of a number (byte ${this.#at - 1})`)
      value += (byte & 127) * 2 ** shift
      if (byte < 128) return value
    }
    throw new Error(`a number too long at byte ${this.#at}`)
  }
  /** Field number and value: a number, or the bytes of a string or message. */
  *[Symbol.iterator](): Generator<{ readonly field: number; readonly number: number; readonly bytes: Uint8Array }> {
    const none = new Uint8Array()
    while (this.#at < this.#bytes.length) {
      const tag = this.#varint()
      const field = Math.floor(tag / 8)
      switch (tag & 7) {
        case 0:
          yield { field, number: this.#varint(), bytes: none }
          break
        case 1:
          yield { field, number: 0, bytes: this.#take(8) }
          break
        case 2:
          yield { field, number: 0, bytes: this.#take(this.#varint()) }
          break
        case 5: {
          const bytes = this.#take(4)
          yield { field, number: new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true), bytes }
          break
        }
        default:
          throw new Error(`a field of unknown kind at byte ${this.#at}`)
      }
    }
  }
  #take(length: number): Uint8Array {
    if (length > this.#bytes.length - this.#at) throw new Error(`a field of ${length} bytes where ${this.#bytes.length - this.#at} are left: it is truncated`)
    const out = this.#bytes.subarray(this.#at, this.#at + length)
    this.#at += length
    return out
  }
}

/** Reads a .model file. Throws an ArtifactError for what is not one, or is of a kind that would be tokenised wrongly. */
export const readModelFile = (bytes: Uint8Array, path: string): ModelFile => {
  const fail = (expected: string, found: string) => ArtifactError.of({ doing: `Reading the tokenizer ${path}`, expected, found, hint: "Give Llama 2's tokenizer.model, or one trained with Caravan or with spm_train --model_type=bpe." })
  const text = new TextDecoder("utf-8", { fatal: true })
  const pieces: Array<Piece> = []
  let modelType = 1
  let addDummyPrefix = true
  let normalized = false
  let removesSpaces = true
  let escapes = true
  try {
    for (const { field, bytes: message } of new Fields(bytes)) {
      if (field === 1) {
        const piece = { text: "", score: 0, type: "normal" as PieceType }
        for (const part of new Fields(message)) {
          if (part.field === 1) piece.text = text.decode(part.bytes)
          else if (part.field === 2) piece.score = part.number
          else if (part.field === 3) piece.type = types[part.number] ?? "normal"
        }
        pieces.push(piece)
      } else if (field === 2) {
        for (const part of new Fields(message)) if (part.field === 3) modelType = part.number
      } else if (field === 3) {
        for (const part of new Fields(message)) {
          if (part.field === 2) normalized = part.bytes.length > 0
          else if (part.field === 3) addDummyPrefix = part.number !== 0
          else if (part.field === 4) removesSpaces = part.number !== 0
          else if (part.field === 5) escapes = part.number !== 0
        }
      }
    }
  } catch (cause) {
    throw fail("a SentencePiece model", `${bytes.length} bytes that are not: ${cause instanceof Error ? cause.message : String(cause)}`)
  }
  if (pieces.length === 0) throw fail("a SentencePiece model", `${bytes.length} bytes without a single piece`)
  if (modelType !== bpe) throw fail("a BPE model", `model type ${modelType}`)
  if (normalized || removesSpaces || !escapes) throw fail("a model that leaves text as it is (identity normalisation, spaces kept)", "one that changes it")
  if (pieces.some((piece) => piece.type === "user-defined")) throw fail("no user-defined pieces", "some")
  if (pieces.filter((piece) => piece.type === "unknown").length !== 1) throw fail("one unknown piece", `${pieces.filter((piece) => piece.type === "unknown").length}`)
  return { pieces, addDummyPrefix }
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
const bytesField = (field: number, bytes: Uint8Array): Buffer => Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(bytes.length)]), bytes])
const floatField = (field: number, value: number): Buffer => {
  const out = Buffer.alloc(5)
  out[0] = field * 8 + 5
  out.writeFloatLE(value, 1)
  return out
}

/** The bytes of a .model file: the same pieces give the same bytes. */
export const writeModelFile = (model: ModelFile): Buffer => {
  const pieces = model.pieces.map(({ text, score, type }) =>
    bytesField(1, Buffer.concat([bytesField(1, Buffer.from(text)), floatField(2, score), ...(type === "normal" ? [] : [numberField(3, types.lastIndexOf(type))])]))
  )
  const trainer = Buffer.concat([
    numberField(3, bpe),
    numberField(4, model.pieces.length),
    numberField(25, 1), // split_digits
    numberField(26, 1), // allow_whitespace_only_pieces
    numberField(35, 1), // byte_fallback
    numberField(40, 0), // unk_id
    numberField(41, 1), // bos_id
    numberField(42, 2) // eos_id
  ])
  const normalizer = Buffer.concat([bytesField(1, Buffer.from("identity")), bytesField(2, Buffer.alloc(0)), numberField(3, model.addDummyPrefix ? 1 : 0), numberField(4, 0), numberField(5, 1)])
  return Buffer.concat([...pieces, bytesField(2, trainer), bytesField(3, normalizer)])
}
