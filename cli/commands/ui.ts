/** `caravan ui`: serves the web page on all runs. */
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
    "Serves a web page on all runs of this folder's store, on localhost only: live runs, graphs, curves, logs, datasets, comparisons. Ctrl-C stops the server; runs continue.",
  positionals: [],
  flags: {
    port: { value: "n", help: "the port to listen on (default: a free port)" },
    "allow-control": { help: "let the page stop, resume, rerun, pin, add notes and label, for anyone with the printed token" },
    json: { help: 'print the address as one line of JSON, {"url": ...}; with --allow-control also "token"' }
  },
  examples: ["caravan ui", "caravan ui --port 8080", "caravan ui --allow-control"],
  run: async (given) => {
    const port = wholeNumber(given, "port", 0) ?? 0
    if (port > highestPort) throw new UsageError(`--port must be an integer up to ${highestPort}, got "${port}".`)
    const home = findHome(process.cwd())
    const reason = whyNoHome(home)
    if (reason !== undefined) throw new UsageError(`There is no store at ${home}: ${reason}. Set CARAVAN_HOME to the store's folder.`)
    if (!existsSync(home))
      throw new UsageError(
        `There is no store at ${home}: nothing has run here yet. Run a pipeline, or set CARAVAN_HOME to the store's folder.`
      )
    const [{ addressOf, serveUi }, { builtPage }] = await Promise.all([import("../ui/server.ts"), import("../ui/build-page.ts")])
    const page = builtPage()
    const { version } = createRequire(import.meta.url)("caravan/package.json") as { readonly version: string }
    const token = given.has("allow-control") ? randomBytes(24).toString("base64url") : undefined
    const serving = Effect.gen(function* () {
      const url = yield* addressOf
      if (given.has("json")) writeJsonLine({ url, ...(token === undefined ? {} : { token }) })
      else {
        // The part after # is not sent to servers and appears in no log.
        write(
          `${url}${token === undefined ? "" : `#/?token=${token}`}\nThe store is ${home}. Press Ctrl-C to stop the server; runs continue.\n`
        )
        if (token !== undefined) write("Anyone with this address can stop and start runs, pin, add notes and label.\n")
      }
      return yield* Effect.never
    }).pipe(Effect.provide(serveUi({ home, port, version, page, token })))
    await untilStopped(serving, port)
    return exitCodes.ok
  }
}

/** Runs until a signal stops it. */
const untilStopped = async (serving: Effect.Effect<never, unknown>, port: number): Promise<void> => {
  const stop = new AbortController()
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => stop.abort())
  try {
    await Effect.runPromise(serving, { signal: stop.signal })
  } catch (cause) {
    if (stop.signal.aborted) return
    throw (cause as { readonly cause?: { readonly code?: string } }).cause?.code === "EADDRINUSE" || /EADDRINUSE/.test(String(cause))
      ? new UsageError(`Listening on port ${port}: the port is in use. Choose another --port, or omit it to use a free port.`)
      : cause
  }
}
