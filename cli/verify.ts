/** `caravan verify`: runs nodes again and compares what comes out with what is in the store. */
import * as Effect from "effect/Effect"
import { verify, type Verification } from "../runtime/verify.ts"
import { type Command, exitCodes, wholeNumber } from "./command.ts"
import { engineNumerics } from "./numerics.ts"
import { print } from "./open-store.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "./pipeline-file.ts"
import { duration, showProgress } from "./progress.ts"
import { short, table } from "./units.ts"

const lines = ({ nodes, left }: Verification): Array<string> => {
  const width = Math.max(0, ...nodes.map(({ id }) => id.length))
  const counts = (["same", "same content", "differs", "failed", "missing"] as const).flatMap((status) => {
    const n = nodes.filter((node) => node.status === status).length
    return n === 0 ? [] : [`${n} ${status === "missing" ? "not in the store (run the pipeline first)" : status}`]
  })
  return [
    ...nodes.flatMap((node) => [
      ...table([[node.status.padEnd(12), node.id.padEnd(width), node.status === "missing" ? "" : duration(node.milliseconds)]]),
      ...(node.error === null ? [] : [`  ${node.error}`]),
      ...(node.differences.length > 0 ? [`  ${short(node.digest!)} -> ${short(node.again!)}`] : []),
      ...node.differences.map((difference) => `  ${difference}`)
    ]),
    `${counts.join(", ") || "Nothing to verify: no node's result is in the store. Run the pipeline first"}${left > 0 ? `; ${left} not looked at` : ""}.`
  ]
}

export const command: Command = {
  name: "verify",
  summary:
    "Runs nodes whose results are in the store again, into a scratch place, and compares: bit for bit, and where that fails it names the first tensor or row that differs. Changes nothing. Ends with 1 unless all came out the same.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    sample: { value: "n", help: "only so many nodes, chosen at random" },
    only: { value: "node", help: "this node alone" },
    from: { value: "node", help: "this node and what depends on it" },
    until: { value: "node", help: "this node and what it depends on" },
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan verify pipelines/hh-rlhf.ts --set data=pairs.jsonl.gz",
    "caravan verify pipelines/hh-rlhf.ts --set data=pairs.jsonl.gz --sample 3",
    "caravan verify pipelines/demo.ts --only sft --json"
  ],
  more: describeParameters,
  run: async (given) => {
    const pipeline = await loadPipeline(given.positionals[0]!)
    const options = pipelineOptions(given)
    const sample = wholeNumber(given, "sample", 1)
    const selection = Object.fromEntries(
      (["only", "from", "until"] as const).flatMap((name) => (given.flag(name) === undefined ? [] : [[name, given.flag(name)!]]))
    )
    const progress = showProgress()
    const work = verify(pipeline, {}, { ...options, ...selection, ...(sample !== undefined && { sample }), onEvent: progress.onEvent })
    const interrupt = new AbortController()
    const stop = () => interrupt.abort()
    process.on("SIGINT", stop)
    process.on("SIGTERM", stop)
    try {
      const result = await Effect.runPromise(work.pipe(Effect.provide(engineNumerics(options.home))), { signal: interrupt.signal })
      progress.close()
      print(given.has("json"), result, lines(result))
      return result.ok ? exitCodes.ok : exitCodes.failed
    } catch (cause) {
      progress.close()
      if (interrupt.signal.aborted) return exitCodes.interrupted
      throw cause
    } finally {
      process.off("SIGINT", stop)
      process.off("SIGTERM", stop)
    }
  }
}
