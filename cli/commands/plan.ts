/** `caravan plan`: shows what a run would do. */
import { resolve } from "node:path"
import * as Effect from "effect/Effect"
import { dependencies, type Settings } from "../../runtime/define/graph.ts"
import { describeMissing, missingInputs } from "../../runtime/run/missing-inputs.ts"
import { plan, type Plan, type PlannedNode } from "../../runtime/run/plan.ts"
import type { Since } from "../../runtime/run/changes.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes } from "../command.ts"
import { tell, write, writeJson } from "../output.ts"
import { costFlags, costMachine, costOfPlan, totalCost } from "../cost.ts"
import { costTable, statedAssumptions } from "../display/cost-table.ts"
import { shortRun, size } from "../display/units.ts"
import { diskLines, memoryTable } from "../display/memory-table.ts"
import { freeBytes } from "../disk.ts"
import { findHome } from "../../runtime/store/home.ts"
import { layer } from "../../caravan.ts"
import { showInputs } from "../display/reading.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions, selectionOf } from "../pipeline-file.ts"
import { slurmOptions } from "../run-flags.ts"

/** " (pinned v3; code has drifted: stages/x.ts)" */
const pinOf = ({ drift, parts: { pinned } }: Extract<PlannedNode, { kind: "hit" }>): string =>
  pinned === undefined ? "" : ` (pinned ${pinned}${drift.length > 0 ? `; code has drifted: ${drift.join(", ")}` : ""})`

/** " (compared with run 1a2b3c4d)", unless that is the node's latest result. */
const comparison = (since: Since | null): string => (since === null || since.isLatest ? "" : ` (compared with run ${shortRun(since.run)})`)

/** The plan's reason for a node, in words. */
export const reasonOf = (node: PlannedNode): string => {
  switch (node.kind) {
    case "file":
      return node.path
    case "awaited":
      return `${node.path} does not exist yet`
    case "hit":
      return `in the store${pinOf(node)}${node.isModified ? "; its files were modified after it was made: a run checks them first" : ""}`
    case "run":
      return `${node.why.join("; ")}${comparison(node.since)}`
    case "unknown":
      return `depends on ${node.until.join(", ")}${node.why.length > 0 && node.why[0] !== "it has never run here" ? `; ${node.why.join("; ")}${comparison(node.since)}` : ""}`
  }
}

/** A line about pinned results that were made with different code, if there are any. */
export const drifting = (nodes: Iterable<PlannedNode>): Array<string> => {
  const ids = [...nodes].flatMap((node) => (node.kind === "hit" && node.drift.length > 0 ? [node.id] : []))
  return ids.length === 0
    ? []
    : [
        `Pinned, but the code has changed since they were made: ${ids.join(", ")}. \`caravan bless\` accepts the new code; run --locked fails until then.`
      ]
}

const statusOf = { file: "file", awaited: "wait", hit: "hit", run: "run", unknown: "run?" } as const

const table = (made: Plan & { readonly selected: ReadonlySet<string> | undefined }): string => {
  const nodes = [...made.nodes.values()]
  const width = Math.max(...nodes.map((node) => node.id.length))
  const lines = nodes.map(
    (node) =>
      `${statusOf[node.kind].padEnd(4)}  ${node.id.padEnd(width)}  ${made.selected === undefined || made.selected.has(node.id) || node.kind === "file" || node.kind === "awaited" ? reasonOf(node) : "not selected"}`
  )
  const count = (kind: PlannedNode["kind"]) => nodes.filter((node) => node.kind === kind).length
  return [
    ...lines,
    ...drifting(nodes),
    `${count("hit")} in the store, ${count("run")} to run, ${count("unknown")} that depend on those (run?: reused if their inputs do not change).`,
    ...(count("awaited") === 0
      ? []
      : [
          `${count("awaited")} awaited: input files that a run needs and that do not exist. Check their paths, or create them before the run.`
        ])
  ].join("\n")
}

/** For a pinned node: its version, and the files that have drifted, if known. */
const pinDocument = (made: Plan, node: PlannedNode): object => {
  const planned = made.graph.nodes.get(node.id)
  if (planned?.kind !== "stage" || planned.stage.pinned === undefined) return {}
  return { pinned: planned.stage.pinned, drift: node.kind === "hit" ? node.drift : null }
}

/** Bytes of the checkpoint that a node would make; null if unknown. */
const artifactOf = (bytes: number | undefined): object => (bytes === undefined ? {} : { artifactBytes: Number.isNaN(bytes) ? null : bytes })

