/** `caravan sweep`: runs a pipeline with every combination of the given values and prints a table of the results. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Schema from "effect/Schema"
import { valueOf } from "../../runtime/define/graph.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"
import { combinations, type Grid, sweep, type SweepPoint } from "../../runtime/run/sweep.ts"
import { own } from "../../schemas/own.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { tell, write, writeJson } from "../output.ts"
import { layer } from "../../caravan.ts"
import { number } from "../display/numbers.ts"
import { describeParameters, loadPipeline, pipelineFlags, pipelineOptions } from "../pipeline-file.ts"
import { openEvents } from "../events-file.ts"
import { jobsAtEnd } from "../ask-jobs.ts"
import { untilInterrupted } from "../interrupt.ts"
import { commandAgain, progressOf, runFlags, runOptions, slurmOptions } from "../run-flags.ts"
import { shown, table } from "../display/units.ts"

/** Maximum number of metric columns chosen by default. */
const maxColumns = 8

/** Splits at commas outside brackets and quotes: "1e-5,2e-5" or "[1,2],[3]". */
export const splitValues = (text: string): Array<string> => {
  const parts = [""]
  let [depth, quoted] = [0, false]
  for (const character of text) {
    if (character === '"') quoted = !quoted
    else if (!quoted && "[{".includes(character)) depth++
    else if (!quoted && "]}".includes(character)) depth--
    if (character === "," && depth === 0 && !quoted) parts.push("")
    else parts[parts.length - 1] += character
  }
  return parts.map((part) => part.trim())
}

/** The values of --over, decoded as their parameter's type; values for a node's field are decoded by the node. */
export const gridOf = (pipeline: AnyPipeline, texts: ReadonlyArray<string>): Record<string, Array<unknown>> => {
  const fields = pipeline.params.fields as Record<string, Schema.Top>
  const grid = new Map<string, Array<unknown>>()
  for (const text of texts) {
    const at = text.indexOf("=")
    if (at < 1 || at === text.length - 1) throw new UsageError(`--over must be name=value,value,..., got "${text}".`)
    const [name, values] = [text.slice(0, at), splitValues(text.slice(at + 1))]
    if (grid.has(name)) throw new UsageError(`--over ${name} is given twice: put all its values in one flag.`)
    const isSeed = name === "seed" && !Object.hasOwn(fields, "seed")
    const wrong = isSeed ? values.find((value) => !/^\d{1,15}$/.test(value)) : undefined
    if (wrong !== undefined) throw new UsageError(`--over seed: values must be integers of at least 0, got "${wrong}".`)
    grid.set(name, name.includes(".") ? values : values.map((value) => (isSeed ? Number(value) : valueOf(own(fields, name), value))))
  }
  return Object.fromEntries(grid)
}

/** The default columns: metrics and report fields of the outputs that differ between points. */
const columnsOf = (points: ReadonlyArray<SweepPoint>): { readonly columns: Array<string>; readonly more: number } => {
  const outputs = new Set(
    points.flatMap(({ result }) => {
      const digests = Object.values(result?.outputs ?? {}).map(({ digest }) => digest)
      return [
        ...Object.keys(result?.outputs ?? {}),
        ...(result?.nodes ?? []).flatMap(({ id, digest }) => (digest !== null && digests.includes(digest) ? [id] : []))
      ]
    })
  )
  const names = [...new Set(points.flatMap(({ measures }) => Object.keys(measures)))].filter((name) =>
    outputs.has(name.slice(0, name.indexOf(".")))
  )
  const valuesOf = (name: string) => JSON.stringify(points.map(({ measures }) => own(measures, name)))
  // A field of an output is found under the output's name and its node's name: keep one of them.
  const seen = new Set<string>()
  const distinct = names.filter((name) => {
    const identity = `${name.slice(name.indexOf("."))} ${valuesOf(name)}`
    return !seen.has(identity) && seen.add(identity) !== undefined
  })
  const varying = distinct.filter(
    (name) => new Set(points.flatMap(({ measures }) => (Object.hasOwn(measures, name) ? [measures[name]] : []))).size > 1
  )
  const chosen = varying.length > 0 ? varying : distinct
  return { columns: chosen.slice(0, maxColumns), more: Math.max(0, chosen.length - maxColumns) }
}

const cell = (value: unknown): string => (value === undefined ? "-" : typeof value === "number" ? number(value) : shown(value))

