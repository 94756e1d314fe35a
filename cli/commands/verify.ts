/** `caravan verify`: reruns nodes and compares the results with the store, or checks every object of the store. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { verify, type Verification } from "../../runtime/inspect/verify.ts"
import { type DamagedObject, type StoreVerification, verifyStore } from "../../runtime/inspect/verify-store.ts"
import { type Command, exitCodes, type Given, UsageError, wholeNumber } from "../command.ts"
import { Sidecar } from "../../runtime/store/sidecar.ts"
import { layer } from "../../caravan.ts"
import { print, withStore } from "../open-store.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions, selectionOf } from "../pipeline-file.ts"
import { duration } from "../display/progress.ts"
import { untilInterrupted } from "../interrupt.ts"
import { showReading } from "../display/reading.ts"
import { count, short, shortRun, size, table } from "../display/units.ts"
import { limitsOf, progressOf, runFlags } from "../run-flags.ts"

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
    `${counts.join(", ") || "Nothing to verify: no node's result is in the store. Run the pipeline first"}${left > 0 ? `; ${left} not checked` : ""}.`
  ]
}

const damagedLines = ({ digest, made, path, quarantined, left, type, what }: DamagedObject): Array<string> => [
  `damaged  ${short(digest)}  ${made === null ? "not in the journal" : `${made.node} of ${made.pipeline}, run ${shortRun(made.run)}`}: ${what}`,
  ...(quarantined === null
    ? [`  left in ${path}: ${left}`]
    : [
        `  moved from ${path} to ${quarantined}`,
        ...(made === null
          ? []
          : [
              type === Sidecar.name
                ? `  it contains records about the result (skipped rows, curves): caravan run <pipeline> --force ${made.node} writes it again`
                : `  to recompute it, run ${made.pipeline}`
            ])
      ])
]

const storeLines = ({ damaged, home, objects, size: bytes, strays, unknown }: StoreVerification): Array<string> => [
  ...damaged.flatMap(damagedLines),
  ...unknown.map((object) => `unknown  ${short(object.digest)}  ${size(object.size)}: not in the journal; caravan gc deletes it`),
  ...strays.map((path) => `stray    ${path}: neither an object nor part of one`),
  `${count(objects, "object")} of ${size(bytes)} in ${home}: ${damaged.length} damaged, ${unknown.length} unknown, ${strays.length} stray.`
]

/** Reads every object of the store. */
const readStore = async (given: Given): Promise<number> => {
  const otherFlags = ["set", "seed", "device", "threads", "sample", "only", "from", "until", "timeout", "memory"]
  const other = given.positionals[0] ?? otherFlags.find((name) => given.flag(name) !== undefined)
  if (other !== undefined)
    throw new UsageError(`--store reads the whole store: it accepts no pipeline, and no flag except --json, got "${other}".`)
  const reading = showReading("Reading the store")
  const found = await withStore(verifyStore({ onStart: reading.start, onBytes: reading.onBytes })).finally(reading.close)
  print(given.has("json"), found, storeLines(found))
  return found.ok ? exitCodes.ok : exitCodes.failed
}

export const command: Command = {
  name: "verify",
  summary:
    "Reruns nodes in a scratch folder and compares the results with the store, bit for bit. Names the first tensor or row that differs. Replaces nothing; a damaged result is moved to the store's quarantine, and the next run recomputes it. With --store, checks every object of the store instead. Exits with 1 if a result differs or an object is damaged.",
  positionals: ["[pipeline.ts]"],
  flags: {
    ...pipelineFlags,
    sample: { value: "n", help: "verify only n nodes, chosen at random" },
    only: { value: "node", help: "verify only this node" },
    from: { value: "node", help: "verify this node and what depends on it" },
    until: { value: "node", help: "verify this node and what it depends on" },
    timeout: runFlags.timeout!,
    memory: runFlags.memory!,
    quiet: runFlags.quiet!,
    store: { help: "check every object of the store and move damaged ones to quarantine; runs nothing" },
    json: { help: "print one JSON document" }
  },
  examples: [
    "caravan verify pipelines/rlhf.ts --set preferences=pairs.jsonl.gz",
    "caravan verify pipelines/rlhf.ts --set preferences=pairs.jsonl.gz --sample 3",
    "caravan verify pipelines/demo.ts --only sft --json",
    "caravan verify --store"
  ],
  more: describeParameters,
  run: async (given) => {
    if (given.has("store")) return readStore(given)
    const [file] = given.positionals
    if (file === undefined)
      throw new UsageError("caravan verify needs <pipeline.ts>, or --store. For example: caravan verify pipelines/demo.ts")
    const pipeline = await loadPipeline(file)
    const options = pipelineOptions(given)
    const sample = wholeNumber(given, "sample", 1)
    const progress = progressOf(given)
    const work = verify(
      pipeline,
      {},
      { ...options, ...selectionOf(given), limits: limitsOf(given), ...(sample !== undefined && { sample }), onEvent: progress.onEvent }
    )
    const exit = await untilInterrupted(work.pipe(Effect.provide(layer(options))), progress)
    if (exit === undefined) return exitCodes.interrupted
    if (Exit.isFailure(exit)) throw Cause.squash(exit.cause)
    print(given.has("json"), exit.value, lines(exit.value))
    return exit.value.ok ? exitCodes.ok : exitCodes.failed
  }
}
