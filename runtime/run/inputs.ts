/** The user's inputs of a run or a plan: files and folders on the disk, and what is on the Hub, which is looked up once and fetched when a stage is to read it. */
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

/** A promise of the Hub's: its own errors are failures, others are mistakes in the code. */
const fromHub = <A>(body: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, PipelineError | StoreError> =>
  Effect.tryPromise({ try: body, catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (cause instanceof PipelineError || cause instanceof StoreError ? Effect.fail(cause) : Effect.die(cause)))
  )

/** The pipeline's graph, in which names on the Hub are looked up: each revision once, so that all is of one commit. */
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

/** The content of an input, and the stamp it had; what is on the Hub needs no reading, and has a stamp when it is fetched. */
export const digestInput = (
  { path, remote }: FileNode,
  cache: KeyCache,
  onRead?: OnRead
): Effect.Effect<{ readonly digest: string; readonly stamp: string }, PipelineError | StoreError> =>
  remote === undefined ? digestFile(path, cache, onRead) : Effect.succeed({ digest: remote.digest, stamp: "" })

/** Whether an input is to be had. */
export const isInputThere = ({ path, remote }: FileNode): boolean => remote !== undefined || isHubName(path) || isThere(path)

/** What records call an input. */
export const inputName = ({ path, remote }: FileNode): string => remote?.pinned ?? path

/** Fetches what is on the Hub, and tells how far it is; gives the stamp of what came. */
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
