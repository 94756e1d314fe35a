/**
 * Sweeps: runs a pipeline with every combination of some values, one after another in the same store, so that shared nodes run once. A failed
 * combination does not affect the others.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { ArtifactType, ReportType } from "../../schemas/artifact.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { own } from "../../schemas/own.ts"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { buildGraph, fieldHint, type Settings } from "../define/graph.ts"
import { type Measures, measuresOf } from "./measures.ts"
import type { AnyNode } from "../define/node.ts"
import type { Numerics } from "../key/numerics.ts"
import type { AnyPipeline, Pipeline } from "../define/pipeline.ts"
import type { Journal } from "../store/journal.ts"
import type { CommandLine } from "../store/asked.ts"
import { Hub } from "../hub/hub.ts"
import type { Store } from "../store/store.ts"
import type { RunResult } from "./events.ts"
import type { Executor } from "./executor.ts"
import { inputExists } from "./inputs.ts"
import { describeMissing } from "./missing-inputs.ts"
import { chosenNodes, namedNodes, type RunOptions } from "./options.ts"
import { run } from "./run.ts"

export type SweptValue = string | number | boolean | null | ReadonlyArray<unknown> | { readonly [field: string]: unknown }

/** Values by name: a pipeline parameter, "node.field" of a node's config, or the run's "seed" (unless the pipeline has a parameter of that name). */
export type Grid<Params extends ConfigSchema = ConfigSchema> = {
  readonly [Name in keyof Params["Encoded"]]?: ReadonlyArray<Exclude<Params["Encoded"][Name], undefined>>
} & { readonly [NodeField in `${string}.${string}`]?: ReadonlyArray<SweptValue> } & { readonly seed?: ReadonlyArray<unknown> }

/** One combination and its result. */
export interface SweepPoint<Output extends string = string> {
  readonly values: Readonly<Record<string, unknown>>
  readonly status: RunResult["status"]
  /** null: it could not start. */
  readonly result: RunResult<Output> | null
  readonly measures: Measures
  /** Why it failed: the error of the first failing node or of the pipeline. */
  readonly error: string | null
}

export interface SweepOptions<Output extends string = string> extends RunOptions {
  /** Measures to check for every combination ("counts.characters"): an impossible name is reported before anything runs. */
  readonly metrics?: ReadonlyArray<string>
  readonly onStart?: (values: Readonly<Record<string, unknown>>, index: number, count: number) => void
  readonly onPoint?: (point: SweepPoint<Output>, index: number) => void
}

/** All combinations; the last name's values change fastest. */
export const combinations = (grid: Readonly<Record<string, ReadonlyArray<unknown> | undefined>>): Array<Record<string, unknown>> => {
  let all: Array<Record<string, unknown>> = [{}]
  for (const [name, values] of Object.entries(grid))
    if (values !== undefined) all = all.flatMap((chosen) => values.map((value) => ({ ...chosen, [name]: value })))
  return all
}

/** A value in --set syntax. */
const textOf = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value))

interface Point {
  readonly values: Readonly<Record<string, unknown>>
  readonly params: Readonly<Record<string, unknown>>
  readonly settings: Settings
  readonly seed: number
}

/**
 * Runs every combination, in order. Fails before anything runs if any combination can't start (an unknown name, an invalid value, a missing input) or
 * a metric is unknown; after the first successful combination, if it lacks a metric; and if the store breaks. Everything else is part of the result.
 *
 *     const points = yield* sweep(pipeline, {}, { learningRate: [1e-5, 2e-5], "sft.epochs": [1, 2] })
 *     points.map(({ values, measures }) => [values.learningRate, measures["accuracy.overall"]])
 */
export const sweep = <Params extends ConfigSchema, Outputs extends Readonly<Record<string, AnyNode>>>(
  pipeline: Pipeline<Params, Outputs>,
  params: Params["Encoded"],
  grid: Grid<Params>,
  options: SweepOptions<keyof Outputs & string> = {}
): Effect.Effect<
  ReadonlyArray<SweepPoint<keyof Outputs & string>>,
  PipelineError | ConfigError | StoreError,
  Store | Journal | Executor | Numerics
