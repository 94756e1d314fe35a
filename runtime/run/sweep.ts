/**
 * Sweeps: a pipeline with every combination of some values, one run after another in the same store, so that what they share is made once. A
 * combination that fails leaves the others alone.
 */
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { buildGraph, type Settings } from "../define/graph.ts"
import { type Measures, measuresOf } from "./measures.ts"
import type { AnyNode } from "../define/node.ts"
import type { Numerics } from "../key/numerics.ts"
import type { Pipeline } from "../define/pipeline.ts"
import type { Journal } from "../store/journal.ts"
import type { Store } from "../store/store.ts"
import type { RunResult } from "./events.ts"
import type { Executor } from "./executor.ts"
import type { RunOptions } from "./options.ts"
import { run } from "./run.ts"

export type SweptValue = string | number | boolean | null | ReadonlyArray<unknown> | { readonly [field: string]: unknown }

/** Values by name: a parameter of the pipeline, "node.field" of a node's config, or "seed" of the run (unless the pipeline has a parameter of that name). */
export type Grid<Params extends ConfigSchema = ConfigSchema> = {
  readonly [Name in keyof Params["Encoded"]]?: ReadonlyArray<Exclude<Params["Encoded"][Name], undefined>>
} & { readonly [NodeField in `${string}.${string}`]?: ReadonlyArray<SweptValue> } & { readonly seed?: ReadonlyArray<unknown> }

/** One combination, and what came of it. */
export interface SweepPoint<Output extends string = string> {
  readonly values: Readonly<Record<string, unknown>>
  readonly status: RunResult["status"]
  /** null: it could not even start. */
  readonly result: RunResult<Output> | null
  readonly measures: Measures
  /** Why it failed: what the first failing node or the pipeline said. */
  readonly error: string | null
}

export interface SweepOptions<Output extends string = string> extends RunOptions {
  readonly onStart?: (values: Readonly<Record<string, unknown>>, index: number, count: number) => void
  readonly onPoint?: (point: SweepPoint<Output>, index: number) => void
}

/** All combinations, the last name's values changing fastest. */
export const combinations = (grid: Readonly<Record<string, ReadonlyArray<unknown> | undefined>>): Array<Record<string, unknown>> => {
  let all: Array<Record<string, unknown>> = [{}]
  for (const [name, values] of Object.entries(grid))
    if (values !== undefined) all = all.flatMap((chosen) => values.map((value) => ({ ...chosen, [name]: value })))
  return all
}

/** A value as --set would have it. */
const textOf = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value))

interface Point {
  readonly values: Readonly<Record<string, unknown>>
  readonly params: Readonly<Record<string, unknown>>
  readonly settings: Settings
  readonly seed: number
}

/**
 * Runs every combination, in order. Fails when no combination can start, when a name is not known, or when the store breaks; all else is
 * part of the result.
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
      if (!name.includes(".") && name !== "seed" && !fields.includes(name))
        return yield* fail(`it has no such parameter.${didYouMean(name, [...fields, "seed"])}`)
      if (values.length === 0) return yield* fail("there is no value to try. Give one or more.")
      if (new Set(values.map(textOf)).size < values.length) return yield* fail("a value is there twice. Give each once.")
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
    // All of them first: a wrong name is told of before anything has run for hours.
    const built = yield* Effect.forEach(points, (point) =>
      Effect.result(buildGraph(pipeline, point.params, { settings: point.settings, seed: point.seed }))
    )
    const [first] = built
    if (first?._tag === "Failure" && built.every(({ _tag }) => _tag === "Failure")) return yield* Effect.fail(first.failure)
    const out: Array<SweepPoint<keyof Outputs & string>> = []
    for (const [index, { values, params: given, settings, seed }] of points.entries()) {
      options.onStart?.(values, index, points.length)
      const point: SweepPoint<keyof Outputs & string> = yield* run(pipeline, given as Params["Encoded"], {
        ...options,
        settings,
        seed
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
    }
    return out
  })

const failedToStart =
  (values: Readonly<Record<string, unknown>>) =>
  ({ message }: { readonly message: string }) =>
    Effect.succeed({ values, status: "failed" as const, result: null, measures: {}, error: message })
