/** Documentation of dataset and report schemas, extracted from the sources: docstrings, and the fields of reports. */
import { docstringBefore, isNode, nameOf, type Node, type Source, sourcesWith, walk } from "./source.ts"

export interface FieldText {
  readonly name: string
  readonly type: string
  readonly meaning: string
}
export interface SchemaText {
  readonly file: string
  readonly meaning: string
  readonly fields: ReadonlyArray<FieldText>
}

const words: Readonly<Record<string, string>> = {
  String: "text",
  NonEmptyString: "text",
  Number: "number",
  Finite: "number",
  Int: "integer",
  Boolean: "true or false",
  Unknown: "anything"
}

interface Declared {
  readonly source: Source
  readonly node: Node
}

const argumentsOf = (node: Node): ReadonlyArray<Node> => (node.type === "CallExpression" ? (node.arguments as ReadonlyArray<Node>) : [])

const elementsOf = (node: Node | undefined) => (node?.elements ?? []) as ReadonlyArray<Node>
const isStruct = (node: Node) => node.type === "CallExpression" && nameOf(node.callee) === "Struct"

/** "list of text or null" of `Schema.Array(Schema.NullOr(Schema.String))`. */
const typeOf = (node: unknown, find: Find): string => {
  if (!isNode(node)) return ""
  if (node.type !== "CallExpression") {
    const name = nameOf(node) ?? ""
    const alias = node.type === "Identifier" ? find(name)?.node : undefined
    return words[name] ?? (alias === undefined || isStruct(alias) ? name : typeOf(alias, find))
  }
  const callee = node.callee as Node
  const [first, second] = node.arguments as ReadonlyArray<Node>
  switch (nameOf(callee)) {
    // x.check(...), x.annotate(...)
    case "check":
    case "annotate":
    case "pipe":
      return typeOf(callee.object, find)
    case "Array":
      return `list of ${typeOf(first, find)}`
    case "NullOr":
      return `${typeOf(first, find)} or null`
    case "optionalKey":
    case "optional":
      return `${typeOf(first, find)}, may be missing`
    case "Record":
      return `${typeOf(second, find)} by name`
    case "Literals":
      return (
        elementsOf(first)
          .map(({ value }) => JSON.stringify(value))
          .join(" or ") || "one of a list"
      )
    case "Literal":
      return JSON.stringify(first?.value)
    case "Union":
      return elementsOf(first)
        .map((each) => typeOf(each, find))
        .join(" or ")
    case "Tuple":
      return `[${elementsOf(first)
        .map((each) => typeOf(each, find))
        .join(", ")}]`
    case "Struct":
      return "object"
    default:
      return nameOf(callee) ?? ""
  }
}

/** The struct in a field (single, in a list or by name), with the separator between the field's name and its fields' names. */
const structIn = ({ node, source }: Declared, find: Find): { readonly struct: Declared; readonly between: string } | undefined => {
  const [first, second] = argumentsOf(node)
  if (node.type === "Identifier") {
    const named = find(nameOf(node)!)
    return named?.node.type === "CallExpression" ? structIn(named, find) : undefined
  }
  switch (node.type === "CallExpression" ? nameOf(node.callee) : "") {
    case "Struct":
      return { struct: { node, source }, between: "." }
    case "NullOr":
      return first && structIn({ node: first, source }, find)
    case "Array":
    case "Record": {
      const inner = second ?? first
      const found = inner && structIn({ node: inner, source }, find)
      return found && { ...found, between: `${second === undefined ? "[]" : ".<name>"}${found.between}` }
    }
    default:
      return undefined
  }
}
/** How deep the fields of structs within structs are listed. */
const depth = 2

type Find = (name: string) => Declared | undefined

/** The properties of `Schema.Struct({ ... })`, including those of spread and nested structs. */
const fieldsOf = ({ node, source }: Declared, find: Find, before = ""): ReadonlyArray<FieldText> => {
  const object = node.type === "ObjectExpression" ? node : argumentsOf(node)[0]
  if (object?.type !== "ObjectExpression") return []
  return (object.properties as ReadonlyArray<Node>).flatMap((property): ReadonlyArray<FieldText> => {
    if (property.type === "SpreadElement") {
      const argument = property.argument as Node
      const other = find(nameOf(argument.type === "MemberExpression" ? argument.object : argument) ?? "")
      return other === undefined ? [] : fieldsOf(other, find, before)
    }
    const name = `${before}${nameOf(property.key) ?? ""}`
    const held = structIn({ node: property.value as Node, source }, find)
    return [
      { name, type: typeOf(property.value, find), meaning: docstringBefore(source.text, property.start) },
      ...(held === undefined || name.split(".").length > depth ? [] : fieldsOf(held.struct, find, `${name}${held.between}`))
    ]
  })
}

/** Name of the artifact type, as "dataset:prompt/2" -> its schema's texts. */
export const artifactSources = (): ReadonlyMap<string, SchemaText> => {
  const sources = sourcesWith(["schemas", "stages"], /Schema\.Struct/)
  const found = new Map<string, SchemaText>()
  const declaredIn = (source: Source): ReadonlyMap<string, Declared & { readonly meaning: string }> => {
    const declared = new Map<string, Declared & { readonly meaning: string }>()
    walk(source.program, (node) => {
      if (node.type !== "VariableDeclaration") return
      for (const { id, init } of node.declarations as ReadonlyArray<Node>)
        if (isNode(init)) declared.set(nameOf(id) ?? "", { source, node: init, meaning: docstringBefore(source.text, node.start) })
    })
    return declared
  }
  const all = new Map(sources.map((source) => [source.file, declaredIn(source)]))
  for (const [file, declared] of all)
    for (const { node } of declared.values()) {
      const kind = node.type === "CallExpression" ? nameOf(node.callee) : undefined
      if (kind !== "dataset" && kind !== "report") continue
      const [schema, name] = node.arguments as ReadonlyArray<Node>
      // A struct of this file, of schemas/rows.ts, or of any other file with a struct of that name.
      const find = (wanted: string) =>
        declared.get(wanted) ?? all.get("schemas/rows.ts")?.get(wanted) ?? [...all.values()].flatMap((each) => each.get(wanted) ?? [])[0]
      const struct = find(nameOf(schema) ?? "")
      if (struct !== undefined)
        found.set(`${kind}:${String(name?.value)}`, { file, meaning: struct.meaning, fields: fieldsOf(struct, find) })
    }
  return found
}
