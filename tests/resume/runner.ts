/** A process that runs the pipeline once, with a checkpoint after every step, and immediately prints its events as lines of JSON. */
import { writeSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Caravan from "../../caravan.ts"
import pipeline from "./pipeline.ts"

export type Said =
  | { readonly type: "started"; readonly node: string }
  | { readonly type: "step"; readonly node: string }
  | { readonly type: "resumed"; readonly node: string; readonly after: number }
  | {
      readonly type: "done"
      readonly nodes: ReadonlyArray<{
        readonly id: string
        readonly status: string
        readonly digest: string | null
        readonly metrics: Readonly<Record<string, number>>
        readonly error: string | null
      }>
    }

const say = (said: Said): void => void writeSync(1, `${JSON.stringify(said)}\n`)

const [home, until] = process.argv.slice(2) as [string, string]
const { nodes } = await Effect.runPromise(
  Caravan.run(
    pipeline,
    {},
    {
      ...{ until, checkpointSeconds: 0 },
      onEvent: (event) => {
        if (event.type === "node-started") say({ type: "started", node: event.node })
        if (event.type === "progress" && event.progress.step !== undefined) say({ type: "step", node: event.node })
        if (event.type === "note" && event.message.startsWith("resumes after"))
          say({ type: "resumed", node: event.node, after: Number(/\d+/.exec(event.message)![0]) })
      }
    }
  ).pipe(Effect.provide(Caravan.layer({ home })))
)
say({ type: "done", nodes: nodes.map(({ id, status, digest, metrics, error }) => ({ id, status, digest, metrics, error })) })
process.exit(0)
