/**
 * Schema <-> Arrow. Strings are Utf8, numbers Float64 unless annotated ({ arrow: "int32" | "float32" | "uint8" }), booleans Bool, literals
 * their value's type, arrays List, structs Struct, NullOr a nullable field.
 */
import * as arrow from "apache-arrow"
import type * as Schema from "effect/Schema"

/** The part of a row schema's syntax tree that matters here. */
interface Node {
  readonly _tag: string
  readonly annotations?: Readonly<Record<string, unknown>>
  readonly checks?: ReadonlyArray<{ readonly annotations?: Readonly<Record<string, unknown>> }>
  readonly literal?: unknown
  readonly types?: ReadonlyArray<Node>
  readonly rest?: ReadonlyArray<Node>
  readonly propertySignatures?: ReadonlyArray<{ readonly name: PropertyKey; readonly type: Node }>
}

/** A field as columns are built from it. */
type Kind =
  | { readonly tag: "utf8" | "bool" | "float64" | "float32" | "int32" | "uint8"; readonly nullable: boolean }
  | { readonly tag: "list"; readonly nullable: boolean; readonly element: Kind }
  | { readonly tag: "struct"; readonly nullable: boolean; readonly fields: ReadonlyArray<{ readonly name: string; readonly kind: Kind }> }
export type StructKind = Extract<Kind, { tag: "struct" }>

const kindOf = (node: Node, path: string): Kind => {
  switch (node._tag) {
    case "String":
    case "TemplateLiteral":
      return { tag: "utf8", nullable: false }
    case "Boolean":
      return { tag: "bool", nullable: false }
    case "Number": {
      const marked = node.annotations?.arrow ?? node.checks?.map((check) => check.annotations?.arrow).find((mark) => mark !== undefined)
      if (marked === undefined) return { tag: "float64", nullable: false }
      if (marked === "int32" || marked === "float32" || marked === "uint8") return { tag: marked, nullable: false }
      throw new Error(`${path}: unknown Arrow annotation ${String(marked)}`)
    }
    case "Literal":
      return { tag: typeof node.literal === "string" ? "utf8" : typeof node.literal === "boolean" ? "bool" : "float64", nullable: false }
    case "Union": {
      const others = node.types!.filter((type) => type._tag !== "Null")
      const kinds = others.map((type) => kindOf(type, path))
      if (kinds.length === 0 || kinds.some((kind) => kind.tag !== kinds[0]!.tag)) throw new Error(`${path}: a union of different types has no Arrow type here`)
      return { ...kinds[0]!, nullable: others.length < node.types!.length }
    }
    case "Arrays":
      return { tag: "list", nullable: false, element: kindOf(node.rest![0]!, `${path}[]`) }
    case "Objects":
      return {
        tag: "struct",
        nullable: false,
        fields: node.propertySignatures!.map((field) => ({ name: String(field.name), kind: kindOf(field.type, `${path}.${String(field.name)}`) }))
      }
    default:
      throw new Error(`${path}: a ${node._tag} has no Arrow type here`)
  }
}

/** The columns of a row schema. Throws when the schema holds something that rows can't. */
export const columnsOf = (row: Schema.Top): StructKind => {
  const kind = kindOf(row.ast as unknown as Node, "row")
  if (kind.tag !== "struct") throw new Error("a row must be a Schema.Struct")
  return kind
}

const typeOf = (kind: Kind): arrow.DataType => {
  switch (kind.tag) {
    case "utf8":
      return new arrow.Utf8()
    case "bool":
      return new arrow.Bool()
    case "float64":
      return new arrow.Float64()
    case "float32":
      return new arrow.Float32()
    case "int32":
      return new arrow.Int32()
    case "uint8":
      return new arrow.Uint8()
    case "list":
      return new arrow.List(new arrow.Field("item", typeOf(kind.element), kind.element.nullable))
    case "struct":
      return new arrow.Struct(kind.fields.map((field) => new arrow.Field(field.name, typeOf(field.kind), field.kind.nullable)))
  }
}

/** The Arrow schema of rows. */
export const arrowSchema = (kind: StructKind): arrow.Schema => new arrow.Schema(kind.fields.map((field) => new arrow.Field(field.name, typeOf(field.kind), field.kind.nullable)))

/** A schema in words: field names, types and nullability, in order; equal for equal schemas. */
export const describeKind = (kind: Kind): string => {
  const inner = kind.tag === "list" ? `list<${describeKind(kind.element)}>` : kind.tag === "struct" ? `{${kind.fields.map((field) => `${field.name}:${describeKind(field.kind)}`).join(",")}}` : kind.tag
  return kind.nullable ? `${inner}?` : inner
}

/** The same of an Arrow schema that was read. */
export const describeArrow = (schema: arrow.Schema): string => `{${schema.fields.map((field) => `${field.name}:${describeField(field)}`).join(",")}}`

const describeField = (field: arrow.Field): string => `${describeType(field.type)}${field.nullable ? "?" : ""}`

