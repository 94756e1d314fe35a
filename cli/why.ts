/** `caravan why`: everything that decides whether a node runs. */
import * as Effect from "effect/Effect"
import { plan } from "../runtime/run.ts"
import { didYouMean } from "../schemas/did-you-mean.ts"
import { type Command, exitCodes, UsageError } from "./command.ts"
import { engineNumerics } from "./numerics.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "./pipeline-file.ts"
import { reasonOf } from "./plan.ts"

export const command: Command = {
  name: "why",
  summary: "Says why a node would run, or would not: what changed since it last did, back to the node where the change began.",
  positionals: ["<pipeline.ts>", "<node>"],
  flags: { ...pipelineFlags, json: { help: "print one JSON document" } },
  examples: ["caravan why pipelines/hh-rlhf.ts reward-model --set data=pairs.jsonl.gz"],
  more: describeParameters,
  run: async (given) => {
    const [path, id] = given.positionals as [string, string]
    const pipeline = await loadPipeline(path)
    const options = pipelineOptions(given)
    const made = await Effect.runPromise(
      plan(pipeline, {}, { ...options, missing: "await" }).pipe(Effect.provide(engineNumerics(options.home)))
    )
    const node = made.nodes.get(id)
    if (node === undefined) throw new UsageError(`Pipeline "${pipeline.name}" has no node "${id}".${didYouMean(id, made.nodes.keys())}`)
    // Back along what is not settled yet, to where the change began.
    const chain: Array<{ readonly id: string; readonly status: string; readonly why: string }> = []
    const seen = new Set<string>()
    const open = [node.id]
    for (let next = open.shift(); next !== undefined; next = open.shift()) {
      if (seen.has(next)) continue
      seen.add(next)
      const step = made.nodes.get(next)!
      chain.push({ id: step.id, status: step.kind, why: reasonOf(step) })
      if (step.kind === "unknown") open.push(...step.until)
    }
    const parts = "parts" in node ? node.parts : undefined
    if (given.has("json")) process.stdout.write(`${JSON.stringify({ node: id, chain, parts: parts ?? null }, undefined, 2)}\n`)
    else {
      const verb = {
        file: "is a file",
        awaited: "is a file that is not there yet",
        hit: "is in the store",
        run: "would run",
        unknown: "would run unless its inputs come out as before"
      }[node.kind]
      const lines = [`${id} ${verb}: ${reasonOf(node)}`, ...chain.slice(1).map((step) => `  because of ${step.id}: ${step.why}`)]
      process.stdout.write(`${lines.join("\n")}\n`)
    }
    return exitCodes.ok
  }
}
