/** `caravan run`: runs a pipeline and prints its outputs. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { describeDamage, findDamage } from "../../runtime/inspect/damage.ts"
import { Hub } from "../../runtime/hub/hub.ts"
import type { RunEvent, RunResult } from "../../runtime/run/events.ts"
import { lockPath, readLock } from "../../runtime/run/lock-file.ts"
import type { RunOptions } from "../../runtime/run/options.ts"
import { run } from "../../runtime/run/run.ts"
import { type Command, exitCodes, type Given, UsageError } from "../command.ts"
import { tell, write, writeJson } from "../output.ts"
import { layer } from "../../caravan.ts"
import { outputLines } from "../display/outputs.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions, selectionOf } from "../pipeline-file.ts"
import { duration } from "../display/progress.ts"
import { openEvents } from "../events-file.ts"
import { costMachine, costOfPlan, isKnown } from "../cost.ts"
import { checkFit } from "../fit-check.ts"
import { jobsAtEnd } from "../ask-jobs.ts"
import { untilInterrupted } from "../interrupt.ts"
import { commandAgain, progressOf, runFlags, runOptions, slurmOptions } from "../run-flags.ts"
import { count, gib, shortRun } from "../display/units.ts"
import { plan } from "../../runtime/run/plan.ts"
import { Store } from "../../runtime/store/store.ts"

/** The document that --json prints. */
const document = (result: RunResult) => ({
  run: result.run,
  pipeline: result.pipeline,
  status: result.status,
  nodes: result.nodes.map(({ id, stage, status, milliseconds, key, digest, metrics, skipped, skippedRows, error }) => ({
    id,
    stage,
    status,
    milliseconds: Math.round(milliseconds),
    key,
    digest,
    metrics,
    ...(skipped.length === 0 ? {} : { skipped, skippedRows }),
    ...(error === null ? {} : { error })
  })),
  outputs: Object.fromEntries(Object.entries(result.outputs).map(([name, { kind, path, digest }]) => [name, { kind, path, digest }]))
})

/** Maximum number of nodes listed in the summary. */
const shownNodes = 40

/** Planned GPU memory of each node, in bytes. */
type PlannedMemory = ReadonlyMap<string, number>

/** "; GPU memory 118 GiB, planned 121 GiB". The planned figure is the stage's own if it reports one. */
const memoryOf = ({ id, metrics }: RunResult["nodes"][number], planned: PlannedMemory): string => {
  const { gpuMemory, plannedGpuMemory } = metrics
  if (gpuMemory === undefined) return ""
  const bytes = plannedGpuMemory === undefined ? planned.get(id) : plannedGpuMemory * 2 ** 20
  return `  GPU memory ${gib(gpuMemory * 2 ** 20)}${bytes === undefined ? "" : `, planned ${gib(bytes)}`}`
}

/** One line per node that ran, with its error if it failed. Other nodes are only counted. */
const nodeTable = (result: RunResult, planned: PlannedMemory): ReadonlyArray<string> => {
  const of = (...statuses: ReadonlyArray<string>) => result.nodes.filter(({ status }) => statuses.includes(status))
  const [nodes, skipped] = [of("ran", "failed"), of("skipped")]
  const counts = [
    ...(["ran", "failed", "skipped"] as const).map((status) => [of(status).length, status] as const),
    [of("hit").length, "found in the store"] as const,
    [of("fetched").length, "copied from shared results"] as const
  ].flatMap(([n, how]) => (n === 0 ? [] : [`${n} ${how}`]))
  const width = Math.max(0, ...nodes.map(({ id }) => id.length))
  const names = skipped.slice(0, 5).map(({ id }) => id)
  return [
    `Nodes: ${counts.join(", ")}`,
    ...nodes
      .slice(0, shownNodes)
      .flatMap((node) => [
        `  ${node.status.padEnd(7)}  ${node.id.padEnd(width)}  ${duration(node.milliseconds)}${memoryOf(node, planned)}`,
        ...(node.error === null ? [] : node.error.split("\n").map((line) => `           ${line}`))
      ]),
    ...(nodes.length > shownNodes ? [`  ... and ${nodes.length - shownNodes} more`] : []),
    ...(skipped.length === 0
      ? []
      : [`  skipped  ${names.join(", ")}${skipped.length > names.length ? ` and ${skipped.length - names.length} more` : ""}`]),
    ...rowsSkipped(result)
  ]
}

