/** `caravan log`: what a node said while it ran. */
import { existsSync, readFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { StringDecoder } from "node:string_decoder"
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { storeError } from "../../runtime/errors.ts"
import { resolveRun } from "../../runtime/inspect/history.ts"
import { logPath } from "../../runtime/run/node-log.ts"
import { statusOf } from "../../runtime/store/asked.ts"
import type { PastRun } from "../../runtime/store/executions.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { write } from "../output.ts"
import { shortRun } from "../display/units.ts"

/** Prints what is in a log, and what comes, until the run ends. */
const follow = (path: string, run: PastRun) =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const attempt = <A>(body: () => Promise<A>) =>
      Effect.tryPromise({ try: body, catch: storeError((reason) => `Reading the log ${path}: ${reason}. Mend that, then ask again.`) })
    const file = yield* Effect.acquireRelease(
      attempt(() => open(path)),
      (opened) => Effect.promise(() => opened.close().catch(() => undefined))
    )
    // A character may come in two pieces.
    const decoder = new StringDecoder("utf8")
    for (let at = 0; ;) {
      // Asked before reading: what was written until then is read below.
      const running = (yield* statusOf((yield* journal.runsLike(run.id))[0]!)) === "running"
      const { size } = yield* attempt(() => file.stat())
      if (size > at) {
        const bytes = Buffer.alloc(size - at)
        at += (yield* attempt(() => file.read(bytes, 0, bytes.length, at))).bytesRead
        write(decoder.write(bytes))
      } else if (!running) return
      else yield* Effect.sleep("250 millis")
    }
  }).pipe(Effect.scoped)

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
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const { home } = yield* Store
        const node = given.positionals[0]!
        const wanted = given.flag("run")
        const runs = wanted === undefined ? yield* journal.runs() : [yield* resolveRun(wanted)]
        const run = runs.find(({ id }) => existsSync(logPath(home, id, node)))
        if (run === undefined) {
          const known = yield* journal.nodeNames()
          if (!known.includes(node)) return yield* Effect.fail(new UsageError(`No node "${node}" ever ran here.${didYouMean(node, known)}`))
          return yield* Effect.fail(
            new UsageError(
              wanted === undefined
                ? `There is no log of "${node}": gc deleted it, or the node ran before logs were kept.`
                : `Run ${shortRun(runs[0]!.id)} has no log of "${node}": it did not run there (\`caravan show ${shortRun(runs[0]!.id)}\`). Leave out --run for the latest run that ran it.`
            )
          )
        }
        const path = logPath(home, run.id, node)
        if (given.has("follow") && !given.has("json")) {
          yield* follow(path, run)
          return exitCodes.ok
        }
        const text = readFileSync(path, "utf8").trimEnd()
        const lines = text.split("\n").map((line) => ({ time: line.slice(0, 24), text: line.slice(25) }))
        print(given.has("json"), { run: run.id, pipeline: run.pipeline, node, path, lines }, [text])
        return exitCodes.ok
      })
    )
}
