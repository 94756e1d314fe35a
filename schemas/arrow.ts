/**
 * The Arrow schema for an Effect Schema of rows. Strings map to Utf8, numbers to Float64 unless annotated ({ arrow: "int32" | "float32" | "uint8" }), booleans to
 * Bool, literals to their value's type, arrays to List, structs to Struct, and NullOr to a nullable field.
 */
import * as arrow from "apache-arrow"
import type * as Schema from "effect/Schema"

/** The part of a row schema's syntax tree that is used here. */
interface Node {
  readonly _tag: string
  readonly annotations?: Readonly<Record<string, unknown>>
  readonly checks?: ReadonlyArray<{ readonly annotations?: Readonly<Record<string, unknown>> }>
  readonly literal?: unknown
  readonly types?: ReadonlyArray<Node>
  readonly elements?: ReadonlyArray<Node>
  readonly rest?: ReadonlyArray<Node>
  readonly propertySignatures?: ReadonlyArray<{ readonly name: PropertyKey; readonly type: Node }>
  readonly indexSignatures?: ReadonlyArray<unknown>
  readonly context?: { readonly isOptional: boolean }
}

/** The description of a field from which its column is built. */
export type Kind =
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
      throw new Error(`${path}: unknown Arrow annotation ${JSON.stringify(marked)}`)
    }
    case "Literal":
      return { tag: typeof node.literal === "string" ? "utf8" : typeof node.literal === "boolean" ? "bool" : "float64", nullable: false }
    case "Union": {
      const others = node.types!.filter((type) => type._tag !== "Null")
      const kinds = others.map((type) => kindOf(type, path))
      if (kinds.length === 0 || kinds.some((kind) => describeKind(kind) !== describeKind(kinds[0]!))) {
        throw new Error(`${path}: a union of different types is not supported in rows`)
      }
      return { ...kinds[0]!, nullable: others.length < node.types!.length }
    }
    case "Arrays":
      if (node.elements!.length > 0 || node.rest!.length !== 1)
        throw new Error(`${path}: a tuple is not supported in rows; use an array or a struct`)
      return { tag: "list", nullable: false, element: kindOf(node.rest![0]!, `${path}[]`) }
    case "Objects": {
      const signatures = node.propertySignatures!
      if (signatures.length === 0 || node.indexSignatures!.length > 0)
        throw new Error(`${path}: only structs with named fields are supported in rows`)
      const fields = signatures.map(({ name, type }) => {
        if (type.context?.isOptional)
          throw new Error(`${path}.${String(name)}: an optional field is not supported in rows; use Schema.NullOr`)
        return { name: String(name), kind: kindOf(type, `${path}.${String(name)}`) }
      })
      return { tag: "struct", nullable: false, fields }
    }
    default:
      throw new Error(`${path}: a ${node._tag} is not supported in rows`)
  }
}

/** The columns of a row schema. Throws if the schema contains a type that rows cannot have. */
export const columnsOf = (row: Schema.Top): StructKind => {
  const kind = kindOf(row.ast as unknown as Node, "row")
  if (kind.tag !== "struct") throw new Error("a row must be a Schema.Struct")
  return kind
}

/** The Arrow type of a field. */
export const typeOf = (kind: Kind): arrow.DataType => {
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

export const arrowSchema = (kind: StructKind): arrow.Schema =>
  new arrow.Schema(kind.fields.map((field) => new arrow.Field(field.name, typeOf(field.kind), field.kind.nullable)))

/** A text description of a schema: field names, types and nullability, in order. Equal schemas have equal descriptions. */
export const describeKind = (kind: Kind): string => {
  const inner =
    kind.tag === "list"
      ? `list<${describeKind(kind.element)}>`
      : kind.tag === "struct"
        ? `{${kind.fields.map((field) => `${field.name}:${describeKind(field.kind)}`).join(",")}}`
        : kind.tag
  return kind.nullable ? `${inner}?` : inner
}

/** The same description for an Arrow schema that was read from a file. */
export const describeArrow = (schema: arrow.Schema): string =>
  `{${schema.fields.map((field) => `${field.name}:${describeField(field)}`).join(",")}}`

const describeField = (field: arrow.Field): string => `${describeType(field.type)}${field.nullable ? "?" : ""}`

const describeType = (type: arrow.DataType): string => {
  if (arrow.DataType.isUtf8(type)) return "utf8"
  if (arrow.DataType.isBool(type)) return "bool"
  if (arrow.DataType.isFloat(type))
    return type.precision === arrow.Precision.DOUBLE ? "float64" : type.precision === arrow.Precision.SINGLE ? "float32" : "float16"
  if (arrow.DataType.isInt(type)) return `${type.isSigned ? "int" : "uint"}${type.bitWidth}`
  if (arrow.DataType.isList(type)) return `list<${describeField(type.children[0]!)}>`
  if (arrow.DataType.isStruct(type)) return `{${type.children.map((field) => `${field.name}:${describeField(field)}`).join(",")}}`
  return arrow.Type[type.typeId] ?? "an unknown type"
}

/** The columns of an Arrow schema that was read from a file, for any row type. Throws for a type that Caravan's datasets do not use. */
export const columnsOfArrow = (schema: arrow.Schema): StructKind => ({
  tag: "struct",
  nullable: false,
  fields: schema.fields.map((field) => ({ name: field.name, kind: kindOfField(field) }))
})

const tags = ["utf8", "bool", "float64", "float32", "int32", "uint8"] as const
const kindOfField = ({ name, nullable, type }: arrow.Field): Kind => {
  if (arrow.DataType.isList(type)) return { tag: "list", nullable, element: kindOfField(type.children[0]!) }
  if (arrow.DataType.isStruct(type))
    return { tag: "struct", nullable, fields: type.children.map((field: arrow.Field) => ({ name: field.name, kind: kindOfField(field) })) }
  const tag = tags.find((each) => each === describeType(type))
  if (tag === undefined) throw new Error(`the column "${name}" has the type ${String(type)}, which Caravan's datasets do not use`)
  return { tag, nullable }
}
