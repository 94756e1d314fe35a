/** `caravan diff`: how two runs differ. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { type Change, compareRuns, type NodeDifference, resolveRun } from "../../runtime/inspect/history.ts"
import type { Journal } from "../../runtime/store/journal.ts"
import type { Store } from "../../runtime/store/store.ts"
import { allDifferences } from "../../schemas/difference.ts"
import { type Command, exitCodes } from "../command.ts"
import { type Opened, print, withStore } from "../open-store.ts"
import { count, short, shortRun } from "../display/units.ts"

/** How many fields of a report are named, at most. */
const shownFields = 10

const text = (value: unknown): string => (value === null ? "nothing" : JSON.stringify(value))
/** Digests by their beginning. */
const brief = (value: unknown): string =>
  typeof value === "string" ? short(value) : Array.isArray(value) ? `[${value.map(brief).join(", ")}]` : "nothing"
/** "4.1.0" of a package, "changed" of a file. */
const codeLine = ({ what, before, after }: Change): string => {
  const at = what.lastIndexOf("node_modules/")
  if (at === -1 || /\.[a-z]+$/.test(what)) return `code: ${what}${before === null ? " (new)" : after === null ? " (gone)" : ""}`
  const [from, to] = [before, after].map((entry) => (entry as string | null)?.split(" ")[0] ?? "none")
  return `code: ${what.slice(at + "node_modules/".length)} ${from} -> ${to}`
}

/** What changed in a report, field by field, when both are still there. */
const reportDifferences = async ({ output }: NodeDifference, journal: Journal, store: Store): Promise<Array<string>> => {
  if (output === null || output.before === null || output.after === null) return []
  const [before, after] = [output.before as string, output.after as string]
  if (journal.artifact(after)?.type.startsWith("report:") !== true) return []
  const read = async (digest: string): Promise<unknown> => {
    const path = join(store.path(digest), "report.json")
    return JSON.parse(await readFile(path, "utf8")) as unknown
  }
  if (!store.present(before) || !store.present(after)) return []
  return allDifferences(await read(before), await read(after))
}

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

const run = async (given: Parameters<Command["run"]>[0], { journal, store }: Opened): Promise<number> => {
  const [first, second] = given.positionals as [string, string]
  const [before, after] = [await Effect.runPromise(resolveRun(first, journal)), await Effect.runPromise(resolveRun(second, journal))]
  const difference = compareRuns(before, after, journal)
  const nodes = await Promise.all(
    difference.nodes.map(async (node) => ({ ...node, report: await reportDifferences(node, journal, store) }))
  )
  print(given.has("json"), { ...difference, nodes }, [
    `${shortRun(before.id)} (${before.pipeline}) -> ${shortRun(after.id)} (${after.pipeline})`,
    ...difference.asked.map(({ what, before: was, after: is }) => `asked for ${what}: ${text(was)} -> ${text(is)}`),
    ...nodes.flatMap((node) => nodeLines(node, node.report)),
    nodes.length === 0
      ? `No difference in ${count(difference.same, "node")}.`
      : `${count(nodes.length, "node")} differ${nodes.length === 1 ? "s" : ""}, ${difference.same} ${difference.same === 1 ? "is" : "are"} the same.`
  ])
  return exitCodes.ok
}

export const command: Command = {
  name: "diff",
  summary: "Compares two runs, node by node: config, seed, code, numerics, inputs, metrics and outputs.",
  positionals: ["<run>", "<run>"],
  flags: { json: { help: "print one JSON document" } },
  examples: ["caravan diff latest~1 latest", "caravan diff 1a2b3c4d 5e6f7a8b --json"],
  run: (given) => withStore((opened) => run(given, opened))
}
