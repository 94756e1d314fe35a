/** The user's inputs of a run or plan: local files and folders, and names on the Hub, which are resolved once and downloaded when a stage needs them. */
import * as Effect from "effect/Effect"
import { isThere } from "../../schemas/file-pattern.ts"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { isHubName } from "../../schemas/hub-name.ts"
import { buildGraph, type FileNode, type Graph, type GraphNode } from "../define/graph.ts"
import type { Pipeline } from "../define/pipeline.ts"
import type { RemoteFiles } from "../define/remote.ts"
import { PipelineError, StoreError } from "../errors.ts"
import { Hub } from "../hub/hub.ts"
import { digestFile, type OnRead, reportInterval, stampOf } from "../key/file-source.ts"
import type { KeyCache } from "../key/key-cache.ts"
import type { RunEvent } from "./events.ts"
import { graphOptions, type RunOptions } from "./options.ts"

/** Runs a promise of the Hub: its own errors are failures, all others are defects. */
const fromHub = <A>(body: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, PipelineError | StoreError> =>
  Effect.tryPromise({ try: body, catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (cause instanceof PipelineError || cause instanceof StoreError ? Effect.fail(cause) : Effect.die(cause)))
  )

/** The pipeline's graph with resolved Hub names: each revision is looked up once, so that everything comes from one commit. */
export const graphOf = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  options: RunOptions
): Effect.Effect<Graph, PipelineError | ConfigError | StoreError> =>
  Effect.gen(function* () {
    const graph = yield* buildGraph(pipeline, params, graphOptions(options))
    const isRemote = (node: GraphNode): node is FileNode => node.kind === "file" && isHubName(node.path)
    if (![...graph.nodes.values()].some(isRemote)) return graph
    const hub = options.hub ?? new Hub()
    const nodes = new Map<string, GraphNode>()
    for (const [id, node] of graph.nodes) {
      if (!isRemote(node)) {
        nodes.set(id, node)
        continue
      }
      const remote = yield* fromHub((signal) => hub.resolve(node.path, { signal }))
      nodes.set(id, { ...node, path: remote.path, remote })
    }
    return { ...graph, nodes }
  })

/** An input's content digest and stamp; files on the Hub need no reading, and get a stamp when downloaded. */
export const digestInput = (
  { path, remote }: FileNode,
  cache: KeyCache,
  onRead?: OnRead
): Effect.Effect<{ readonly digest: string; readonly stamp: string }, PipelineError | StoreError> =>
  remote === undefined ? digestFile(path, cache, onRead) : Effect.succeed({ digest: remote.digest, stamp: "" })

/** Whether an input is available. */
export const inputExists = ({ path, remote }: FileNode): boolean => remote !== undefined || isHubName(path) || isThere(path)

/** An input's name in records. */
export const inputName = ({ path, remote }: FileNode): string => remote?.pinned ?? path

/** Downloads files from the Hub with progress; returns the stamp of the result. */
export const fetchInput = (remote: RemoteFiles, emit: (event: RunEvent) => void): Effect.Effect<string, PipelineError | StoreError> =>
  fromHub(async (signal) => {
    const { bytes: total, name } = remote
    let [done, isTold] = [0, false]
    let last = performance.now()
    await remote.fetch({
      signal,
      onBytes: (count) => {
        done += count
        const now = performance.now()
        if (now - last < reportInterval) return
        last = now
        isTold = true
        emit({ type: "downloading", name, done: Math.max(0, Math.min(done, total)), total })
      }
    })
    if (isTold) emit({ type: "downloading", name, done: total, total })
    return stampOf(remote.path)
  })
