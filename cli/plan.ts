/** `caravan plan`: what a run would do. */
import * as Effect from "effect/Effect"
import type { Plan, PlannedNode } from "../runtime/plan.ts"
import { plan } from "../runtime/run.ts"
import { type Command, exitCodes } from "./command.ts"
import { engineNumerics } from "./numerics.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "./pipeline-file.ts"

/** What the plan says of a node, in words. */
export const reasonOf = (node: PlannedNode): string => {
  switch (node.kind) {
    case "file":
      return node.path
    case "hit":
      return "in the store"
    case "run":
      return node.why.join("; ")
    case "unknown":
      return `depends on ${node.until.join(", ")}${node.why.length > 0 && node.why[0] !== "it has never run here" ? `; ${node.why.join("; ")}` : ""}`
  }
}

const statusOf = { file: "file", hit: "hit", run: "run", unknown: "run?" } as const

const table = (made: Plan & { readonly selected: ReadonlySet<string> | undefined }): string => {
  const nodes = [...made.nodes.values()]
  const width = Math.max(...nodes.map((node) => node.id.length))
  const lines = nodes.map(
    (node) =>
      `${statusOf[node.kind].padEnd(4)}  ${node.id.padEnd(width)}  ${made.selected === undefined || made.selected.has(node.id) || node.kind === "file" ? reasonOf(node) : "not selected"}`
  )
  const count = (kind: PlannedNode["kind"]) => nodes.filter((node) => node.kind === kind).length
  return [
    ...lines,
    `${count("hit")} in the store, ${count("run")} to run, ${count("unknown")} that depend on those (run?: found after all if their inputs come out as before).`
  ].join("\n")
}

export const command: Command = {
  name: "plan",
  summary: "Shows which nodes a run would find in the store and which it would make, and why. Runs nothing.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    only: { value: "node", help: "as for run" },
    from: { value: "node", help: "as for run" },
    until: { value: "node", help: "as for run" },
    force: { value: "node", help: "as for run", repeatable: true },
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan plan pipelines/hh-rlhf.ts --set data=pairs.jsonl.gz",
    "caravan plan pipelines/hh-rlhf.ts --set data=pairs.jsonl.gz --set sft.epochs=3"
  ],
  more: describeParameters,
  run: async (given) => {
    const pipeline = await loadPipeline(given.positionals[0]!)
    const options = pipelineOptions(given)
    const selection = Object.fromEntries(
      (["only", "from", "until"] as const).flatMap((name) => (given.flag(name) === undefined ? [] : [[name, given.flag(name)!]]))
    )
    const made = await Effect.runPromise(
      plan(pipeline, {}, { ...options, ...selection, force: given.flags("force") }).pipe(Effect.provide(engineNumerics(options.home)))
    )
    const document = {
      pipeline: pipeline.name,
      nodes: [...made.nodes.values()]
        .filter((node) => node.kind !== "file")
        .map((node) => ({
          id: node.id,
          stage: node.stage,
          status: node.kind,
          key: "key" in node ? node.key : null,
          why: node.kind === "hit" ? [] : node.why,
          ...(node.kind === "unknown" ? { until: node.until } : {})
        }))
    }
    process.stdout.write(given.has("json") ? `${JSON.stringify(document, undefined, 2)}\n` : `${table(made)}\n`)
    return exitCodes.ok
  }
}
