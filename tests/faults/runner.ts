/**
 * A process that runs the fixture pipeline on request: a line of JSON on standard input is a run, and its events are printed as
 * lines of JSON on standard output, immediately, so that everything reported before a kill is known.
 */
import { openSync, writeSync } from "node:fs"
import { createInterface } from "node:readline"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { Numerics } from "../../runtime/key/numerics.ts"
import { messageOf } from "../../runtime/errors.ts"
import { layer } from "../../runtime/run/layer.ts"
import type { RunOptions } from "../../runtime/run/options.ts"
import { run } from "../../runtime/run/run.ts"
import pipeline from "./fixtures/pipeline.ts"
import type { Answer, Request } from "./harness.ts"

// Next to the run's files, so that a log of the calls shows what was reported when.
const marks = process.env.FAULTS_MARKS === undefined ? undefined : openSync(process.env.FAULTS_MARKS, "a")
const say = (answer: Answer) => {
  const line = `${JSON.stringify(answer)}\n`
  if (marks !== undefined) writeSync(marks, line)
  writeSync(1, line)
}

const serve = async ({ home, settings, options }: Request) => {
  const all: RunOptions = {
    settings,
    checkpointSeconds: 0,
    ...options,
    onEvent: (event) => {
      if (event.type === "node-finished" && event.node.status === "ran")
        say({ type: "finished", node: event.node.id, digest: event.node.digest! })
      if (event.type === "node-started") say({ type: "started", node: event.node })
      if (event.type === "progress" && typeof event.progress.step === "number")
        say({ type: "step", node: event.node, step: event.progress.step })
      if (event.type === "note") say({ type: "note", node: event.node, message: event.message })
    }
  }
  const numerics = Layer.succeed(Numerics, { describe: () => Effect.succeed({ libtorch: "none" }) })
  const exit = await Effect.runPromiseExit(run(pipeline, {}, all).pipe(Effect.provide(Layer.merge(layer({ home }), numerics))))
  if (Exit.isSuccess(exit)) {
    const { status, nodes } = exit.value
    say({
      type: "done",
      status,
      nodes: nodes.map(({ id, status, key, digest, error, metrics }) => ({ id, status, key, digest, error, metrics }))
    })
  } else {
    const error = Cause.squash(exit.cause) as { readonly _tag?: string; readonly message?: string }
    say({ type: "refused", tag: error._tag ?? "Defect", message: messageOf(error) })
  }
}

say({ type: "ready" })
for await (const line of createInterface({ input: process.stdin })) await serve(JSON.parse(line) as Request)
process.exit(0)
