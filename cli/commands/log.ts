/** `caravan log`: a node's log. */
import { existsSync, readFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { StringDecoder } from "node:string_decoder"
import * as Effect from "effect/Effect"
import { storeError } from "../../runtime/errors.ts"
import { isRun, nodeIn, resolveRun, resolveRunOrNode } from "../../runtime/inspect/resolve.ts"
import { logPath } from "../../runtime/run/node-log.ts"
import { statusOf } from "../../runtime/store/asked.ts"
import type { PastRun } from "../../runtime/store/executions.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print, withStore } from "../open-store.ts"
import { write } from "../output.ts"
import { shortRun } from "../display/units.ts"

/** Prints the log's content, then new lines until the run ends. */
const follow = (path: string, run: PastRun) =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const attempt = <A>(body: () => Promise<A>) =>
      Effect.tryPromise({ try: body, catch: storeError((reason) => `Reading the log ${path}: ${reason}. Fix that and try again.`) })
    const file = yield* Effect.acquireRelease(
      attempt(() => open(path)),
      (opened) => Effect.promise(() => opened.close().catch(() => undefined))
    )
    // A multi-byte character may be split between two reads.
    const decoder = new StringDecoder("utf8")
    for (let at = 0; ;) {
      // Checked before reading, so that everything written until then is read below.
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
  summary:
    "Prints the log of a node, from the latest run that ran it or from a given run (latest~1:sft): when and why it started, its steps, its output and how it ended.",
  positionals: ["<node|output>"],
  flags: {
    run: { value: "run", help: "print the log from this run" },
    follow: { help: "keep printing until the run ends" },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan log sft", "caravan log sft --follow", "caravan log latest~1:sft"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const journal = yield* Journal
        const { home } = yield* Store
        const text = given.positionals[0]!
        const colon = text.indexOf(":")
        // "latest:sft" is the same as "sft" with --run latest.
        const ofRun = colon > 0 && isRun(text.slice(0, colon)) && !(yield* journal.nodeNames()).includes(text)
        const name = ofRun ? text.slice(colon + 1) : text
        const wanted = ofRun ? text.slice(0, colon) : given.flag("run")
        const runs = wanted === undefined ? yield* journal.runs() : [yield* resolveRun(wanted)]
        /** The log of a node or output in the first of these runs that has one. */
        const logOf = (some: ReadonlyArray<PastRun>, named: string) => {
          for (const run of some)
            for (const node of new Set([named, nodeIn(run, named, [])])) if (existsSync(logPath(home, run.id, node))) return { run, node }
          return undefined
        }
        let found = logOf(runs, name)
        if (found === undefined) {
          const { node, run } = yield* resolveRunOrNode(wanted === undefined ? name : `${wanted}:${name}`)
          if (node === undefined)
            return yield* Effect.fail(new UsageError(`"${text}" is a run. Name one of its nodes: ${shortRun(run.id)}:<node>.`))
          found = logOf(wanted === undefined ? runs.filter(({ pipeline }) => pipeline === run.pipeline) : [run], node)
          if (found === undefined)
            return yield* Effect.fail(
              new UsageError(
                wanted === undefined
                  ? `There is no log of "${node}": ${(yield* journal.lastOfNode(node, ["ran", "failed"])).length > 0 ? "gc has deleted it" : `it has never run here (\`caravan show ${shortRun(run.id)}\`)`}.`
                  : `Run ${shortRun(run.id)} has no log of "${node}": it did not run there (\`caravan show ${shortRun(run.id)}\`). Omit the run to get the latest run that ran it.`
              )
            )
        }
        const { node, run } = found
        const path = logPath(home, run.id, node)
        if (given.has("follow") && !given.has("json")) {
          yield* follow(path, run)
          return exitCodes.ok
        }
        const content = readFileSync(path, "utf8").trimEnd()
        const lines = content.split("\n").map((line) => ({ time: line.slice(0, 24), text: line.slice(25) }))
        print(given.has("json"), { run: run.id, pipeline: run.pipeline, node, path, lines }, [content])
        return exitCodes.ok
      })
    )
}