> =>
  Effect.gen(function* () {
    const fields = Object.keys(pipeline.params.fields as object)
    for (const [name, values] of Object.entries(grid as Readonly<Record<string, ReadonlyArray<unknown>>>)) {
      const fail = (what: string) => new PipelineError({ message: `Sweep of "${pipeline.name}" over ${name}: ${what}` })
      if (!name.includes(".") && name !== "seed" && !fields.includes(name)) {
        const graph = yield* Effect.option(buildGraph(pipeline, { ...(params as object) }, { settings: options.settings ?? {}, seed: 0 }))
        const hint = fieldHint(Option.getOrUndefined(graph), name, values.map(textOf).join(","), "--over")
        return yield* fail(`no such parameter.${hint || didYouMean(name, [...fields, "seed"])}`)
      }
      if (values.length === 0) return yield* fail("the list of values is empty. Give at least one value.")
      if (new Set(values.map(textOf)).size < values.length) return yield* fail("a value is given twice. Give each value once.")
    }
    const points = combinations(grid).map((values): Point => {
      const named = Object.entries(values)
      const isSeed = ([name]: readonly [string, unknown]) => name === "seed" && !fields.includes("seed")
      return {
        values,
        params: { ...(params as object), ...Object.fromEntries(named.filter((entry) => !entry[0].includes(".") && !isSeed(entry))) },
        settings: {
          ...options.settings,
          ...Object.fromEntries(named.filter(([name]) => name.includes(".")).map(([name, value]) => [name, textOf(value)]))
        },
        seed: (named.find(isSeed)?.[1] as number | undefined) ?? options.seed ?? 0
      }
    })
    yield* checkPoints(pipeline, points, Object.keys(grid), options)
    // Shared, so that a branch that moves in the meantime is the same for every combination.
    const hub = options.hub ?? new Hub()
    let isMeasured = false
    const out: Array<SweepPoint<keyof Outputs & string>> = []
    for (const [index, { values, params: given, settings, seed }] of points.entries()) {
      options.onStart?.(values, index, points.length)
      const point: SweepPoint<keyof Outputs & string> = yield* run(pipeline, given as Params["Encoded"], {
        ...options,
        settings,
        seed,
        ...(options.again === undefined ? {} : { again: againWith(options.again, values, fields) }),
        hub
      }).pipe(
        Effect.flatMap((result) =>
          Effect.map(measuresOf(result), (measures) => {
            const error = result.nodes.find((node) => node.error !== null)?.error ?? null
            return { values, status: result.status, result, measures, error }
          })
        ),
        Effect.catchTags({ PipelineError: failedToStart(values), ConfigError: failedToStart(values) })
      )
      out.push(point)
      options.onPoint?.(point, index)
      if (point.status === "succeeded" && !isMeasured) yield* checkMeasures(pipeline.name, point.measures, options.metrics ?? [])
      isMeasured ||= point.status === "succeeded"
    }
    return out
  })

/** The command line of one combination. */
const againWith = ({ folder, words }: CommandLine, values: Point["values"], fields: ReadonlyArray<string>): CommandLine => {
  const at = words.indexOf("--")
  const own = Object.entries(values).flatMap(([name, value]) =>
    name === "seed" && !fields.includes("seed") ? ["--seed", textOf(value)] : ["--set", `${name}=${textOf(value)}`]
  )
  return { folder, words: [...words.slice(0, at), ...own, ...words.slice(at)] }
}

/** A combination's name: "times=3 mark=!". */
const nameOf = (values: Readonly<Record<string, unknown>>): string =>
  Object.entries(values)
    .map(([name, value]) => `${name}=${textOf(value)}`)
    .join(" ")

/** Maximum number of failing combinations listed. */
const shownPoints = 5

