/** The differences between two runs, as in `caravan diff`, with their reports' figures. */
import * as Effect from "effect/Effect"
import { compareRuns, type NodeDifference } from "../../runtime/inspect/history.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { reportDifferences } from "../commands/diff.ts"
import type { Comparison } from "./api.ts"
import { figuresOf } from "./figures.ts"
import { plainRow } from "./rows.ts"
import { runWithLine } from "./runs.ts"

/** Maximum number of difference lines per report, and of compared reports. */
const maxLines = 20
const maxReports = 60

const kinds = ["config", "code", "numerics", "inputs", "metrics"] as const
const changesOf = (node: NodeDifference): Comparison["nodes"][number]["changes"] => [
  ...(["stage", "seed", "status"] as const).flatMap((kind) => (node[kind] === null ? [] : [{ kind, ...node[kind] }])),
  ...kinds.flatMap((kind) => node[kind].map((change) => ({ kind, ...change }))),
  ...(node.output === null ? [] : [{ kind: "output", ...node.output }])
]

export const comparison = Effect.fnUntraced(function* (beforeId: string, afterId: string) {
  const [before, after] = [yield* runWithLine(beforeId), yield* runWithLine(afterId)]
  const difference = yield* compareRuns(before.run, after.run)
  const nodes = yield* Effect.forEach(difference.nodes, (node, i) =>
    Effect.map(i < maxReports ? reportDifferences(node) : Effect.succeed([]), (report) => ({
      node: node.node,
      only: node.only,
      changes: changesOf(node).map((change) => plainRow(change) as typeof change),
      report: report.slice(0, maxLines)
    }))
  )
  const journal = yield* Journal
  const [old, young] = yield* journal.read((tables) => [tables.outcomesOf(beforeId), tables.outcomesOf(afterId)] as const)
  const last = new Map(old.map((outcome) => [outcome.node, outcome.digest]))
  const figures = yield* Effect.forEach(young, ({ digest, node, stage }) =>
    Effect.gen(function* () {
      const was = last.get(node)
      if (digest === null || was === undefined || was === null || !/report/.test(stage)) return []
      const [is, had] = [yield* figuresOf(digest), yield* figuresOf(was)]
      return is.length === 0 || had.length === 0
        ? []
        : [{ node, before: was, after: digest, count: Math.min(is.length, had.length), titles: is.map(({ title }) => title) }]
    })
  )
  return {
    ...{ before: before.line, after: after.line },
    asked: difference.asked.map((change) => plainRow(change) as typeof change),
    ...{ nodes, same: difference.same, figures: figures.flat() }
  } satisfies Comparison
})