/** The files that a run would download from the Hub. */
const downloadsOf = ({ graph, nodes }: Plan): ReadonlyArray<{ readonly name: string; readonly bytes: number }> => {
  const read = new Set([...graph.nodes.values()].flatMap((node) => (nodes.get(node.id)!.kind === "hit" ? [] : dependencies(node))))
  return [...graph.nodes.values()].flatMap((node) =>
    node.kind === "file" && node.remote !== undefined && read.has(node.id) && node.remote.missing() > 0
      ? [{ name: node.remote.pinned, bytes: node.remote.missing() }]
      : []
  )
}

/** Whether --set named this path. A missing file at a default path may come later; one that was just typed is probably a mistake. */
const isGiven = (path: string, settings: Settings): boolean => Object.values(settings).some((text) => resolve(text) === path)

export const command: Command = {
  name: "plan",
  summary:
    "Shows which results a run would reuse and which nodes it would run, and why, with an estimate of the cost: whether it fits on the GPU, memory by part, disk, tokens, FLOPs, GPU-hours, energy and carbon. Runs nothing, needs no GPU, and input files may still be missing; if --set names a file that does not exist, the plan is printed and the exit code is 2. From the Hugging Face Hub it downloads only file lists and config.json.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    only: { value: "node", help: "as for run" },
    from: { value: "node", help: "as for run" },
    until: { value: "node", help: "as for run" },
    force: { value: "node", help: "as for run", repeatable: true },
    ...costFlags,
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan plan pipelines/rlhf.ts --set preferences=pairs.jsonl.gz",
    "caravan plan pipelines/rlhf.ts --set preferences=pairs.jsonl.gz --set sft.epochs=3",
    "caravan plan pipelines/rlhf.ts --set model=hf:meta-llama/Llama-3.2-1B --set preferences=hf:datasets/me/pairs",
    "caravan plan pipelines/llama2-chat.ts --set model=70b --gpu h100 --mfu 0.45"
  ],
  more: describeParameters,
  run: async (given) => {
    const pipeline = await loadPipeline(given.positionals[0]!)
    const options = pipelineOptions(given)
    // Report wrong flags before reading anything.
    costMachine(given)
    const reading = showInputs()
    const [made, pathOf] = await Effect.runPromise(
      Effect.all([
        plan(pipeline, {}, { ...options, ...selectionOf(given), force: given.flags("force"), missing: "await", onEvent: reading.onEvent }),
        Store.useSync(({ path }) => path)
      ]).pipe(Effect.provide(layer({ ...options, ...slurmOptions() })))
    ).finally(reading.close)
    const machine = costMachine(given, made.facts.numerics)
    const cost = await costOfPlan(made, machine, pathOf)
    const free = freeBytes(findHome(process.cwd()))
    const document = {
      pipeline: pipeline.name,
      nodes: [...made.nodes.values()].flatMap((node) =>
        node.kind === "file" || node.kind === "awaited"
          ? []
          : [
              {
                id: node.id,
                stage: node.stage,
                status: node.kind,
                key: "key" in node ? node.key : null,
                why: node.kind === "hit" ? [] : node.why,
                since: node.kind === "hit" ? null : node.since,
                ...pinDocument(made, node),
                ...(node.kind === "unknown" ? { until: node.until } : {}),
                cost: cost.nodes.get(node.id) ?? null,
                ...artifactOf(cost.artifacts.get(node.id))
              }
            ]
      ),
      awaited: [...made.nodes.values()].flatMap((node) => (node.kind === "awaited" ? [{ id: node.id, path: node.path }] : [])),
      downloads: downloadsOf(made),
      cost: { ...machine, total: totalCost(cost), freeDisk: free ?? null, assumptions: statedAssumptions(machine) }
    }
    const downloads = downloadsOf(made).map(({ bytes, name }) => `A run will download ${name}: ${size(bytes)}.`)
    const lines = [table(made), ...downloads, ...memoryTable(cost), ...diskLines(cost, free), ...costTable(cost)]
    if (given.has("json")) writeJson(document)
    else write(`${lines.join("\n")}\n`)
    const wrong = missingInputs(made.graph, made.selected).filter(({ path }) => isGiven(path, options.settings ?? {}))
    for (const node of wrong) tell(`${describeMissing(node)}\n`)
    return wrong.length === 0 ? exitCodes.ok : exitCodes.usage
  }
}
