/** One node of a run: its inputs, why it ran, its log and its result. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import { skippedText } from "../../runtime/define/skipped.ts"
import type { RecordedGraph } from "../../runtime/define/recorded-graph.ts"
import { messageOf } from "../../runtime/errors.ts"
import { makings } from "../../runtime/inspect/lineage.ts"
import { logPath } from "../../runtime/run/node-log.ts"
import type { PastExecution } from "../../runtime/store/executions.ts"
import { Journal, type JournalTables } from "../../runtime/store/journal.ts"
import { manifestName } from "../../runtime/store/objects.ts"
import { Store } from "../../runtime/store/store.ts"
import type { LogPart, NodeView } from "./api.ts"
import { NotFound } from "./api.ts"
import { recordedOf, runWithLine, wires } from "./runs.ts"
import { linesFrom } from "./tail.ts"
import { RunWatch } from "./watch.ts"

/** Larger reports are not shown completely. */
const maxReportBytes = 2 << 20

const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

const configOf = (execution: PastExecution | undefined, recorded: RecordedGraph | undefined, id: string, stage: string | null) => {
  const fields = (stage === null ? undefined : own(recorded?.stages ?? {}, stage)?.fields) ?? {}
  const defaults = Object.fromEntries(
    Object.entries(fields).flatMap(([name, field]) => ("default" in field ? [[name, field.default]] : []))
  )
  const given = { ...execution?.parts.config, ...defaults, ...recorded?.nodes.find((node) => node.id === id)?.config }
  return Object.entries(given).map(([name, value]) => {
    const field = own(fields, name)
    return {
      name,
      value,
      default: field?.default ?? null,
      differs: field !== undefined && !isSame(field.default, value),
      description: field?.description ?? ""
    }
  })
}

/** A node's inputs, from the recorded graph or reconstructed from their content. */
const inputsOf = (
  execution: PastExecution | undefined,
  recorded: RecordedGraph | undefined,
  id: string,
  results: ReadonlyMap<string, string>,
  tables: JournalTables
) => {
  const node = recorded?.nodes.find((one) => one.id === id)
  if (node === undefined)
    return Object.entries(execution?.parts.inputs ?? {}).flatMap(([port, contents]) =>
      [contents ?? []].flat().map((content) => {
        const [artifact] = tables.artifactsOfContent(content)
        const by = artifact === undefined ? undefined : tables.executionsWith(artifact.digest, "any").at(-1)?.node
        return {
          port,
          name: by ?? tables.filesOfContent(content)[0] ?? "a file",
          node: by ?? null,
          digest: artifact?.digest ?? null,
          type: artifact?.type ?? null
        }
      })
    )
  const byId = new Map(recorded!.nodes.map((one) => [one.id, one]))
  return Object.entries(node.inputs).flatMap(([port, ids]) =>
    [ids ?? []].flat().map((wired) => {
      const from = byId.get(wired)
      return {
        port,
        name: from?.path ?? wired,
        node: from?.stage === null ? null : wired,
        digest: results.get(wired) ?? null,
        type: from?.type ?? null
      }
    })
  )
}

const filesOf = (folder: string): ReadonlyArray<{ readonly name: string; readonly bytes: number }> => {
  const manifest = JSON.parse(readFileSync(join(folder, manifestName), "utf8")) as {
    readonly files: ReadonlyArray<{ readonly path: string; readonly size: number }>
  }
  return manifest.files.map(({ path, size }) => ({ name: path, bytes: size }))
}

const reportIn = (folder: string): unknown => {
  const path = join(folder, "report.json")
  if (!existsSync(path)) return null
  const text = readFileSync(path, "utf8")
  return text.length > maxReportBytes ? null : (JSON.parse(text) as unknown)
}

