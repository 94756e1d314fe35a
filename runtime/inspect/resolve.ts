/**
 * Resolves names on the command line, the same way for every command: a run ("latest", "latest~2", a prefix of its id), or a result ("sft", the name
 * of a node or of a pipeline's output; "pipeline:sft"; "latest:sft" or "1a2b3c4d:sft" for a given run; a digest or a prefix of it; a path).
 */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { own } from "../../schemas/own.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { loggedNodes } from "../run/node-log.ts"
import type { NodeStatus, PastExecution, PastRun } from "../store/executions.ts"
import { Journal } from "../store/journal.ts"
import { Store } from "../store/store.ts"

/** A result, or a user's file or folder. */
export type Located =
  | { readonly kind: "file"; readonly path: string }
  /** `execution`: the one by which it was named, if by a node. */
  | { readonly kind: "artifact"; readonly digest: string; readonly execution?: PastExecution }

const short = (digest: string): string => digest.slice(0, 12)
const shortRun = (run: string): string => run.slice(0, 8)

/** Longer lists of names are not printed in errors. */
const listedNames = 20

/** Resolves a run: "latest", "latest~2" (two before it), or a prefix of its id. */
export const resolveRun = (text: string): Effect.Effect<PastRun, PipelineError | StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const fail = (what: string) => new PipelineError({ message: `Looking for the run "${text}": ${what}` })
    const latest = /^latest(?:~(\d+))?$/.exec(text)
    if (latest !== null) {
      const back = Number(latest[1] ?? 0)
      const runs = yield* journal.runs({ limit: back + 1 })
      return runs[back] ?? (yield* fail(runs.length === 0 ? "nothing has run here yet." : `there are only ${runs.length} runs.`))
    }
    const found = yield* journal.runsLike(text)
    if (found.length === 1) return found[0]!
    if (found.length > 1)
      return yield* fail(
        `${found.length} runs start with this id: ${found.map(({ id }) => id.slice(0, 13)).join(", ")}. Give a longer prefix.`
      )
    const known = (yield* journal.runs({ limit: 20 })).map(({ id }) => shortRun(id))
    return yield* fail(`no such run.${didYouMean(text, [...known, "latest"])} \`caravan runs\` lists them.`)
  })

/** Whether a run succeeded or made the result of any node. One that failed and only found earlier results shows nothing new. */
export const hasResults = ({ nodes, status }: PastRun): boolean => status === "succeeded" || (nodes.ran ?? 0) + (nodes.fetched ?? 0) > 0

/** How many runs are searched at a time. */
const searchedRuns = 50

/** The latest run with results (`hasResults`), and the runs after it, latest first; undefined if there is none. */
export const latestWithResults: Effect.Effect<
  { readonly run: PastRun; readonly after: ReadonlyArray<PastRun> } | undefined,
  StoreError,
  Journal
> = Effect.gen(function* () {
  const journal = yield* Journal
  for (let limit = searchedRuns; ; limit *= 4) {
    const runs = yield* journal.runs({ limit })
    const at = runs.findIndex(hasResults)
    if (at >= 0) return { run: runs[at]!, after: runs.slice(0, at) }
    if (runs.length < limit) return undefined
  }
})

/** Whether a name has the form of a run. */
export const isRun = (text: string): boolean => /^(latest(~\d+)?|[0-9a-f-]{4,36})$/.test(text)

/** Resolves a name in a run: the node with that name, otherwise the node of the output with that name. */
export const nodeIn = (run: PastRun, name: string, nodes: ReadonlyArray<string>): string => {
  if (nodes.includes(name)) return name
  return own((run.asked as { readonly outputs?: Readonly<Record<string, string>> } | null)?.outputs ?? {}, name) ?? name
}

/** All names that a result can have. */
const names = Effect.gen(function* () {
  const journal = yield* Journal
  const outputs = (yield* journal.runs({ limit: 100 })).flatMap(outputNames)
  return [...new Set([...(yield* journal.nodeNames()), ...outputs])]
})

