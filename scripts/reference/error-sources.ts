/** Error classes and their messages, extracted from the sources. */
import { docstringBefore, isNode, nameOf, type Node, type Source, sourcesWith, walk } from "./source.ts"

export interface ErrorClass {
  readonly name: string
  readonly file: string
  /** Its docstring, as one paragraph. */
  readonly meaning: string
  /** Whether a stage that fails with it is tried again: "no" and "yes" of the class, "says so" if each error decides itself. */
  readonly retried: "yes" | "no" | "says so"
}
export interface ErrorMessage {
  readonly name: string
  /** Of a StageError. */
  readonly reason: string | undefined
  /** With `<names>` as placeholders for values. */
  readonly message: string
}

const layers = ["cli", "data", "engine", "models", "runtime", "schemas", "stages"]

/** The placeholder for a value without a name. */
const unnamed = "<…>"

/** "the file <path>" of `the file ${path}`. */
const textOf = (node: unknown): string => {
  if (!isNode(node)) return unnamed
  switch (node.type) {
    case "Literal":
      return String(node.value)
    case "TemplateLiteral": {
      const texts = (node.quasis as ReadonlyArray<{ value: { cooked: string } }>).map(({ value }) => value.cooked)
      return (node.expressions as ReadonlyArray<Node>).reduce((text, expression, i) => text + textOf(expression) + texts[i + 1]!, texts[0]!)
    }
    case "BinaryExpression":
      // A sum of numbers: `${i + 1}`.
      if (isNode(node.right) && node.right.type === "Literal" && typeof node.right.value === "number") return textOf(node.left)
      return node.operator === "+" ? textOf(node.left) + textOf(node.right) : unnamed
    case "CallExpression": {
      const [first] = node.arguments as ReadonlyArray<Node>
      const name = nameOf(node.callee)
      return name === "stringify" ? `"${textOf(first)}"` : name === "String" || name === "messageOf" ? textOf(first) : unnamed
    }
    default: {
      const name = nameOf(node)
      if (name === "length" || name === "size") return "<n>"
      return name === undefined ? unnamed : `<${name}>`
    }
  }
}

const fieldsOf = (node: unknown): ReadonlyMap<string, Node> =>
  new Map(
    isNode(node) && node.type === "ObjectExpression"
      ? (node.properties as ReadonlyArray<Node>).flatMap((property) => {
          const name = nameOf(property.key)
          return name === undefined || !isNode(property.value) ? [] : [[name, property.value] as const]
        })
      : []
  )

/** On one line, with one placeholder where several adjoin. */
const sentence = (text: string) =>
  text
    .replaceAll(/\s+/g, " ")
    .replaceAll(/(<…>){2,}/g, "<…>")
    .replaceAll(/(<n>){2,}/g, "<n>")
    .trim()

const messageOf = ([first, second]: ReadonlyArray<Node>): string | undefined => {
  const fields = fieldsOf(first)
  const [doing, expected, found, hint] = ["doing", "expected", "found", "hint"].map((name) => fields.get(name))
  if (doing !== undefined && hint !== undefined)
    return `${textOf(doing)}: expected ${textOf(expected)}, found ${textOf(found)}. ${textOf(hint)}`
  if (first?.type === "ObjectExpression") return fields.has("message") ? textOf(fields.get("message")) : undefined
  // A row's field and what is wrong with it, an operator and what it got.
  return first === undefined ? undefined : second === undefined || !isText(second) ? textOf(first) : `${textOf(first)}: ${textOf(second)}`
}
const isText = (node: Node) => node.type === "TemplateLiteral" || (node.type === "Literal" && typeof node.value === "string")

/** A message with its own words, not only another error's message. */
const hasWords = (message: string) => /[A-Za-z]{2}/.test(message.replaceAll(/<[\w…]+>/g, ""))

const ownSources = () => sourcesWith(layers, /Error|BadRow|BadLabel|LeftOut|\bfail(ed|ure)?\(|UnsupportedTokenizer|httpApiStatus/)

export const errorSources = (
  sources: ReadonlyArray<Source> = ownSources()
): { readonly classes: ReadonlyArray<ErrorClass>; readonly messages: ReadonlyArray<ErrorMessage> } => {
  const classes: Array<ErrorClass> = []
  for (const { file, program, text } of sources)
    walk(program, (node) => {
      if (node.type !== "ClassDeclaration" || node.superClass === null) return
      const heading = text.slice((node.superClass as Node).start, (node.superClass as Node).end)
      if (!/^(Error$|ExplainedError|Schema\.TaggedError)/.test(heading)) return
      const body = text.slice(node.start, node.end)
      const own = /isRetryable = (true|false)/.exec(body)?.[1]
      classes.push({
        name: nameOf(node.id)!,
        file,
        meaning: docstringBefore(text, node.start),
        retried:
          own === "true"
            ? "yes"
            : own === "false"
              ? "no"
              : /isRetryable/.test(heading) || heading.startsWith("ExplainedError")
                ? "says so"
                : "no"
      })
    })
  const names = new Set(classes.map(({ name }) => name))
  const messages: Array<ErrorMessage> = []
  for (const { file, program } of sources)
    walk(program, (node) => {
      // The helpers of runtime/cluster/ that make a StageError: (reason, message).
      if (file.startsWith("runtime/cluster/") && node.type === "CallExpression" && /^fail(ed|ure)?$/.test(nameOf(node.callee) ?? "")) {
        const [reason, message] = node.arguments as ReadonlyArray<Node>
        if (reason?.type === "Literal" && message !== undefined)
          messages.push({ name: "StageError", reason: String(reason.value), message: sentence(textOf(message)) })
      }
      const callee = node.callee as Node | undefined
      const name =
        node.type === "NewExpression"
          ? nameOf(callee)
          : node.type === "CallExpression" && callee?.type === "MemberExpression" && nameOf(callee.property) === "of"
            ? nameOf(callee.object)
            : undefined
      if (name === undefined || !names.has(name)) return
      const [argument, ...more] = node.arguments as ReadonlyArray<Node>
      // A class's own `of` builds the message from its arguments; it is found there.
      if (node.type === "CallExpression" && argument?.type !== "ObjectExpression") return
      const message = messageOf(argument === undefined ? [] : [argument, ...more])
      const reason = fieldsOf(argument).get("reason")
      if (message !== undefined && hasWords(message))
        messages.push({ name, reason: reason?.type === "Literal" ? String(reason.value) : undefined, message: sentence(message) })
    })
  return { classes, messages }
}
