/**
 * Bounds checks on Arrow's headers. The headers are flatbuffers, and the Arrow library trusts the lengths in them: one wrong byte makes it fill
 * the memory. This module compares every length with the bytes that are present before the library reads the header. Slots are the field
 * numbers of Arrow's Message.fbs, Schema.fbs and File.fbs. Reading outside the bytes throws RangeError (DataView).
 */

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** A flatbuffer table: its fields by slot. */
class FlatTable {
  readonly #view: DataView
  readonly #at: number
  constructor(view: DataView, at: number) {
    this.#view = view
    this.#at = at
  }
  static root(bytes: Uint8Array): FlatTable {
    const view = viewOf(bytes)
    return new FlatTable(view, view.getUint32(0, true))
  }
  /** The field's offset; undefined when it has its default. */
  #field(slot: number): number | undefined {
    const vtable = this.#at - this.#view.getInt32(this.#at, true)
    const entry = 4 + 2 * slot
    if (entry >= this.#view.getUint16(vtable, true)) return undefined
    const offset = this.#view.getUint16(vtable + entry, true)
    return offset === 0 ? undefined : this.#at + offset
  }
  has(slot: number): boolean {
    return this.#field(slot) !== undefined
  }
  uint8(slot: number): number {
    const at = this.#field(slot)
    return at === undefined ? 0 : this.#view.getUint8(at)
  }
  /** An int64 that must be a count. */
  count(slot: number): number {
    const at = this.#field(slot)
    const value = at === undefined ? 0n : this.#view.getBigInt64(at, true)
    if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`a header claims the count ${value}`)
    return Number(value)
  }
  table(slot: number): FlatTable | undefined {
    const at = this.#field(slot)
    return at === undefined ? undefined : new FlatTable(this.#view, at + this.#view.getUint32(at, true))
  }
  /** A vector; its length is checked against the bytes that follow. */
  vector(slot: number, width: number): { readonly start: number; readonly length: number } {
    const at = this.#field(slot)
    if (at === undefined) return { start: 0, length: 0 }
    const start = at + this.#view.getUint32(at, true)
    const length = this.#view.getUint32(start, true)
    if (length * width > this.#view.byteLength - start - 4)
      throw new RangeError(`a header claims ${length} entries, more than its bytes can hold`)
    return { start: start + 4, length }
  }
  tables(slot: number): Array<FlatTable> {
    const { start, length } = this.vector(slot, 4)
    return Array.from({ length }, (_, i) => new FlatTable(this.#view, start + 4 * i + this.#view.getUint32(start + 4 * i, true)))
  }
  /** Pairs of int64: field nodes (length, nulls) and buffers (offset, length). */
  pairs(slot: number): Array<readonly [number, number]> {
    const { start, length } = this.vector(slot, 16)
    return Array.from({ length }, (_, i) => [
      Number(this.#view.getBigInt64(start + 16 * i, true)),
      Number(this.#view.getBigInt64(start + 16 * i + 8, true))
    ])
  }
}

/** No row schema has more fields than this; overlapping tables could make a few bytes look like very many fields. */
const maxFields = 1000

/** Throws unless the lengths in a schema are within its bytes. */
const checkSchema = (schema: FlatTable, dictionaries: boolean): void => {
  let left = maxFields
  const checkFields = (fields: ReadonlyArray<FlatTable>): void => {
    for (const field of fields) {
      if (--left < 0) throw new RangeError(`a schema of more than ${maxFields} fields`)
      if (field.has(4) && !dictionaries) throw new RangeError("a field with a dictionary")
      field.vector(6, 4)
      checkFields(field.tables(5))
    }
  }
  checkFields(schema.tables(1))
  schema.vector(2, 4)
  schema.vector(3, 8)
}

/** Throws if a length in a file's footer exceeds its bytes, or if it has dictionaries and may not. Returns the number of record batches it claims. */
export const checkFooter = (bytes: Uint8Array, dictionaries = false): { readonly batches: number } => {
  const footer = FlatTable.root(bytes)
  const schema = footer.table(1)
  if (schema === undefined) throw new RangeError("a footer without a schema")
  checkSchema(schema, dictionaries)
  footer.vector(4, 4)
  if (footer.vector(2, 24).length > 0 && !dictionaries) throw new RangeError("dictionaries")
  return { batches: footer.vector(3, 24).length }
}

/** A copy of a footer without the locations of its dictionaries, so that the library reads only its schema. */
export const withoutDictionaries = (bytes: Uint8Array): Uint8Array => {
  const copy = Uint8Array.from(bytes)
  const { length, start } = FlatTable.root(copy).vector(2, 24)
  if (length > 0) viewOf(copy).setUint32(start - 4, 0, true)
  return copy
}

export interface MessageHeader {
  readonly type: "schema" | "dictionary" | "batch" | "other"
  readonly bodyLength: number
  /** Rows of the record batch, or of the batch inside a dictionary message. */
  readonly rows: number
  readonly compressed: boolean
  /** Length and null count of each field, depth first. */
  readonly nodes: ReadonlyArray<readonly [number, number]>
  /** Offset and length of each buffer within the body. */
  readonly buffers: ReadonlyArray<readonly [number, number]>
}

/** The header of a message (without the 8 bytes before it). */
export const readMessageHeader = (bytes: Uint8Array): MessageHeader => {
  const message = FlatTable.root(bytes)
  message.vector(4, 4)
  const bodyLength = message.count(3)
  const kind = message.uint8(1)
  const header = message.table(2)
  if (kind === 1 && header !== undefined) checkSchema(header, true)
  const batch = kind === 3 ? header : kind === 2 ? header?.table(1) : undefined
  if (batch === undefined) return { type: kind === 1 ? "schema" : "other", bodyLength, rows: 0, compressed: false, nodes: [], buffers: [] }
  batch.vector(4, 8)
  return {
    type: kind === 3 ? "batch" : "dictionary",
    bodyLength,
    rows: batch.count(0),
    compressed: batch.has(3),
    nodes: batch.pairs(1),
    buffers: batch.pairs(2)
  }
}