/** The hint for a name that nothing has: for "pipeline:name" the nearest name in that pipeline, or the nearest pipeline. */
const hintFor = (text: string, known: ReadonlyArray<string>): Effect.Effect<string, StoreError, Journal> =>
  Effect.gen(function* () {
    const colon = text.indexOf(":")
    const [owner, name] = [text.slice(0, colon), text.slice(colon + 1)]
    if (colon < 1 || name.includes("/")) return didYouMean(text, known, listedNames)
    const journal = yield* Journal
    const pipelines = [...new Set((yield* journal.runs()).map(({ pipeline }) => pipeline))]
    if (!pipelines.includes(owner)) return ` No pipeline named "${owner}" has run here.${didYouMean(owner, pipelines, listedNames)}`
    const nodes = yield* journal.nodeNames(owner)
    const outputs = (yield* journal.runs({ pipeline: owner, limit: 100 })).flatMap(outputNames)
    return ` Pipeline "${owner}" has no node or output "${name}".${didYouMean(name, [...new Set([...nodes, ...outputs])], listedNames)}`
  })

const outputNames = ({ asked }: PastRun): Array<string> => Object.keys((asked as { readonly outputs?: object } | null)?.outputs ?? {})

/** The last executions with a name, one per pipeline: of the node with that name, otherwise of the node of the output with that name. */
const lastOf = (name: string, statuses: ReadonlyArray<NodeStatus>): Effect.Effect<ReadonlyArray<PastExecution>, StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const found = yield* journal.lastOfNode(name, statuses)
    if (found.length > 0) return found
    const byPipeline = new Map<string, string>()
    for (const run of yield* journal.runs()) {
      const node = nodeIn(run, name, [])
      if (node !== name && !byPipeline.has(run.pipeline)) byPipeline.set(run.pipeline, node)
    }
    return (yield* Effect.forEach(byPipeline, ([pipeline, node]) =>
      Effect.map(journal.lastOfNode(node, statuses), (executions) => executions.filter((execution) => execution.pipeline === pipeline))
    )).flat()
  })

const withResult: ReadonlyArray<NodeStatus> = ["hit", "ran", "fetched"]
const anyStatus: ReadonlyArray<NodeStatus> = ["hit", "ran", "fetched", "failed", "skipped"]

/**
 * The execution that a node or output name means, alone or after "pipeline:" or "run:"; undefined if nothing has that name. If a pipeline has
 * several, the last. `statuses`: the accepted ones; default any.
 */
export const findExecution = (
  text: string,
  statuses: ReadonlyArray<NodeStatus> = anyStatus
): Effect.Effect<PastExecution | undefined, PipelineError | StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const fail = (what: string) => new PipelineError({ message: `Looking for "${text}": ${what}` })
    let [found, name] = [yield* lastOf(text, statuses), text]
    const colon = text.indexOf(":")
    if (found.length === 0 && colon > 0) {
      const owner = text.slice(0, colon)
      name = text.slice(colon + 1)
      found = (yield* lastOf(name, statuses)).filter(({ pipeline }) => pipeline === owner)
      if (found.length === 0 && isRun(owner)) {
        const run = yield* resolveRun(owner)
        const all = yield* journal.executionsOf(run.id)
        const ids = all.map(({ node }) => node)
        const node = nodeIn(run, name, ids)
        const last = all.findLast((execution) => execution.node === node)
        if (last !== undefined && statuses.includes(last.status)) return last
        return yield* fail(
          last === undefined
            ? `run ${shortRun(run.id)} (${run.pipeline}) has no node or output "${name}".${didYouMean(name, ids, listedNames) || ` \`caravan show ${shortRun(run.id)}\` lists them.`}`
            : `"${node}" has no result in run ${shortRun(run.id)}: it ${endOf(last.status)} (\`caravan show ${shortRun(run.id)}\`).`
        )
      }
    }
    const digests = new Set(found.map(({ digest }) => digest))
    if (found.length > 1 && (digests.size > 1 || digests.has(null))) {
      const list = found.map(
        ({ pipeline, digest, run }) => `\n  ${pipeline}:${name}  ${digest === null ? "no result" : short(digest)}, run ${shortRun(run)}`
      )
      return yield* fail(`several pipelines have such a node or output:${list.join("")}\nChoose one of these names.`)
    }
    return found[0]
  })

const endOf = (status: NodeStatus): string => (status === "failed" ? "failed" : "was skipped")

