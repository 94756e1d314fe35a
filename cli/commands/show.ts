/** `caravan show`: one run. */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import { resolveRun } from "../../runtime/inspect/history.ts"
import { logPath } from "../../runtime/run/node-log.ts"
import { type Asked, askedOf, statusOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { type ToldOfSkipped, toldOfSkipped } from "../../runtime/store/sidecar.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { duration } from "../display/progress.ts"
import { skippedLines } from "../display/skipped.ts"
import { metrics, moment, short, shown, table } from "../display/units.ts"

const describeAsked = (asked: Asked): string =>
  [
    ...Object.entries(asked.params).map(([name, value]) => `${name}=${shown(value)}`),
    ...Object.entries(asked.settings).map(([name, value]) => `${name}=${value}`),
    ...Object.entries(asked.selection).map(([name, value]) => `--${name} ${[value].flat().join(", ")}`),
    `seed ${asked.seed}`,
    asked.device,
    `${asked.threads} thread${asked.threads === 1 ? "" : "s"}`
  ].join(", ")

const noneSkipped: ToldOfSkipped = { skipped: [], skippedRows: null }
/** The rows that could not be used when the result was made, while its trace is there. */
const skippedBy = Effect.fnUntraced(function* (key: string, digest: string) {
  const trace = yield* (yield* Journal).trace(key)
  return trace?.digest === digest ? toldOfSkipped(yield* Store, trace) : noneSkipped
})

export const command: Command = {
  name: "show",
  summary: "Shows one run: its settings and the outcome of each node.",
  positionals: ["<run>"],
  flags: { json: { help: "print one JSON document" } },
  examples: ["caravan show latest", "caravan show 1a2b3c4d", "caravan show latest~1 --json"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const store = yield* Store
        const run = yield* resolveRun(given.positionals[0]!)
        const asked = askedOf(run)
        const status = yield* statusOf(run)
        const nodes = yield* Effect.forEach(yield* journal.executionsOf(run.id), (execution) =>
          Effect.gen(function* () {
            const { node, stage, status: how, milliseconds, key, digest, error, parts } = execution
            const artifact = digest === null ? undefined : yield* journal.artifact(digest)
            const log = logPath(store.home, run.id, node)
            return {
              node,
              stage,
              status: how,
              milliseconds,
              // Not known of one that could not come so far.
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
        const outputs = Object.entries(asked?.outputs ?? {}).map(([name, id]) => {
          const node = nodes.findLast((found) => found.node === id)
          return { name, node: id, digest: node?.digest ?? null, path: node?.path ?? null }
        })
        print(given.has("json"), { ...run, status, nodes, outputs }, [
          `Run ${run.id} of ${run.pipeline}: ${status}`,
          `Started ${moment(run.started)}${run.finished === null ? "" : `, took ${duration(run.finished - run.started)}`}`,
          ...(asked === undefined ? [] : [`Asked for: ${describeAsked(asked)}`]),
          "Nodes:",
          ...table(
            nodes.map((node) => [
              node.status,
              node.node,
              node.status === "hit" || node.status === "skipped" ? "" : duration(node.milliseconds),
              node.digest === null ? "" : short(node.digest),
              node.error ?? metrics(node.metrics)
            ]),
            "  "
          ),
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