const describeType = (type: arrow.DataType): string => {
  if (arrow.DataType.isUtf8(type)) return "utf8"
  if (arrow.DataType.isBool(type)) return "bool"
  if (arrow.DataType.isFloat(type)) return type.precision === arrow.Precision.DOUBLE ? "float64" : type.precision === arrow.Precision.SINGLE ? "float32" : "float16"
  if (arrow.DataType.isInt(type)) return `${type.isSigned ? "int" : "uint"}${type.bitWidth}`
  if (arrow.DataType.isList(type)) return `list<${describeField(type.children[0]!)}>`
  if (arrow.DataType.isStruct(type)) return `{${type.children.map((field) => `${field.name}:${describeField(field)}`).join(",")}}`
  return String(type)
}

// ---- rows -> columns -------------------------------------------------------------------------------------------------------------------

const numberArrays = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array } as const

const validity = (values: ReadonlyArray<unknown>): { readonly nullCount: number; readonly nullBitmap: Uint8Array | null } => {
  let nullCount = 0
  for (const value of values) if (value === null || value === undefined) nullCount++
  if (nullCount === 0) return { nullCount, nullBitmap: null }
  const nullBitmap = new Uint8Array((values.length + 7) >> 3)
  values.forEach((value, i) => {
    if (value !== null && value !== undefined) nullBitmap[i >> 3]! |= 1 << (i & 7)
  })
  return { nullCount, nullBitmap }
}

const encoder = new TextEncoder()

/** One column of values as Arrow data. */
const dataOf = (kind: Kind, values: ReadonlyArray<any>): arrow.Data => {
  const type = typeOf(kind) as any
  const length = values.length
  const { nullCount, nullBitmap } = validity(values)
  const base = { type, length, nullCount, nullBitmap: nullBitmap ?? undefined }
  switch (kind.tag) {
    case "utf8": {
      const encoded = values.map((value) => encoder.encode(value ?? ""))
      const valueOffsets = new Int32Array(length + 1)
      encoded.forEach((bytes, i) => (valueOffsets[i + 1] = valueOffsets[i]! + bytes.length))
      const data = new Uint8Array(valueOffsets[length]!)
      encoded.forEach((bytes, i) => data.set(bytes, valueOffsets[i]!))
      return arrow.makeData({ ...base, valueOffsets, data })
    }
    case "bool": {
      const data = new Uint8Array((length + 7) >> 3)
      values.forEach((value, i) => {
        if (value === true) data[i >> 3]! |= 1 << (i & 7)
      })
      return arrow.makeData({ ...base, data })
    }
    case "list": {
      const valueOffsets = new Int32Array(length + 1)
      values.forEach((value, i) => (valueOffsets[i + 1] = valueOffsets[i]! + (value?.length ?? 0)))
      const elements: Array<any> = []
      for (const value of values) if (value !== null && value !== undefined) for (const element of value) elements.push(element)
      return arrow.makeData({ ...base, valueOffsets, child: dataOf(kind.element, elements) })
    }
    case "struct":
      return arrow.makeData({ ...base, children: kind.fields.map((field) => dataOf(field.kind, values.map((value) => value?.[field.name]))) })
    default: {
      const data = new numberArrays[kind.tag]((values as ReadonlyArray<number | null>).map((value) => value ?? 0))
      return arrow.makeData({ ...base, data })
    }
  }
}

/** Rows as a record batch. */
export const toBatch = (kind: StructKind, schema: arrow.Schema, rows: ReadonlyArray<any>): arrow.RecordBatch =>
  new arrow.RecordBatch(schema, dataOf({ ...kind, nullable: false }, rows) as arrow.Data<arrow.Struct>)

// ---- columns -> rows -------------------------------------------------------------------------------------------------------------------

const valuesOf = (kind: Kind, vector: arrow.Vector): Array<any> => {
  const out = new Array<any>(vector.length)
  if (kind.tag === "list") {
    const elements = (vector.get.bind(vector) as (i: number) => arrow.Vector | null)
    for (let i = 0; i < out.length; i++) {
      const inner = elements(i)
      out[i] = inner === null ? null : valuesOf(kind.element, inner)
    }
  } else if (kind.tag === "struct") {
    const columns = kind.fields.map((field, i) => valuesOf(field.kind, vector.getChildAt(i)!))
    for (let i = 0; i < out.length; i++) {
      if (vector.nullCount > 0 && !vector.isValid(i)) {
        out[i] = null
        continue
      }
      const row: Record<string, any> = {}
      kind.fields.forEach((field, j) => (row[field.name] = columns[j]![i]))
      out[i] = row
    }
  } else {
    for (let i = 0; i < out.length; i++) out[i] = vector.get(i)
  }
  return out
}

/** The rows of a record batch, as plain objects. */
export const toRows = (kind: StructKind, batch: arrow.RecordBatch): Array<any> => {
  const columns = kind.fields.map((field) => valuesOf(field.kind, batch.getChild(field.name)!))
  return Array.from({ length: batch.numRows }, (_, i) => {
    const row: Record<string, any> = {}
    kind.fields.forEach((field, j) => (row[field.name] = columns[j]![i]))
    return row
  })
}
