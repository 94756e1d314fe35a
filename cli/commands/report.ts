/** `caravan report`: a one-page report on a run of any pipeline. */
import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { hasResults, latestWithResults, resolveRun } from "../../runtime/inspect/resolve.ts"
import { statusOf } from "../../runtime/store/asked.ts"
import { findHome } from "../../runtime/store/home.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { count, shortRun, size } from "../display/units.ts"
import { targetOf, writeFolder } from "../export/target.ts"
import { print, withStore } from "../open-store.ts"
import { tell } from "../output.ts"

const fileName = "report.html"

/** The named run, otherwise the latest that made results. Says if another run is probably meant. */
const reportedRun = Effect.fnUntraced(function* (name: string | undefined) {
  const latest = yield* latestWithResults
  if (name === undefined) {
    if (latest === undefined)
      return yield* Effect.fail(
        new UsageError("No run here has made results yet. `caravan runs` lists the runs, `caravan show latest` the last one.")
      )
    const { after, run } = latest
    if (after.length > 0)
      tell(
        `Using run ${shortRun(run.id)}, the latest that made results. ${after.length === 1 ? "A later run" : `${after.length} later runs`} made none: caravan show ${shortRun(after[0]!.id)}\n`
      )
    return run
  }
  const run = yield* resolveRun(name)
  if (!hasResults(run) && latest !== undefined)
    tell(
      `Run ${shortRun(run.id)} made no results (${yield* statusOf(run)}: caravan show ${shortRun(run.id)}). The latest run that did: caravan report ${shortRun(latest.run.id)}\n`
    )
  return run
})

export const command: Command = {
  name: "report",
  summary:
    "Writes one self-contained HTML page about a run: settings, times and cost, training curves, figures and tables of everything its stages reported, dialogues and a summary in words; each figure is also saved as SVG with its data as CSV. Works for any pipeline, and for failed runs. Without a name, it uses the latest run that succeeded or made results. Exit codes: 0 done, 1 writing failed (full disk), 2 wrong arguments.",
  positionals: ["[run]"],
  flags: {
    to: { value: "folder", help: "the folder to write, new or empty (default: report-<pipeline>-<run>)" },
    dialogues: { value: "number", help: "number of prompts shown with each version's answer (default: 12)" },
    force: { help: "replace the folder and everything in it" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan report", "caravan report latest~1 --to ./last-week", "caravan report 1a2b3c4d --dialogues 40 --force"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const text = given.flag("dialogues") ?? "12"
        if (!/^\d{1,4}$/.test(text)) throw new UsageError(`--dialogues must be an integer from 0 to 9999, got "${text}".`)
        const run = yield* reportedRun(given.positionals[0])
        const to = given.flag("to") ?? `report-${run.pipeline.replaceAll(/[^\w-]+/g, "-")}-${shortRun(run.id)}`
        const target = targetOf(to, { doing: "Writing the report to", force: given.has("force"), kept: [findHome(process.cwd())] })
        const { gather } = yield* Effect.promise(() => import("../report/gather.ts"))
        const { contentOf } = yield* Effect.promise(() => import("../report/content.ts"))
        const gathered = yield* gather(run)
        const content = yield* contentOf(run, yield* statusOf(run), gathered, Number(text))
        const { page, figures } = yield* Effect.promise(() => content.draw())
        yield* Effect.promise(() =>
          writeFolder(target, async (folder) => {
            await writeFile(join(folder, fileName), page)
            if (figures.length > 0) await mkdir(join(folder, "figures"))
            for (const { csv, name, svg } of figures) {
              await writeFile(join(folder, "figures", `${name}.svg`), svg)
              await writeFile(join(folder, "figures", `${name}.csv`), csv)
            }
          })
        )
        const path = join(target.path, fileName)
        const bytes = Buffer.byteLength(page)
        print(
          given.has("json"),
          { run: run.id, pipeline: run.pipeline, page: path, bytes, sections: content.titles, figures: figures.map(({ name }) => name) },
          [
            `Report on run ${shortRun(run.id)} of ${run.pipeline}: ${size(bytes)}${figures.length === 0 ? "" : `, ${count(figures.length, "figure")} (also as SVG and CSV in figures/)`}.`,
            `Open it in a browser: file://${path}`
          ]
        )
        return exitCodes.ok
      })
    )
}