/** Maximum number of nodes listed that skipped rows. */
const shownSkipping = 12

/** The nodes of this run whose stages skipped rows, largest share first. Their reasons were printed when they ended, and `show` prints them. */
const rowsSkipped = ({ nodes, run }: RunResult): ReadonlyArray<string> => {
  const shareOf = ({ skipped }: (typeof nodes)[number]) => Math.max(...skipped.map((rows) => rows.skipped / rows.of))
  const skipping = nodes.filter(({ skipped, status }) => status === "ran" && skipped.length > 0).sort((a, b) => shareOf(b) - shareOf(a))
  if (skipping.length === 0) return []
  const counted = skipping
    .slice(0, shownSkipping)
    .map(({ id, skipped }) => `${id} (${skipped.map((rows) => `${rows.skipped} of ${rows.of} ${rows.what}`).join(", ")})`)
  const more = skipping.length > shownSkipping ? ` and ${count(skipping.length - shownSkipping, "more node")}` : ""
  return [`Skipped rows: ${counted.join(", ")}${more}. caravan show ${shortRun(run)} lists why.`]
}

/** Checks all report outputs, including reused ones, because they are printed: output -> description of the damage. */
const damagedReports = Effect.fnUntraced(function* (outputs: RunResult["outputs"]) {
  const damaged = new Map<string, string>()
  for (const [name, { digest, kind }] of Object.entries(outputs)) {
    const found = kind === "report" ? yield* findDamage(digest) : undefined
    if (found !== undefined) damaged.set(name, describeDamage(`The output ${name}`, found))
  }
  return damaged
})

const summary = (result: RunResult, damaged: ReadonlyMap<string, string>, planned: PlannedMemory): string => {
  const outputs = outputLines(Object.fromEntries(Object.entries(result.outputs).filter(([name]) => !damaged.has(name))))
  return [...nodeTable(result, planned), ...(outputs.length === 0 ? [] : ["", ...outputs]), ...damaged.values()].join("\n")
}

/** Options from the command line. With --locked, options that are not given come from the lock file. */
const lockedOptions = async (given: Given): Promise<RunOptions> => {
  const options = pipelineOptions(given)
  const named = given.flag("lock")
  if (!given.has("locked")) {
    if (named !== undefined) throw new UsageError(`--lock ${named} has no effect without --locked: add --locked, or remove --lock.`)
    return options
  }
  const locked = await Effect.runPromise(readLock(named ?? lockPath(given.positionals[0]!)))
  const numbers = Object.fromEntries(
    (["seed", "device", "threads"] as const).flatMap((name) => (given.flag(name) === undefined ? [[name, locked[name]]] : []))
  )
  return { ...options, ...numbers, settings: { ...locked.settings, ...options.settings }, locked }
}

/** GPU memory of each stage that would run on this machine. Fails if a stage does not fit, unless the check is switched off. */
const planMemory = Effect.fnUntraced(function* (pipeline: AnyPipeline, options: RunOptions, given: Given) {
  const made = yield* plan(pipeline, {}, options)
  const { path } = yield* Store
  const cost = yield* Effect.promise(() => costOfPlan(made, costMachine(given, made.facts.numerics), path))
  if (!given.has("no-fit-check")) yield* checkFit(cost)
  return new Map([...cost.nodes].flatMap(([id, one]) => (isKnown(one) ? [[id, one.memory.total] as const] : [])))
})

