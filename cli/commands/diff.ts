/** `caravan diff`: the differences between two runs. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { storeError } from "../../runtime/errors.ts"
import { type Change, compareRuns, type NodeDifference } from "../../runtime/inspect/history.ts"
import { resolveRunOrNode } from "../../runtime/inspect/resolve.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { describeDamage, findDamage } from "../../runtime/inspect/damage.ts"
import { allDifferences } from "../../schemas/difference.ts"
import { type Command, exitCodes, type Given } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { count, short, shortRun } from "../display/units.ts"

/** Maximum number of report fields listed. */
const shownFields = 10

const text = (value: unknown): string => (value === null ? "nothing" : JSON.stringify(value))
/** Abbreviates digests to their first characters. */
const brief = (value: unknown): string =>
  typeof value === "string" ? short(value) : Array.isArray(value) ? `[${value.map(brief).join(", ")}]` : "nothing"
/** "4.1.0 -> 4.2.0" for a package, the path for a file. */
const codeLine = ({ what, before, after }: Change): string => {
  const at = what.lastIndexOf("node_modules/")
  if (at === -1 || /\.[a-z]+$/.test(what)) return `code: ${what}${before === null ? " (new)" : after === null ? " (removed)" : ""}`
  const [from, to] = [before, after].map((entry) => (entry as string | null)?.split(" ")[0] ?? "none")
  return `code: ${what.slice(at + "node_modules/".length)} ${from} -> ${to}`
}

/** Field-by-field changes in a report, if both versions still exist. */
export const reportDifferences = Effect.fnUntraced(function* ({ output }: NodeDifference) {
  const [journal, store] = [yield* Journal, yield* Store]
  if (output === null || output.before === null || output.after === null) return []
  const [before, after] = [output.before as string, output.after as string]
  if ((yield* journal.artifact(after))?.type.startsWith("report:") !== true) return []
  const read = (digest: string) =>
    Effect.tryPromise({
      try: async () => JSON.parse(await readFile(join(store.path(digest), "report.json"), "utf8")) as unknown,
      catch: storeError((reason) => `Reading the report ${store.path(digest)}: ${reason}. Fix that and try again.`)
    })
  if (!(yield* store.present(before)) || !(yield* store.present(after))) return []
  for (const digest of [before, after]) {
    const damage = yield* findDamage(digest)
    if (damage !== undefined) return [`can't be compared: ${describeDamage(`the report in ${store.path(digest)}`, damage)}`]
  }
  return allDifferences(yield* read(before), yield* read(after))
})

const nodeLines = (node: NodeDifference, report: ReadonlyArray<string>): Array<string> => {
  const lines = [
    ...(node.stage === null ? [] : [`stage: ${text(node.stage.before)} -> ${text(node.stage.after)}`]),
    ...node.config.map(({ what, before, after }) => `config ${what}: ${text(before)} -> ${text(after)}`),
    ...(node.seed === null ? [] : [`seed: ${text(node.seed.before)} -> ${text(node.seed.after)}`]),
    ...node.code.map(codeLine),
    ...node.numerics.map(({ what, before, after }) => `numerics ${what}: ${text(before)} -> ${text(after)}`),
    ...node.inputs.map(({ what, before, after }) => `input ${what}: ${brief(before)} -> ${brief(after)}`),
    ...(node.status === null ? [] : [`status: ${text(node.status.before)} -> ${text(node.status.after)}`]),
    ...node.metrics.map(({ what, before, after }) => `metric ${what}: ${text(before)} -> ${text(after)}`),
    ...(node.output === null ? [] : [`output: ${brief(node.output.before)} -> ${brief(node.output.after)}`]),
    ...report.slice(0, shownFields).map((line) => `report ${line}`),
    ...(report.length > shownFields ? [`report: ${report.length - shownFields} more fields`] : [])
  ]
  const title = node.only === null ? node.node : `${node.node}: only in the run ${node.only === "before" ? "before" : "after"}`
  return [title, ...lines.map((line) => `  ${line}`)]
}

const run = Effect.fnUntraced(function* (given: Given) {
  const [first, second] = given.positionals as [string, string]
  const [left, right] = [yield* resolveRunOrNode(first), yield* resolveRunOrNode(second)]
  const [before, after] = [left.run, right.run]
  const node = left.node ?? right.node
  const difference = yield* compareRuns(
    before,
    after,
    node === undefined ? undefined : { before: left.node ?? node, after: right.node ?? node }
  )
  const nodes = yield* Effect.forEach(difference.nodes, (node) => Effect.map(reportDifferences(node), (report) => ({ ...node, report })))
  print(given.has("json"), { ...difference, nodes }, [
    `${shortRun(before.id)} (${before.pipeline}) -> ${shortRun(after.id)} (${after.pipeline})`,
    ...difference.asked.map(({ what, before: was, after: is }) => `option ${what}: ${text(was)} -> ${text(is)}`),
    ...nodes.flatMap((node) => nodeLines(node, node.report)),
    nodes.length === 0
      ? `No difference in ${count(difference.same, "node")}.`
      : `${count(nodes.length, "node")} differ${nodes.length === 1 ? "s" : ""}, ${difference.same} ${difference.same === 1 ? "is" : "are"} the same.`
  ])
  return exitCodes.ok
})

export const command: Command = {
  name: "diff",
  summary:
    "Compares two runs, or one node in two runs: config, seed, code, numerics, inputs, metrics and outputs. A run is latest, latest~1 or a prefix of its id. latest:sft is a node of a run; a node or output name alone means its last execution.",
  positionals: ["<run|node>", "<run|node>"],
  flags: { json: { help: "print one JSON document" } },
  examples: ["caravan diff latest~1 latest", "caravan diff latest~1:sft latest:sft", "caravan diff 1a2b3c4d 5e6f7a8b --json"],
  run: (given) => withStore(run(given))
}
