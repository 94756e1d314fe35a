/** Sources as syntax trees, with their docstrings. */
import { readdirSync, readFileSync } from "node:fs"
import { parseAst } from "rolldown/parseAst"

export interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly [key: string]: unknown
}
export interface Source {
  /** Relative to the repository's root. */
  readonly file: string
  readonly text: string
  readonly program: Node
}

const root = new URL("../../", import.meta.url)

export const sourceOf = (file: string, text: string): Source => ({ file, text, program: parseAst(text, { lang: "ts" }) as unknown as Node })

/** The TypeScript files of folders whose text matches a pattern. */
export const sourcesWith = (folders: ReadonlyArray<string>, pattern: RegExp): ReadonlyArray<Source> =>
  folders.flatMap((folder) =>
    readdirSync(new URL(`${folder}/`, root), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .sort()
      .flatMap((name) => {
        const file = `${folder}/${name}`
        const text = readFileSync(new URL(file, root), "utf8")
        return pattern.test(text) ? [sourceOf(file, text)] : []
      })
  )

export const isNode = (value: unknown): value is Node =>
  typeof value === "object" && value !== null && typeof (value as Node).type === "string"

export const walk = (node: Node, visit: (node: Node) => void): void => {
  visit(node)
  for (const value of Object.values(node)) for (const child of Array.isArray(value) ? value : [value]) if (isNode(child)) walk(child, visit)
}

/** The name of an identifier; of `a.b`, "b". */
export const nameOf = (node: unknown): string | undefined =>
  isNode(node)
    ? node.type === "Identifier"
      ? (node.name as string)
      : node.type === "MemberExpression"
        ? nameOf(node.property)
        : undefined
    : undefined

/** The docstring that ends where something begins, as one paragraph; "" if there is none. */
export const docstringBefore = (text: string, start: number): string => {
  const comment = /\/\*\*((?:[^*]|\*(?!\/))*)\*\/\s*(?:export\s*)?$/.exec(text.slice(0, start))?.[1] ?? ""
  return comment
    .replaceAll(/^\s*\*/gm, "")
    .replaceAll(/\s+/g, " ")
    .trim()
}
