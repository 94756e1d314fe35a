/** `caravan show`: one run, or one node. */
import { existsSync, readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { resolveRunOrNode } from "../../runtime/inspect/resolve.ts"
import { loggedNodes, logPath } from "../../runtime/run/node-log.ts"
import type { KeyParts } from "../../runtime/key/cache-key.ts"
import { askedOf, statusOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { type SkippedReport, skippedReport } from "../../runtime/store/sidecar.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { duration } from "../display/progress.ts"
import { describeAsked } from "../display/asked.ts"
import { skippedLines } from "../display/skipped.ts"
import { metrics, moment, short, shown, table } from "../display/units.ts"

const noneSkipped: SkippedReport = { skipped: [], skippedRows: null }
/** Rows that were skipped when the result was made, if its trace still exists. */
const skippedBy = Effect.fnUntraced(function* (key: string, digest: string) {
  const trace = yield* (yield* Journal).trace(key)
  return trace?.digest === digest ? skippedReport(yield* Store, trace) : noneSkipped
})

/** A node that started in a run and did not end: only its log exists. */
const unfinished = (node: string, status: string, log: string) => {
  const step = readFileSync(log, "utf8")
    .split("\n")
    .findLast((line) => /^\S+ step /.test(line))
  return {
    ...noneSkipped,
    node,
    stage: null,
    status: ["running", "killed"].includes(status) ? status : "interrupted",
    milliseconds: null,
    key: null,
    digest: null,
    type: null,
    metrics: {},
    path: null,
    log,
    error: step === undefined ? null : `last reported: ${step.slice(step.indexOf(" ") + 1)}`,
    parts: null
  }
}

/** More details for a node that was named on the command line. */
const details = ({ log, parts, path }: { readonly log: string | null; readonly parts: KeyParts | null; readonly path: string | null }) => [
  ...(parts === null
    ? []
    : [
        "Config:",
        ...table(
          Object.entries(parts.config).map(([name, value]) => [name, shown(value)]),
          "  "
        )
      ]),
  ...(path === null ? [] : [`Result: ${path}`]),
  ...(log === null ? [] : [`Log: ${log}`])
]

export const command: Command = {
  name: "show",
  summary:
    "Shows one run: its settings and the outcome of each node; or one node: also its config, result and log. A run is latest, latest~1 or a prefix of its id. Name a node or output alone (its last run) or with a run (latest~1:sft).",
  positionals: ["<run|node>"],
  flags: { json: { help: "print one JSON document" } },
  examples: ["caravan show latest", "caravan show 1a2b3c4d", "caravan show sft", "caravan show latest~1 --json"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const store = yield* Store
        const { run, node: only } = yield* resolveRunOrNode(given.positionals[0]!)
        const asked = askedOf(run)
        const status = yield* statusOf(run)
        const executions = yield* journal.executionsOf(run.id)
        const isShown = (node: string) => only === undefined || node === only
        const settled = yield* Effect.forEach(
          executions.filter(({ node }) => isShown(node)),
          (execution) =>
            Effect.gen(function* () {
              const { node, stage, status: how, milliseconds, key, digest, error, parts } = execution
              const artifact = digest === null ? undefined : yield* journal.artifact(digest)
              const log = logPath(store.home, run.id, node)
              return {
                node,
                stage,
                status: how,
                milliseconds,
                // Unknown for a node that failed before its key was computed.
                key: key === "" ? null : key,
                digest,
                type: artifact?.type ?? null,
                metrics: artifact?.metrics ?? {},
                ...(digest === null ? noneSkipped : yield* skippedBy(key, digest)),
                path: digest !== null && (yield* store.present(digest)) ? store.path(digest) : null,
                log: existsSync(log) ? log : null,
                error,
                parts
              }
            })
        )
        const known = new Set(executions.map(({ node }) => node))
        const open = loggedNodes(store.home, run.id).filter((node) => !known.has(node) && isShown(node))
        const nodes = [...settled, ...open.map((node) => unfinished(node, status, logPath(store.home, run.id, node)))]
        const outputs = Object.entries(asked?.outputs ?? {}).flatMap(([name, id]) => {
          if (!isShown(id)) return []
          const node = nodes.findLast((found) => found.node === id)
          return [{ name, node: id, digest: node?.digest ?? null, path: node?.path ?? null }]
        })
        print(given.has("json"), { ...run, status, nodes, outputs }, [
          `Run ${run.id} of ${run.pipeline}: ${status}`,
          `Started ${moment(run.started)}${run.finished === null ? "" : `, took ${duration(run.finished - run.started)}`}`,
          ...(run.error === null ? [] : [`Error: ${run.error}`]),
          ...(asked === undefined ? [] : [`Options: ${describeAsked(asked)}`]),
          "Nodes:",
          ...table(
            nodes.map((node) => [
              node.status,
              node.node,
              node.status === "hit" || node.status === "skipped" || node.milliseconds === null ? "" : duration(node.milliseconds),
              node.digest === null ? "" : short(node.digest),
              node.error ?? metrics(node.metrics)
            ]),
            "  "
          ),
          ...(only === undefined ? [] : nodes.flatMap(details)),
          ...(open.length === 0 || status === "running"
            ? []
            : [
                "Run the same command again to continue: finished results are reused, and a stage with checkpoints resumes from its last one."
              ]),
          ...nodes.flatMap((node) => skippedLines(node).map((line) => `  ${node.node}: ${line}`)),
          ...(outputs.length === 0
            ? []
            : [
                "Outputs:",
                ...table(
                  outputs.map(({ name, digest, path }) => [
                    name,
                    path ?? (digest === null ? "none" : `${short(digest)}, no longer in the store`)
                  ]),
                  "  "
                )
              ])
        ])
        return exitCodes.ok
      })
    )
}
