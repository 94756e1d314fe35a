/** `caravan log`: what a node said while it ran. */
import { existsSync, readFileSync, statSync } from "node:fs"
import { open } from "node:fs/promises"
import { setTimeout as sleep } from "node:timers/promises"
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { resolveRun, statusOf } from "../../runtime/inspect/history.ts"
import type { RunRecord } from "../../runtime/store/journal.ts"
import { logPath } from "../../runtime/inspect/node-log.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { type Opened, print, withStore } from "../open-store.ts"
import { shortRun } from "../display/units.ts"

const follow = async (path: string, run: RunRecord, { journal, store }: Opened): Promise<void> => {
  const file = await open(path)
  try {
    for (let at = 0; ;) {
      // Asked before reading: what was written until then is read below.
      const running = statusOf(journal.runsLike(run.id)[0]!, store.leases()) === "running"
      const { size } = statSync(path)
      if (size > at) {
        const bytes = Buffer.alloc(size - at)
        at += (await file.read(bytes, 0, bytes.length, at)).bytesRead
        process.stdout.write(bytes)
      } else if (!running) return
      else await sleep(250)
    }
  } finally {
    await file.close()
  }
}

export const command: Command = {
  name: "log",
  summary: "Prints a node's log from the latest run that ran it: when and why it started, its steps, its output and how it ended.",
  positionals: ["<node>"],
  flags: {
    run: { value: "run", help: "take the log from this run" },
    follow: { help: "keep printing until the run ends" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan log sft", "caravan log sft --follow", "caravan log sft --run latest~1"],
  run: (given) =>
    withStore(async (opened) => {
      const { home, journal } = opened
      const node = given.positionals[0]!
      const wanted = given.flag("run")
      const runs = wanted === undefined ? journal.runs() : [await Effect.runPromise(resolveRun(wanted, journal))]
      const run = runs.find(({ id }) => existsSync(logPath(home, id, node)))
      if (run === undefined) {
        const known = journal.nodeNames()
        if (!known.includes(node)) throw new UsageError(`No node "${node}" ever ran here.${didYouMean(node, known)}`)
        throw new UsageError(
          wanted === undefined
            ? `There is no log of "${node}": gc deleted it, or the node ran before logs were kept.`
            : `Run ${shortRun(runs[0]!.id)} has no log of "${node}": it did not run there (\`caravan show ${shortRun(runs[0]!.id)}\`). Leave out --run for the latest run that ran it.`
        )
      }
      const path = logPath(home, run.id, node)
      if (given.has("follow") && !given.has("json")) {
        await follow(path, run, opened)
        return exitCodes.ok
      }
      const text = readFileSync(path, "utf8").trimEnd()
      const lines = text.split("\n").map((line) => ({ time: line.slice(0, 24), text: line.slice(25) }))
      print(given.has("json"), { run: run.id, pipeline: run.pipeline, node, path, lines }, [text])
      return exitCodes.ok
    })
}