/** The table, lines about columns that it leaves out or that are unknown, and the errors of failed points. */
export const report = (points: ReadonlyArray<SweepPoint>, metrics: ReadonlyArray<string>): Array<string> => {
  const names = Object.keys(points[0]?.values ?? {})
  const { columns, more } = metrics.length > 0 ? { columns: [...metrics], more: 0 } : columnsOf(points)
  const rows = points.map(({ values, status, measures }) => [
    ...names.map((name) => shown(values[name])),
    status,
    ...columns.map((column) => cell(own(measures, column)))
  ])
  const known = [...new Set(points.flatMap(({ measures }) => Object.keys(measures)))]
  const unknown = columns.filter((column) => !known.includes(column))
  return [
    ...table([[...names, "status", ...columns], ...rows]),
    ...(more > 0 ? [`${more} more metrics differ: choose columns with --metric node.metric, or print all with --json.`] : []),
    ...unknown.map((column) => `No run has a metric or report field "${column}".${didYouMean(column, known)}`),
    ...points.flatMap(({ error, values }) => (error === null ? [] : [`${nameOf(values)}: ${error}`]))
  ]
}

const nameOf = (values: Readonly<Record<string, unknown>>): string =>
  Object.entries(values)
    .map(([name, value]) => `${name}=${shown(value)}`)
    .join(" ")

const document = (pipeline: string, points: ReadonlyArray<SweepPoint>, metrics: ReadonlyArray<string>) => ({
  pipeline,
  points: points.map(({ values, status, result, error, measures }) => ({
    values,
    run: result?.run ?? null,
    status,
    ...(error === null ? {} : { error }),
    measures: Object.fromEntries(Object.entries(measures).filter(([name]) => metrics.length === 0 || metrics.includes(name))),
    outputs: Object.fromEntries(
      Object.entries(result?.outputs ?? {}).map(([name, { kind, path, digest }]) => [name, { kind, path, digest }])
    )
  }))
})

export const command: Command = {
  name: "sweep",
  summary:
    "Runs a pipeline with every combination of the --over values, one after another, and prints a table of the results. Shared nodes run once; a failed combination does not stop the others.",
  positionals: ["<pipeline.ts>"],
  flags: {
    over: {
      value: "name=a,b,c",
      help: "values of a parameter, of <node>.<field> or of the seed; use JSON brackets or quotes for values that contain commas",
      repeatable: true
    },
    metric: {
      value: "node.metric",
      help: "a table column: a metric of a node or a field of its report (default: those that differ)",
      repeatable: true
    },
    ...pipelineFlags,
    until: { value: "node", help: "run this node and what it depends on" },
    ...runFlags,
    json: { help: "print one JSON document with every metric to stdout at the end" }
  },
  examples: [
    "caravan sweep pipelines/rlhf.ts --set preferences=pairs.jsonl.gz --over sft.learningRate=1e-5,2e-5 --over seed=0,1,2",
    "caravan sweep pipelines/rlhf.ts --set preferences=pairs.jsonl.gz --over sft.epochs=1,2 --metric sft.loss --json"
  ],
  more: describeParameters,
  run: async (given) => {
    const pipeline = await loadPipeline(given.positionals[0]!)
    const options = { ...pipelineOptions(given), ...runOptions(given) }
    const texts = given.flags("over")
    if (texts.length === 0) throw new UsageError("Nothing to sweep over. Add --over name=value,value,... at least once.")
    const grid = gridOf(pipeline, texts)
    const count = combinations(grid).length
    const metrics = given.flags("metric")
    const events = openEvents(given)
    const until = given.flag("until")
    let progress = progressOf(given)
    const finished: Array<SweepPoint> = []
    const jobs = jobsAtEnd(
      given,
      (text) => progress.say(text),
      () => options.on === "slurm"
    )
    const work = sweep(pipeline, {}, grid as Grid, {
      ...options,
      onInterruption: jobs.onInterruption,
      ...(until === undefined ? {} : { until }),
      metrics,
      again: commandAgain(given, command.flags),
      onStart: (values, index) => {
        progress.close()
        progress = progressOf(given)
        progress.say(`[${index + 1}/${count}] ${nameOf(values)}`)
      },
      onPoint: (point) => {
        finished.push(point)
        if (point.result === null) progress.say(`Failed: ${point.error}`)
      },
      onEvent: (event) => {
        events.onEvent(event)
        progress.onEvent(event)
      }
    })
    const shown = { onEvent: () => undefined, say: (text: string) => progress.say(text), close: () => progress.close() }
    const exit = await untilInterrupted(
      work.pipe(Effect.provide(layer({ ...options, ...slurmOptions(options) }))),
      shown,
      jobs.ask
    ).finally(() => events.close())
    if (exit !== undefined && Exit.isFailure(exit)) throw Cause.squash(exit.cause)
    if (given.flag("events") !== "-") {
      const lines = finished.length === 0 ? [] : report(finished, metrics)
      if (given.has("json")) writeJson(document(pipeline.name, finished, metrics))
      else write(lines.map((line) => `${line}\n`).join(""))
    }
    if (exit === undefined) {
      tell(`${finished.length} of ${count} combinations finished. Run the same command again to continue.\n`)
      return exitCodes.interrupted
    }
    return finished.every(({ status }) => status === "succeeded") ? exitCodes.ok : exitCodes.failed
  }
}
