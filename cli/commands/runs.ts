/** `caravan runs`: lists past runs. */
import * as Effect from "effect/Effect"
import { statusOf } from "../../runtime/store/asked.ts"
import type { PastRun } from "../../runtime/store/executions.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { type Command, exitCodes, wholeNumber } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { duration } from "../display/progress.ts"
import { moment, shortRun, table } from "../display/units.ts"

/** "12 ran, 3 hit". */
export const nodeCounts = (run: PastRun): string =>
  (["failed", "ran", "fetched", "hit"] as const)
    .flatMap((status) => ((run.nodes[status] ?? 0) > 0 ? [`${run.nodes[status]} ${status}`] : []))
    .join(", ")

export const command: Command = {
  name: "runs",
  summary: "Lists past runs, latest first.",
  positionals: [],
  flags: {
    pipeline: { value: "name", help: "only runs of this pipeline" },
    limit: { value: "n", help: "how many runs to list (default: 20)" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan runs", "caravan runs --pipeline rlhf --limit 5"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const limit = wholeNumber(given, "limit", 1) ?? 20
        const found = yield* Effect.forEach(yield* journal.runs({ pipeline: given.flag("pipeline"), limit }), (run) =>
          Effect.map(statusOf(run), (status) => ({ ...run, status }))
        )
        const lines = found.map((run) => [
          shortRun(run.id),
          run.status,
          moment(run.started),
          run.finished === null ? "" : duration(run.finished - run.started),
          run.pipeline,
          nodeCounts(run)
        ])
        print(given.has("json"), { runs: found }, lines.length === 0 ? ["No runs found."] : table(lines))
        return exitCodes.ok
      })
    )
}