/** The stored files of a result; unreadable files count as deleted. */
const outputOf = Effect.fnUntraced(function* (digest: string, key: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const artifact = yield* journal.artifact(digest)
  const isThere = yield* store.present(digest)
  const path = store.path(digest)
  const trace = yield* journal.trace(key)
  const pin = (yield* store.pins).find((one) => one.digest === digest)
  const files = isThere ? filesOf(path) : []
  return {
    report: isThere ? reportIn(path) : null,
    output: {
      digest,
      type: artifact?.type ?? "unknown",
      metrics: wires(artifact?.metrics ?? {}),
      isThere,
      path,
      bytes: isThere ? files.reduce((sum, { bytes }) => sum + bytes, 0) : null,
      files,
      pinned: pin === undefined ? null : pin.note,
      skipped: trace?.digest === digest ? (trace.skipped ?? []).map(skippedText) : []
    }
  }
})

/** The log lines that say why it ran and what was retried. */
const failuresIn = (log: string): { readonly why: Array<string>; readonly retries: Array<string> } => {
  const { lines } = linesFrom(log, 0)
  const texts = lines.map((line) => line.slice(25))
  const first = /^stage \S+ starts: (.*)$/.exec(texts[0] ?? "")?.[1]
  return {
    why: first === undefined || first === "" ? [] : first.split("; "),
    retries: texts.filter((text) => text.startsWith("failed; retrying"))
  }
}

export const nodeView = Effect.fnUntraced(function* (runId: string, id: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const { graph, run } = yield* runWithLine(runId)
  const ofGraph = graph.find((node) => node.id === id)
  const execution = (yield* journal.executionsOfNode(runId, id)).at(-1)
  if (ofGraph === undefined && execution === undefined) return yield* new NotFound({ message: `Run ${runId} has no node "${id}".` })
  const watch = new RunWatch(runId, store.home)
  yield* watch.look()
  const { inputs, recorded } = yield* journal.read((tables) => {
    const recorded = recordedOf(run, tables)
    const results = new Map(tables.outcomesOf(runId).flatMap(({ node, digest }) => (digest === null ? [] : [[node, digest] as const])))
    return { recorded, inputs: inputsOf(execution, recorded, id, results, tables) }
  })
  const stage = execution?.stage ?? ofGraph?.stage ?? null
  const log = logPath(store.home, runId, id)
  const told = failuresIn(log)
  const digest = execution?.digest ?? null
  const kept = digest === null ? { output: null, report: null } : yield* outputOf(digest, execution!.key)
  const made = execution?.status === "hit" && digest !== null ? (yield* makings(digest)).at(0) : undefined
  return {
    run: runId,
    id,
    stage,
    description: (stage === null ? undefined : own(recorded?.stages ?? {}, stage)?.description) ?? "",
    type: ofGraph?.type ?? null,
    state: watch.stateOf(id),
    why: execution?.status === "hit" ? ["its result was in the store"] : told.why,
    retries: told.retries,
    config: configOf(execution, recorded, id, stage),
    seed: execution?.parts.seed ?? null,
    key: execution === undefined || execution.key === "" ? null : execution.key,
    numerics: { ...execution?.parts.numerics },
    inputs,
    usedBy: graph.filter((node) => node.inputs.includes(id)).map((node) => node.id),
    ...kept,
    madeBy: made?.run ?? null,
    code: Object.keys(execution?.files ?? {}).filter((name) => !name.includes("node_modules/")),
    hasLog: existsSync(log)
  } satisfies NodeView
})

/** Number of bytes at the end of a log that are sent first. */
const firstPart = 64 << 10

/** The log of a node from a byte offset, or at first its end. */
export const logPart = Effect.fnUntraced(function* (run: string, node: string, from: number | undefined) {
  const { home } = yield* Store
  const path = logPath(home, run, node)
  return yield* Effect.try({
    try: (): LogPart => {
      const { size } = linesFrom(path, 0, 1)
      const start = from ?? Math.max(0, size - firstPart)
      const { lines, next } = linesFrom(path, start)
      // A part that starts at an arbitrary offset starts with a partial line.
      const whole = from === undefined && start > 0 ? lines.slice(1) : lines
      return {
        lines: whole.map((line) => ({ time: line.slice(0, 24), text: line.slice(25) })),
        omitted: from === undefined ? start : 0,
        next
      }
    },
    catch: (cause) => new NotFound({ message: `Reading the log of "${node}": ${messageOf(cause)}.` })
  })
})