/** Builds every combination, so that wrong names or values are reported before anything has run for hours. */
const checkPoints = (pipeline: AnyPipeline, points: ReadonlyArray<Point>, swept: ReadonlyArray<string>, options: SweepOptions) =>
  Effect.gen(function* () {
    const flagOf = (name: string) => (swept.includes(name) ? "--over" : "--set")
    const failures: Array<{ readonly values: Point["values"]; readonly message: string }> = []
    /** Schemas of reports by node and output; the metrics of other results are only known once they are computed. */
    const measured = new Map<string, unknown>()
    for (const { params, settings, seed, values } of points) {
      const checked = yield* Effect.result(
        Effect.gen(function* () {
          const graph = yield* buildGraph(pipeline, params, { settings, seed, flagOf })
          const selected = chosenNodes(graph, yield* namedNodes(graph, options))
          for (const node of graph.nodes.values())
            if (node.kind === "file" && (selected === undefined || selected.has(node.id)) && !inputExists(node))
              return yield* new PipelineError({ message: describeMissing(node) })
          const names = [...Object.entries(graph.outputs), ...[...graph.nodes.keys()].map((id) => [id, id] as const)]
          return names.map(([name, id]) => [name, contentOf(graph.nodes.get(id)!.type)] as const)
        })
      )
      if (checked._tag === "Success") for (const [name, content] of checked.success) measured.set(name, content)
      else failures.push({ values, message: checked.failure.message })
    }
    if (failures.length > 0) {
      const messages = new Set(failures.map(({ message }) => message))
      const lines =
        messages.size === 1 ? [...messages] : failures.slice(0, shownPoints).map(({ message, values }) => `  ${nameOf(values)}: ${message}`)
      const more = messages.size > 1 && failures.length > shownPoints ? `\n  and ${failures.length - shownPoints} more` : ""
      return yield* new PipelineError({
        message: `Sweep of "${pipeline.name}": ${failures.length} of ${points.length} combinations can't run, so nothing was run.\n${lines.join("\n")}${more}`
      })
    }
    for (const metric of options.metrics ?? []) {
      const owners = [...measured].filter(([name]) => metric.startsWith(`${name}.`))
      const missing = owners.map(([name, content]) => missingField(content, metric.slice(name.length + 1).split(".")))
      if (missing.includes(undefined)) continue
      const [field] = missing
      const name = metric.split(".")[0]!
      const reason =
        field === undefined
          ? `expected <node>.<metric> or <output>.<field of its report>; no node or output is named "${name}".${didYouMean(name, measured.keys())}`
          : `the report has no field "${field.path}".${didYouMean(field.path, field.known)}`
      return yield* new PipelineError({ message: `--metric ${metric}: ${reason}` })
    }
  })

/** The schema of a report's content; undefined for other types and for untyped reports. */
const contentOf = (type: ArtifactType<any>): unknown =>
  type.kind === "report" ? (type as Partial<ReportType<unknown>>).content : undefined

/** The first field on a path that a report can't have, and the fields that it has in that place. Only structs are looked into. */
const missingField = (
  content: unknown,
  path: ReadonlyArray<string>
): { readonly path: string; readonly known: Array<string> } | undefined => {
  let at = content
  for (const [i, name] of path.entries()) {
    const fields = (at as { readonly fields?: object } | undefined)?.fields
    if (fields === undefined) return undefined
    const before = path
      .slice(0, i)
      .map((parent) => `${parent}.`)
      .join("")
    if (!Object.hasOwn(fields, name)) return { path: `${before}${name}`, known: Object.keys(fields).map((field) => `${before}${field}`) }
    at = own(fields as Record<string, unknown>, name)
  }
  return undefined
}

/** Fails if a successful combination lacks a metric: the others would too. */
const checkMeasures = (pipeline: string, measures: Measures, metrics: ReadonlyArray<string>): Effect.Effect<void, PipelineError> => {
  const missing = metrics.filter((metric) => !Object.hasOwn(measures, metric))
  if (missing.length === 0) return Effect.void
  const lines = missing.map((metric) => {
    const owner = metric.slice(0, metric.indexOf("."))
    const own = Object.keys(measures).filter((name) => name.startsWith(`${owner}.`))
    return `${metric}: no such metric or report field.${didYouMean(metric, own.length === 0 ? Object.keys(measures) : own)}`
  })
  return Effect.fail(
    new PipelineError({
      message: `Sweep of "${pipeline}", after its first combination: --metric ${lines.join("\n--metric ")}\nIts results are kept.`
    })
  )
}

const failedToStart =
  (values: Readonly<Record<string, unknown>>) =>
  ({ message }: { readonly message: string }) =>
    Effect.succeed({ values, status: "failed" as const, result: null, measures: {}, error: message })
