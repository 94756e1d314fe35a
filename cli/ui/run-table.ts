/** Several runs in a table, as in `caravan sweep`: the options that differ, and each run's metrics. */
import * as Effect from "effect/Effect"
import { flatAsked } from "../../runtime/inspect/history.ts"
import { curvesOf } from "../../runtime/inspect/curves.ts"
import { measuresOf } from "../../runtime/run/measures.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { own } from "../../schemas/own.ts"
import { BadRequest, type RunTable } from "./api.ts"
import { plainRow } from "./rows.ts"
import { runWithLine } from "./runs.ts"

const maxRuns = 64

const differing = (rows: ReadonlyArray<Readonly<Record<string, unknown>>>): Array<readonly [name: string, differs: boolean]> => {
  const names = new Set(rows.flatMap((row) => Object.keys(row)))
  return [...names].map((name) => [name, new Set(rows.map((row) => JSON.stringify(own(row, name)))).size > 1] as const)
}

/** One run: its options, its metrics, and which of its nodes have curves. */
const rowOf = Effect.fnUntraced(function* (id: string) {
  const journal = yield* Journal
  const { line, run } = yield* runWithLine(id)
  const asked = askedOf(run)
  const outcomes = yield* journal.read((tables) =>
    tables.outcomesOf(id).flatMap((outcome) => {
      const artifact = outcome.digest === null ? undefined : tables.artifact(outcome.digest)
      return artifact === undefined ? [] : [{ ...outcome, artifact }]
    })
  )
  const last = new Map(outcomes.map((outcome) => [outcome.node, outcome]))
  const names = Object.entries(asked?.outputs ?? {})
  // Only outputs: the reports of all nodes could be hundreds.
  const wanted = new Set(names.map(([, node]) => node))
  const nodes = [...last.values()].flatMap(({ artifact, digest, key, milliseconds, node, stage, status }) =>
    wanted.has(node)
      ? [{ id: node, stage, status, milliseconds, key, digest, metrics: artifact.metrics, error: null, skipped: [], skippedRows: null }]
      : []
  )
  const measures = yield* measuresOf({ run: id, pipeline: run.pipeline, status: "succeeded", nodes, outputs: {} })
  const curves = (yield* curvesOf(run)).flatMap(({ node, path }) => (path === null ? [] : [node]))
  return { line, asked: flatAsked(asked), measures: plainRow(measures) as Record<string, number | string | boolean>, curves }
})

export const runTable = Effect.fnUntraced(function* (list: string) {
  const ids = [...new Set(list.split(","))]
  if (ids.length > maxRuns || ids.some((id) => !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)))
    return yield* new BadRequest({ message: `runs must be up to ${maxRuns} comma-separated run ids.` })
  const rows = yield* Effect.forEach(ids, rowOf)
  const measures = differing(rows.map((row) => row.measures)).map(([name, differs]) => ({ name, differs }))
  const shared = rows.map(({ curves }) => new Set(curves)).reduce((all, own) => new Set([...all].filter((node) => own.has(node))))
  return {
    runs: rows.map(({ asked, line, measures: measured }) => ({
      line,
      asked: plainRow(asked) as Record<string, unknown>,
      measures: measured
    })),
    asked: differing(rows.map((row) => row.asked)).flatMap(([name, differs]) => (differs ? [name] : [])),
    measures: [...measures.filter(({ differs }) => differs), ...measures.filter(({ differs }) => !differs)],
    curves: [...shared]
  } satisfies RunTable
})
