import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, normalize } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))

/** Folders that may import anything: nothing is built on them. */
const outermost = ["cli", "index.ts", "tests", "scripts", "bench", "vitest.config.ts"]

/** The table of docs/architecture.md: layer -> the layers that it may import. */
const layers = new Map(
  [...readFileSync(join(root, "docs/architecture.md"), "utf8").matchAll(/^\| ([a-z]+) \| ([a-z, ]+) \|$/gm)]
    .map(([, layer, imports]): [string, Array<string>] => [layer!, imports === "nothing of ours" ? [] : imports!.split(", ")])
    .filter(([layer]) => layer !== "layer")
)

const sources = readdirSync(root, { recursive: true, encoding: "utf8", withFileTypes: true })
  .filter((entry) => entry.isFile() && /\.(ts|mjs|mts)$/.test(entry.name))
  .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
  .filter((file) => !/^(node_modules|dist|coverage|\.)/.test(file))

/** The relative imports of a module, types' too: static, re-exported, dynamic, `typeof import(...)`. */
const importsOf = (text: string): Array<string> =>
  [...text.matchAll(/\b(?:from|import|require)\s*\(?\s*["'](\.[^"'\n]*)["']/g)].map((match) => match[1]!)

const layerOf = (file: string) => file.split("/")[0]!

/** "schemas/x.ts imports runtime/y.ts", for each import that runs against the table. */
const violations = (file: string, text: string): Array<string> => {
  const allowed = layers.get(layerOf(file))
  if (allowed === undefined) return []
  return importsOf(text)
    .map((specifier) => normalize(join(dirname(file), specifier)))
    .filter((target) => layerOf(target) !== layerOf(file) && !allowed.includes(layerOf(target)))
    .map((target) => `${file} imports ${target}`)
}

describe("the layers of docs/architecture.md", () => {
  it("have a row for every folder with sources that is not outermost", () => {
    const unknown = sources.map(layerOf).filter((layer) => !layers.has(layer) && !outermost.includes(layer))
    expect([...new Set(unknown)]).toEqual([])
    expect(layers.get("runtime")).toEqual(["schemas"])
  })

  it("import only what the table allows", () => {
    expect(sources.flatMap((file) => violations(file, readFileSync(join(root, file), "utf8")))).toEqual([])
  })

  it("would be broken by a runtime that imports the engine in any form", () => {
    const forms = [
      `import { tensor } from "../engine/tensor.ts"`,
      `import type { Tensor } from '../engine/tensor.ts'`,
      `export * from "../engine/tensor.ts"`,
      `import {\n  tensor\n} from "../engine/tensor.ts"`,
      `const engine = await import("../engine/tensor.ts")`,
      `type Engine = typeof import("../engine/tensor.ts")`,
      `const engine = require("../engine/tensor.ts")`
    ]
    for (const form of forms) expect(violations("runtime/run/run.ts", form)).toEqual(["runtime/run/run.ts imports engine/tensor.ts"])
  })
})
