/** The options of a run, and the nodes that a selection chooses. */
import * as Effect from "effect/Effect"
import { ancestors, descendants, type Graph, nearestNode, nodeNamed, type Settings } from "../define/graph.ts"
import type { NodeLimits } from "../define/node.ts"
import { PipelineError } from "../errors.ts"
import type { Hub } from "../hub/hub.ts"
import type { RunEvent } from "./events.ts"
import type { Interruption } from "./execute.ts"
import type { SharedPlace } from "../shared/open.ts"
import type { CommandLine } from "../store/asked.ts"
import type { LockFile } from "./lock-file.ts"
import type { Sharding } from "./ranks.ts"

export interface RunOptions {
  /** Config fields of nodes: `{ "sft.epochs": "3" }`, values as on the command line. */
  readonly settings?: Settings
  /** Default: 0. */
  readonly seed?: number
  readonly device?: "cpu" | "cuda"
  readonly threads?: number
  /** Number of processes for stages that support several ranks, one GPU each on CUDA. Default: 1. */
  readonly ranks?: number
  /** What such a stage shards in training. Default: "weights". */
  readonly sharding?: Sharding
  /** Seconds that ranks wait for each other before they fail. Default: 600. */
  readonly rankSeconds?: number
  /** Maximum concurrent stages without tensors; stages with tensors run one at a time. */
  readonly jobs?: number
  /** Runs only this node or output. */
  readonly only?: string
  /** Runs this node or output and everything after it. */
  readonly from?: string
  /** Runs this node or output and everything that it needs. */
  readonly until?: string
  /** Nodes or outputs that are computed again although their results exist. */
  readonly force?: ReadonlyArray<string>
  /** A plain function, called at once for each event; `events` is the same as a Stream. An Effect that it returns is not run. */
  readonly onEvent?: (event: RunEvent) => void
  /** Limits for every node; a node's own limits take precedence. */
  readonly limits?: NodeLimits
  /** Minimum seconds between two checkpoints of a stage. Default: 60. 0: after every step. */
  readonly checkpointSeconds?: number
  /** Maximum steps between two checkpoints. If seconds are given too, whichever comes first applies. */
  readonly checkpointSteps?: number
  /** The command line that repeats the run, if there is one: recorded with the run. */
  readonly again?: CommandLine
  /** Resolves names on the Hugging Face Hub. Runs that share it use the same commits. Default: a new one per run. */
  readonly hub?: Hub
  /** The lock file from `freeze`: the run does not start if anything differs from it, and a node fails if its result differs. */
  readonly locked?: LockFile
  /** Where stages run, for nodes without a placement of their own. Default: "local". */
  readonly on?: "local" | "slurm"
  /** Maximum number of concurrently submitted jobs. */
  readonly slurmJobs?: number
  /** Called when the run is interrupted; decides what happens to its jobs. Default: they are left running. */
  readonly onInterruption?: () => Interruption
  /** Where results are shared with others. */
  readonly shared?: SharedPlace
}

export interface Machine {
  readonly device: "cpu" | "cuda"
  readonly threads: number
  /** Present only if above 1, together with `sharding`. */
  readonly ranks?: number
  readonly sharding?: Sharding
}
export const machineOf = ({
  device = "cpu",
  threads = 1,
  ranks = 1,
  sharding = "weights"
}: Pick<RunOptions, "device" | "threads" | "ranks" | "sharding">): Machine => ({
  device,
  threads,
  ...(ranks > 1 ? { ranks, sharding } : {})
})

/** The options for building a graph. */
export const graphOptions = ({ settings = {}, seed = 0 }: Pick<RunOptions, "settings" | "seed">) => ({ settings, seed })

/** Replaces output names in the options with node ids. Fails for unknown names. */
export const namedNodes = <Options extends RunOptions>(graph: Graph, options: Options): Effect.Effect<Options, PipelineError> =>
  Effect.gen(function* () {
    const isStage = (id: string) => graph.nodes.get(id)?.kind === "stage"
    const named = Effect.fnUntraced(function* (flag: string, name: string) {
      const id = nodeNamed(graph, name)
      if (id !== undefined && isStage(id)) return id
      const near = nearestNode(name, [...[...graph.nodes.keys()].filter(isStage), ...Object.keys(graph.outputs)])
      return yield* new PipelineError({ message: `--${flag} ${name}: no such node or output.${near}` })
    })
    const given = (["only", "from", "until"] as const).flatMap((flag) =>
      options[flag] === undefined ? [] : [[flag, options[flag]] as const]
    )
    const chosen = yield* Effect.forEach(given, ([flag, name]) => Effect.map(named(flag, name), (id) => [flag, id] as const))
    const force = yield* Effect.forEach(options.force ?? [], (name) => named("force", name))
    return { ...options, ...Object.fromEntries(chosen), ...(force.length > 0 && { force }) }
  })

/** The ids of the nodes that a selection runs (`namedNodes`); undefined: all. */
export const chosenNodes = (graph: Graph, options: Pick<RunOptions, "only" | "from" | "until">): ReadonlySet<string> | undefined => {
  if (options.only !== undefined) return new Set([options.only])
  let selected: Set<string> | undefined
  if (options.from !== undefined) selected = descendants(graph, options.from)
  if (options.until !== undefined) {
    const above = ancestors(graph, [options.until])
    selected = selected === undefined ? above : new Set([...selected].filter((id) => above.has(id)))
  }
  return selected
}
