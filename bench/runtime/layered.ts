/**
 * The graph that every system runs: layers of nodes, each of which concatenates two nodes of the previous layer; the first layer concatenates
 * two source files. All contents differ, so that no system can reuse a result for another node, and sizes double from layer to layer (32 bytes to
 * 16 KiB with ten layers).
 */
import { createHash } from "node:crypto"
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

export const layers = 10
const sources = 64

export interface LayeredNode {
  /** "n-<layer>-<index>" */
  readonly name: string
  /** Names of nodes, or of source files for the first layer. */
  readonly inputs: readonly [string, string]
}

/** `count` nodes in ten layers. */
export const layered = (count: number): Array<LayeredNode> => {
  const width = Math.ceil(count / layers)
  if (width > sources * sources) throw new RangeError(`${count} nodes: at most ${sources * sources * layers}, or contents would repeat`)
  return Array.from({ length: count }, (_, n) => {
    const [layer, i] = [Math.floor(n / width), n % width]
    return {
      name: `n-${layer}-${i}`,
      inputs:
        layer === 0
          ? [`s-${i % sources}`, `s-${Math.floor(i / sources)}`]
          : [`n-${layer - 1}-${i}`, `n-${layer - 1}-${(i * 7 + layer) % width}`]
    }
  })
}

/** Nodes without dependents. */
export const ends = (nodes: ReadonlyArray<LayeredNode>): Array<string> => {
  const taken = new Set(nodes.flatMap((node) => node.inputs))
  return nodes.map((node) => node.name).filter((name) => !taken.has(name))
}

/** Writes the source files, 16 bytes each, and the graph for each peer. */
export const prepare = (folder: string, count: number): void => {
  const nodes = layered(count)
  mkdirSync(join(folder, "sources"), { recursive: true })
  mkdirSync(join(folder, "out"), { recursive: true })
  for (let i = 0; i < sources; i++) writeFileSync(join(folder, "sources", `s-${i}`), `source ${String(i).padStart(8, "0")}\n`)
  const file = (name: string) => (name.startsWith("s-") ? `sources/${name}` : `out/${name}`)
  const last = ends(nodes).map(file)
  const rules = nodes.map(({ name, inputs }) => ({ target: file(name), needs: inputs.map(file) }))
  writeFileSync(
    join(folder, "Makefile"),
    `all: ${last.join(" ")}\n${rules.map(({ target, needs }) => `${target}: ${needs.join(" ")}\n\tcat ${needs.join(" ")} > $@\n`).join("")}`
  )
  writeFileSync(
    join(folder, "build.ninja"),
    `rule cat\n  command = cat $in > $out\n${rules.map(({ target, needs }) => `build ${target}: cat ${needs.join(" ")}\n`).join("")}`
  )
  writeFileSync(
    join(folder, "Snakefile"),
    [
      `rule all:\n    input: ${JSON.stringify(last)}\n`,
      ...rules.map(
        ({ target, needs }, i) =>
          `rule r${i}:\n    input: a=${JSON.stringify(needs[0])}, b=${JSON.stringify(needs[1])}\n    output: ${JSON.stringify(target)}\n    shell: "cat {input.a} {input.b} > {output}"\n`
      )
    ].join("\n")
  )
}

/** A digest of the contents of the graph's end nodes in a peer's folder. */
export const digestOfEnds = (folder: string, count: number): string => {
  const hash = createHash("sha256")
  for (const name of ends(layered(count)).sort()) hash.update(readFileSync(join(folder, "out", name)))
  return hash.digest("hex")
}