export const command: Command = {
  name: "run",
  summary:
    "Runs a pipeline. Results that are already in the store are reused; progress goes to stderr. A file or folder may also be a name on the Hugging Face Hub: hf:owner/name@revision:path for a model, hf:datasets/owner/name@revision:path for a dataset.",
  positionals: ["<pipeline.ts>"],
  flags: {
    ...pipelineFlags,
    only: { value: "node", help: "run only this node, with inputs from the store" },
    from: { value: "node", help: "run this node and what depends on it" },
    until: { value: "node", help: "run this node and what it depends on" },
    force: { value: "node", help: "rerun this node even if its result is in the store", repeatable: true },
    ...runFlags,
    "no-fit-check": { help: "with --device cuda: run even if the plan says that a stage does not fit on the GPU" },
    locked: { help: "use the settings of the lock file written by `caravan freeze`, and refuse to run if anything differs from it" },
    lock: { value: "file.json", help: "the lock file (default: <pipeline>.lock.json next to the pipeline)" },
    json: { help: "print one JSON document to stdout at the end" }
  },
  examples: [
    "caravan run pipelines/rlhf.ts --set preferences=pairs.jsonl.gz",
    "caravan run pipelines/rlhf.ts --set preferences=pairs.jsonl.gz --set sft.learningRate=1e-3",
    "caravan run pipelines/rlhf.ts --set model=hf:meta-llama/Llama-3.2-1B --set preferences=hf:datasets/me/pairs@v1:train.jsonl",
    "caravan run pipelines/demo.ts --json > run.json",
    "caravan run pipelines/demo.ts --events events.ndjson --timeout 3600 --retries 2",
    "caravan run pipelines/rlhf.ts --locked"
  ],
  more: describeParameters,
  run: async (given) => {
    const pipeline = await loadPipeline(given.positionals[0]!)
    const options = { ...(await lockedOptions(given)), ...runOptions(given) }
    const events = openEvents(given)
    const progress = progressOf(given)
    const running = new Set<string>()
    const onEvent = (event: RunEvent) => {
      if (event.type === "node-started") running.add(event.node)
      if (event.type === "node-finished") running.delete(event.node.id)
      events.onEvent(event)
      progress.onEvent(event)
    }
    const jobs = jobsAtEnd(given, progress.say, () => options.on === "slurm" && running.size > 0)
    const isShown = given.flag("events") !== "-" && !given.has("json")
    const more = { force: given.flags("force"), again: commandAgain(given, command.flags), onInterruption: jobs.onInterruption }
    // One Hub for the plan and the run, so that both use the same commits.
    const allOptions = { ...options, ...selectionOf(given), ...more, hub: new Hub() }
    const work = Effect.gen(function* () {
      const planned = options.device === "cuda" ? yield* planMemory(pipeline, allOptions, given) : new Map<string, number>()
      const result = yield* run(pipeline, {}, { ...allOptions, onEvent })
      return { result, planned, damaged: isShown ? yield* damagedReports(result.outputs) : new Map<string, string>() }
    })
    const exit = await untilInterrupted(
      work.pipe(Effect.provide(layer({ ...options, ...slurmOptions(options) }))),
      progress,
      jobs.ask
    ).finally(() => events.close())
    if (exit === undefined) {
      const stopped = running.size === 0 ? "" : ` while ${[...running].join(", ")} ran`
      tell(
        `Interrupted${stopped}. Run the same command again to continue: finished results are reused, and a stage with checkpoints resumes from its last one.\n`
      )
      return exitCodes.interrupted
    }
    if (Exit.isFailure(exit)) throw Cause.squash(exit.cause)
    const { result, damaged, planned } = exit.value
    if (isShown) write(`${summary(result, damaged, planned)}\n`)
    else if (given.flag("events") !== "-") writeJson(document(result))
    return result.status === "succeeded" && damaged.size === 0 ? exitCodes.ok : exitCodes.failed
  }
}
