/** `caravan ui`: the live page over every run. */
import { randomBytes } from "node:crypto"
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import * as Effect from "effect/Effect"
import { findHome, whyNoHome } from "../../runtime/store/home.ts"
import { type Command, exitCodes, UsageError, wholeNumber } from "../command.ts"
import { write, writeJsonLine } from "../output.ts"

const highestPort = 65_535

export const command: Command = {
  name: "ui",
  summary:
    "Serves a page over every run of this folder's store, on this machine alone: runs as they go on, graphs, curves, logs, datasets, comparisons. Ctrl-C ends it; runs go on.",
  positionals: [],
  flags: {
    port: { value: "n", help: "the port to listen on (default: one that is free)" },
    "allow-control": { help: "let the page stop, resume, rerun, pin, note and label, for who has the token that is printed" },
    json: { help: 'print the address as one line of JSON, {"url": ...}; with --allow-control also "token"' }
  },
  examples: ["caravan ui", "caravan ui --port 8080", "caravan ui --allow-control"],
  run: async (given) => {
    const port = wholeNumber(given, "port", 0) ?? 0
    if (port > highestPort) throw new UsageError(`--port takes a whole number up to ${highestPort}, got "${port}".`)
    const home = findHome(process.cwd())
    const reason = whyNoHome(home)
    if (reason !== undefined) throw new UsageError(`There is no store at ${home}: ${reason}. Name the store's folder in CARAVAN_HOME.`)
    if (!existsSync(home))
      throw new UsageError(
        `There is no store at ${home}: nothing has run here yet. Run a pipeline, or name the store's folder in CARAVAN_HOME.`
      )
    const [{ addressOf, serveUi }, { builtPage }] = await Promise.all([import("../ui/server.ts"), import("../ui/build-page.ts")])
    const page = builtPage()
    const { version } = createRequire(import.meta.url)("caravan/package.json") as { readonly version: string }
    const token = given.has("allow-control") ? randomBytes(24).toString("base64url") : undefined
    const serving = Effect.gen(function* () {
      const url = yield* addressOf
      if (given.has("json")) writeJsonLine({ url, ...(token === undefined ? {} : { token }) })
      else {
        // Behind #, it is sent to no server and stands in no log.
        write(`${url}${token === undefined ? "" : `#/?token=${token}`}\nThe store is ${home}. Press Ctrl-C to end; runs go on.\n`)
        if (token !== undefined) write("Who has this address may stop and begin runs, pin, note and label.\n")
      }
      return yield* Effect.never
    }).pipe(Effect.provide(serveUi({ home, port, version, page, token })))
    await untilStopped(serving, port)
    return exitCodes.ok
  }
}

/** Until a signal ends it. */
const untilStopped = async (serving: Effect.Effect<never, unknown>, port: number): Promise<void> => {
  const stop = new AbortController()
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => stop.abort())
  try {
    await Effect.runPromise(serving, { signal: stop.signal })
  } catch (cause) {
    if (stop.signal.aborted) return
    throw (cause as { readonly cause?: { readonly code?: string } }).cause?.code === "EADDRINUSE" || /EADDRINUSE/.test(String(cause))
      ? new UsageError(`Listening on port ${port}: it is in use. Give another --port, or none for one that is free.`)
      : cause
  }
}
