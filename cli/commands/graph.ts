/** `caravan graph`: prints a pipeline's nodes and edges. */
import * as Effect from "effect/Effect"
import { buildGraph, dependencies, type Graph } from "../../runtime/define/graph.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { visibleJson } from "../../schemas/visible.ts"
import { write } from "../output.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "../pipeline-file.ts"

const nodesOf = (graph: Graph) => [...graph.nodes.values()]

const text = (graph: Graph): string =>
  [
    ...nodesOf(graph).map(
      (node) =>
        `${node.id}${node.kind === "file" ? ` (${node.path})` : node.id === node.stage.name ? "" : ` (${node.stage.name})`}${dependencies(node).length > 0 ? ` <- ${dependencies(node).join(", ")}` : ""}`
    ),
    "",
    ...Object.entries(graph.outputs).map(([name, id]) => `output ${name} = ${id}`)
  ].join("\n")

/** A name as a Mermaid label. */
const label = (name: string): string => `"${name.replaceAll('"', "#quot;").replaceAll("\n", " ")}"`

const mermaid = (graph: Graph): string => {
  const names = new Map(nodesOf(graph).map((node, i) => [node.id, `n${i}`]))
  return [
    "graph LR",
    ...nodesOf(graph).map((node) => `  ${names.get(node.id)}${node.kind === "file" ? `[/${label(node.id)}/]` : `[${label(node.id)}]`}`),
    ...nodesOf(graph).flatMap((node) => [...new Set(dependencies(node))].map((from) => `  ${names.get(from)} --> ${names.get(node.id)}`)),
    ...Object.entries(graph.outputs).map(([name, id], i) => `  ${names.get(id)} --> o${i}([${label(name)}])`)
  ].join("\n")
}

const json = (graph: Graph): string =>
  visibleJson(
    {
      pipeline: graph.pipeline,
      nodes: nodesOf(graph).map((node) =>
        node.kind === "file"
          ? { id: node.id, kind: node.kind, path: node.path }
          : { id: node.id, kind: node.kind, stage: node.stage.name, type: node.type.name, config: node.config, inputs: node.inputs }
      ),
      outputs: graph.outputs
    },
    2
  )

export const command: Command = {
  name: "graph",
  summary: "Prints a pipeline's nodes and their inputs. Runs nothing.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    format: { value: "text|mermaid|json", help: "output format (default: text)" },
    json: { help: "the same as --format json" }
  },
  examples: [
    "caravan graph pipelines/rlhf.ts --set preferences=pairs.jsonl.gz",
    "caravan graph pipelines/rlhf.ts --set preferences=pairs.jsonl.gz --format mermaid"
  ],
  more: describeParameters,
  run: async (given) => {
    const pipeline = await loadPipeline(given.positionals[0]!)
    const options = pipelineOptions(given)
    const graph = await Effect.runPromise(buildGraph(pipeline, {}, { settings: options.settings ?? {}, seed: options.seed ?? 0 }))
    const format = given.has("json") ? "json" : (given.flag("format") ?? "text")
    const render = new Map(Object.entries({ text, mermaid, json })).get(format)
    if (render === undefined) throw new UsageError(`--format must be text, mermaid or json, got "${format}".`)
    write(`${render(graph)}\n`)
    return exitCodes.ok
  }
}
