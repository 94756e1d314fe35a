/** `caravan verify`: runs nodes again and compares what comes out with what is in the store. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { verify, type Verification } from "../../runtime/inspect/verify.ts"
import { type Command, exitCodes, wholeNumber } from "../command.ts"
import { layer } from "../../caravan.ts"
import { print } from "../open-store.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "../pipeline-file.ts"
import { duration, showProgress } from "../display/progress.ts"
import { untilInterrupted } from "../interrupt.ts"
import { limitsOf, runFlags } from "../run-flags.ts"
import { short, table } from "../display/units.ts"

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
    "Runs nodes again in a scratch folder and compares their results with those in the store, bit for bit. Names the first tensor or row that differs. Changes nothing. Exits with 1 unless all results are the same.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    sample: { value: "n", help: "verify only n nodes, chosen at random" },
    only: { value: "node", help: "verify only this node" },
    from: { value: "node", help: "verify this node and what depends on it" },
    until: { value: "node", help: "verify this node and what it depends on" },
    timeout: runFlags.timeout!,
    memory: runFlags.memory!,
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
    const work = verify(
      pipeline,
      {},
      { ...options, ...selection, limits: limitsOf(given), ...(sample !== undefined && { sample }), onEvent: progress.onEvent }
    )
    const exit = await untilInterrupted(work.pipe(Effect.provide(layer(options))), progress)
    if (exit === undefined) return exitCodes.interrupted
    if (Exit.isFailure(exit)) throw Cause.squash(exit.cause)
    print(given.has("json"), exit.value, lines(exit.value))
    return exit.value.ok ? exitCodes.ok : exitCodes.failed
  }
}