/** Resolves a name to a result or a user's file or folder. Fails with the nearest name if nothing matches. */
export const locate = (text: string): Effect.Effect<Located, PipelineError | StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const fail = (what: string) => new PipelineError({ message: `Looking for "${text}": ${what}` })
    const isPath = text.includes("/") || text.startsWith(".")
    const inStore = /objects\/[0-9a-f]{2}\/([0-9a-f]{64})(?:\/|$)/.exec(text)?.[1]
    if (inStore !== undefined && (yield* journal.artifactsLike(inStore)).length === 1) return { kind: "artifact", digest: inStore }
    const isThere = existsSync(text)
    const execution = isPath && isThere ? undefined : yield* findExecution(text, withResult)
    if (isThere && execution !== undefined)
      return yield* fail(
        `it is both a file or folder and a result of pipeline "${execution.pipeline}". Use ./${text} for the file, ${execution.pipeline}:${text} for the result.`
      )
    if (execution !== undefined) return { kind: "artifact", digest: execution.digest!, execution }
    if (/^[0-9a-f]{4,64}$/.test(text)) {
      const found = yield* journal.artifactsLike(text)
      if (found.length === 1) return { kind: "artifact", digest: found[0]!.digest }
      if (found.length === 0 && text.length >= 12 && !isThere)
        return yield* fail("the journal has no such digest. `caravan du --json` lists what is in the store.")
      if (found.length > 1)
        return yield* fail(
          `${found.length} digests start with this prefix: ${found
            .slice(0, 8)
            .map(({ digest }) => short(digest))
            .join(", ")}. Give more of it.`
        )
    }
    if (isThere) return { kind: "file", path: resolve(text) }
    const unmade = isPath ? undefined : yield* findExecution(text)
    if (unmade !== undefined)
      return yield* fail(
        `"${unmade.node}" has no result: it ${endOf(unmade.status)} in run ${shortRun(unmade.run)} (\`caravan show ${shortRun(unmade.run)}\`).`
      )
    if (isRun(text) && (text.startsWith("latest") || (yield* journal.runsLike(text)).length > 0))
      return yield* fail(`it is a run. Name one of its nodes or outputs: ${text}:<node>. \`caravan show ${text}\` lists them.`)
    const known = yield* names
    if (known.includes(text))
      return yield* fail(
        "it is an output of a pipeline that ran here, but no run has reached it yet. Run that pipeline with --until this output."
      )
    return yield* fail(
      isPath
        ? "no such file or folder. Check the path."
        : `no such node, output, digest or path. Expected the name of a node or an output (also as pipeline:name or run:name), a digest or a prefix of it, or a path.${(yield* hintFor(text, known)) || " `caravan show latest` lists the nodes of the last run."}`
    )
  })

/** Resolves "latest", "latest:sft", "sft" or a result's digest to a run or one of its nodes. For a result used by several runs, the last of them. */
export const resolveRunOrNode = (
  text: string
): Effect.Effect<{ readonly run: PastRun; readonly node?: string }, PipelineError | StoreError, Journal | Store> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const fail = (what: string) => new PipelineError({ message: `Looking for the run "${text}": ${what}` })
    if (text.startsWith("latest") && isRun(text)) return { run: yield* resolveRun(text) }
    const ids = isRun(text) ? yield* journal.runsLike(text) : []
    if (ids.length > 0) return { run: yield* resolveRun(text) }
    // A running node has no execution yet, but a log.
    const colon = text.indexOf(":")
    if (colon > 0 && isRun(text.slice(0, colon))) {
      const run = yield* Effect.catchTag(resolveRun(text.slice(0, colon)), "PipelineError", () => Effect.succeed(undefined))
      if (run !== undefined) {
        const begun = loggedNodes((yield* Store).home, run.id)
        const node = nodeIn(run, text.slice(colon + 1), begun)
        if (begun.includes(node)) return { run, node }
      }
    }
    let execution = yield* findExecution(text)
    if (execution === undefined) {
      const located = yield* Effect.catchTag(locate(text), "PipelineError", () => Effect.succeed(undefined))
      if (located?.kind === "file")
        return yield* fail("it is your own file or folder, not a result of a run. Give a run, a node, an output or a digest.")
      if (located !== undefined) execution = (yield* journal.executionsWith(located.digest, "any")).at(-1)
    }
    if (execution === undefined) {
      const known = (yield* journal.runs({ limit: 20 })).map(({ id }) => shortRun(id))
      return yield* fail(
        `no run, node, output or digest has that name.${yield* hintFor(text, [...known, "latest", ...(yield* names)])} \`caravan runs\` lists the runs.`
      )
    }
    return { run: yield* resolveRun(execution.run), node: execution.node }
  })
