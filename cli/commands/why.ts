/** `caravan why`: explains everything that determines whether a node runs. */
import * as Effect from "effect/Effect"
import { nearestNode, nodeNamed } from "../../runtime/define/graph.ts"
import { plan } from "../../runtime/run/plan.ts"
import type { Since } from "../../runtime/run/changes.ts"
import { type Asked, askedOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import type { Generation, PastBlessing } from "../../runtime/store/traces.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { write, writeJson } from "../output.ts"
import { layer } from "../../caravan.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "../pipeline-file.ts"
import { slurmOptions } from "../run-flags.ts"
import { reasonOf } from "./plan.ts"
import { showInputs } from "../display/reading.ts"
import { describeAsked } from "../display/asked.ts"
import { ago, count, short, shortRun } from "../display/units.ts"

/** Earlier results of a node that was rerun with --force, oldest first, and how the current one was blessed. */
interface Past {
  readonly generations: ReadonlyArray<Generation>
  readonly blessings: ReadonlyArray<PastBlessing>
}

/** "  blessed 2 days ago: made under the key 0123456789ab, before stages/x.ts changed" */
const blessingLines = (blessings: Past["blessings"], current: string): Array<string> =>
  blessings
    .filter(({ digest }) => digest === current)
    .map(
      ({ at, changes, from, key }) =>
        `  blessed ${ago(at)}: made ${from === key ? "" : `under the key ${short(from)}, `}before this changed: ${changes.join(", ")}`
    )

/** "  compared with run 1a2b3c4d, 2 days ago (times=2, seed 0, cpu, 1 thread), ..." */
const comparisonLine = (since: Since, asked: Asked | undefined): string =>
  `  compared with run ${shortRun(since.run)}, ${ago(since.at)}${asked === undefined ? "" : ` (${describeAsked(asked)})`}${since.isLatest ? "" : ", whose result has the fewest differences"}`

/** "It was made 3 times; before: 0123456789ab (2 days ago), ..." */
const generationLine = (generations: Past["generations"], current: string | undefined): Array<string> => {
  if (generations.length === 0) return []
  const distinct = new Set([...generations.map(({ digest }) => digest), ...(current === undefined ? [] : [current])]).size
  const before = generations.slice(-shownGenerations).map(({ digest, made }) => `${short(digest)} (${ago(made)})`)
  const more = generations.length > shownGenerations ? `${generations.length - shownGenerations} more, ` : ""
  return [
    `  computed ${count(generations.length + 1, "time")} under this key (--force); earlier results: ${more}${before.join(", ")}${distinct > 1 ? "; they differ: caravan verify shows where" : ""}`
  ]
}
const shownGenerations = 5

export const command: Command = {
  name: "why",
  summary: "Explains why a node would or would not run: what changed since it last ran, traced back to the node where the change began.",
  positionals: ["<pipeline.ts>", "<node|output>"],
  flags: { ...pipelineFlags, json: { help: "print one JSON document" } },
  examples: ["caravan why pipelines/rlhf.ts helpfulness-reward --set preferences=pairs.jsonl.gz"],
  more: describeParameters,
  run: async (given) => {
    const [path, name] = given.positionals as [string, string]
    const pipeline = await loadPipeline(path)
    const options = pipelineOptions(given)
    const reading = showInputs()
    const { made, compared, generations, blessings } = await Effect.runPromise(
      Effect.gen(function* () {
        const made = yield* plan(pipeline, {}, { ...options, missing: "await", onEvent: reading.onEvent })
        const journal = yield* Journal
        const found = made.nodes.get(nodeNamed(made.graph, name) ?? "")
        const since = found !== undefined && "since" in found ? found.since : null
        const run = since === null ? undefined : yield* journal.runOf(since.run)
        const compared = { since, asked: run === undefined ? undefined : askedOf(run) }
        if (found === undefined || !("key" in found)) return { made, compared, generations: [], blessings: [] }
        return { made, compared, generations: yield* journal.generations(found.key), blessings: yield* journal.blessings(found.key) }
      }).pipe(Effect.provide(layer({ ...options, ...slurmOptions() })))
    ).finally(reading.close)
    const id = nodeNamed(made.graph, name)
    const node = id === undefined ? undefined : made.nodes.get(id)
    if (node === undefined)
      throw new UsageError(
        `Pipeline "${pipeline.name}" has no node or output "${name}".${nearestNode(name, [...made.nodes.keys(), ...Object.keys(made.graph.outputs)])}`
      )
    // Follow unsettled inputs back to where the change began.
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
    if (given.has("json")) writeJson({ node: node.id, chain, parts: parts ?? null, since: compared.since, generations, blessings })
    else {
      const verb = {
        file: "is a file",
        awaited: "is a file that does not exist yet",
        hit: "is in the store",
        run: "would run",
        unknown: "would run unless its inputs do not change"
      }[node.kind]
      const lines = [
        `${node.id} ${verb}: ${reasonOf(node)}`,
        ...(compared.since === null ? [] : [comparisonLine(compared.since, compared.asked)]),
        ...chain.slice(1).map((step) => `  because of ${step.id}: ${step.why}`),
        ...(node.kind === "hit" ? blessingLines(blessings, node.trace.digest) : []),
        ...generationLine(generations, node.kind === "hit" ? node.trace.digest : undefined)
      ]
      write(`${lines.join("\n")}\n`)
    }
    return exitCodes.ok
  }
}
