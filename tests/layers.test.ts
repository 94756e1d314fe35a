/** The import rules: the layers and folders of docs/architecture.md, and no cycles. Types and dynamic imports count. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, normalize } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))
const architecture = readFileSync(join(root, "docs/architecture.md"), "utf8")

/** Folders and files that may import anything: nothing depends on them. */
const outermost = ["cli", "exports", "index.ts", "caravan.ts", "tests", "scripts", "bench", "vitest.config.ts"]

/** The table of layers: layer -> the layers that it may import. */
const layers = new Map(
  [...architecture.matchAll(/^\| ([a-z]+) \| ([a-z, ]+) \|$/gm)]
    .map(([, layer, imports]): [string, Array<string>] => [layer!, imports === "nothing of ours" ? [] : imports!.split(", ")])
    .filter(([layer]) => layer !== "layer")
)
/** The lines "runtime: define < key < store": the folders of a layer, each of which may import those before it. */
const orders = new Map(
  [...architecture.matchAll(/^(\w+): ((?:[\w-]+ < )+[\w-]+)$/gm)].map(([, layer, list]): [string, Array<string>] => [
    layer!,
    list!.split(" < ")
  ])
)

const sources = readdirSync(root, { withFileTypes: true })
  .filter(({ name }) => !/^(\.|node_modules$|dist$|coverage$)/.test(name))
  .flatMap((entry) =>
    entry.isDirectory()
      ? readdirSync(join(root, entry.name), { recursive: true, encoding: "utf8" }).map((path) => `${entry.name}/${path}`)
      : [entry.name]
  )
  .filter((file) => /\.(ts|tsx|mjs|mts)$/.test(file) && !/(^|\/)(node_modules|dist)\/|^ui\/tests\//.test(file))

/** The relative imports of a module, as files: static, re-exported, dynamic, `typeof import(...)`. */
const importsOf = (file: string, text: string): Array<string> =>
  [...text.matchAll(/\b(?:from|import|require)\s*\(?\s*["'](\.[^"'\n]*)["']/g)].map(([, path]) => normalize(join(dirname(file), path!)))

const layerOf = (file: string) => file.split("/")[0]!
/** The folder of a file within its layer; undefined for a file directly in the layer's folder. */
const folderOf = (file: string) => file.split("/").slice(1, -1)[0]

/** Why a file may not import another; undefined if it may. */
const objection = (file: string, target: string): string | undefined => {
  const [from, to] = [layerOf(file), layerOf(target)]
  if (target.startsWith("data/world/") && !/^(data\/|stages\/world\/|bench\/|tests\/)/.test(file))
    return "only the small world's stages may"
  if (from !== to) return layers.has(from) && !layers.get(from)!.includes(to) ? `${from} may not import ${to}` : undefined
  const order = orders.get(from)
  if (order === undefined) return undefined
  const [folder, other] = [folderOf(file), folderOf(target)]
  if (other === undefined || folder === other) return undefined
  if (folder === undefined) return `files directly in ${from}/ may not import its folders`
  return order.indexOf(other) < order.indexOf(folder) ? undefined : `${folder} may not import ${other}`
}
const violations = (file: string, text: string): Array<string> =>
  importsOf(file, text).flatMap((target) => {
    const why = objection(file, target)
    return why === undefined ? [] : [`${file} imports ${target}: ${why}`]
  })

/** Import cycles: the strongly connected components of more than one file (Tarjan 1972). */
const cyclesOf = (imports: ReadonlyMap<string, ReadonlyArray<string>>): Array<Array<string>> => {
  const [index, low, stack, found] = [new Map<string, number>(), new Map<string, number>(), [] as Array<string>, [] as Array<Array<string>>]
  const visit = (file: string) => {
    index.set(file, index.size)
    low.set(file, index.get(file)!)
    stack.push(file)
    for (const next of imports.get(file) ?? []) {
      if (!index.has(next)) visit(next)
      if (stack.includes(next)) low.set(file, Math.min(low.get(file)!, low.get(next)!))
    }
    if (low.get(file) !== index.get(file)) return
    const component = stack.splice(stack.indexOf(file))
    if (component.length > 1) found.push(component.sort())
  }
  for (const file of imports.keys()) if (!index.has(file)) visit(file)
  return found
}

const texts = new Map(sources.map((file) => [file, readFileSync(join(root, file), "utf8")]))

describe("the layers of docs/architecture.md", () => {
  it("have a row for every folder with sources that is not outermost", () => {
    const unknown = sources.map(layerOf).filter((layer) => !layers.has(layer) && !outermost.includes(layer))
    expect([...new Set(unknown)]).toEqual([])
    expect(layers.get("runtime")).toEqual(["schemas"])
  })

  it("list every folder in their order", () => {
    const unlisted = [...orders].flatMap(([layer, order]) => {
      const existing = sources.filter((file) => layerOf(file) === layer).flatMap((file) => folderOf(file) ?? [])
      return [...new Set([...existing, ...order])].filter((folder) => !order.includes(folder) || !existing.includes(folder))
    })
    expect(unlisted).toEqual([])
    expect([...orders.keys()].sort()).toEqual(["runtime", "stages"])
  })

  it("import only what the table and the order of folders allow", () => {
    expect([...texts].flatMap(([file, text]) => violations(file, text))).toEqual([])
  })

  it("have no import cycles", () => {
    const known = new Map([...texts].map(([file, text]) => [file, importsOf(file, text).filter((target) => texts.has(target))]))
    expect(cyclesOf(known)).toEqual([])
  })

  it("detect a runtime that imports the engine in any form", () => {
    const forms = [
      `import { tensor } from "../../engine/tensor.ts"`,
      `import type { Tensor } from '../../engine/tensor.ts'`,
      `export * from "../../engine/tensor.ts"`,
      `import {\n  tensor\n} from "../../engine/tensor.ts"`,
      `const engine = await import("../../engine/tensor.ts")`,
      `type Engine = typeof import("../../engine/tensor.ts")`,
      `const engine = require("../../engine/tensor.ts")`
    ]
    for (const form of forms)
      expect(violations("runtime/run/run.ts", form)).toEqual(["runtime/run/run.ts imports engine/tensor.ts: runtime may not import engine"])
  })

  it("detect an import in the wrong direction, the small world in a general stage, and a cycle", () => {
    expect(violations("runtime/store/store.ts", `import "../run/run.ts"`)).toHaveLength(1)
    expect(violations("runtime/run/run.ts", `import "../store/store.ts"`)).toEqual([])
    expect(violations("runtime/errors.ts", `import "./run/run.ts"`)).toHaveLength(1)
    expect(violations("stages/data/mix.ts", `import "../../data/world/oracle.ts"`)).toHaveLength(1)
    expect(violations("stages/world/world.ts", `import "../../data/world/oracle.ts"`)).toEqual([])
    expect(violations("cli/commands/run.ts", `import "../../data/world/oracle.ts"`)).toHaveLength(1)
    const cycle = new Map([
      ["a", ["b", "d"]],
      ["b", ["c"]],
      ["c", ["a"]],
      ["d", []]
    ])
    expect(cyclesOf(cycle)).toEqual([["a", "b", "c"]])
  })
})
