/** How a pipeline is run: what may be asked for, and the nodes that a selection chooses. */
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { ancestors, descendants, type Graph, nodeNamed, type Settings } from "../define/graph.ts"
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
  readonly settings?: Settings
  readonly seed?: number
  readonly device?: "cpu" | "cuda"
  readonly threads?: number
  /** Processes that stages which can spread are spread over, a GPU each with device cuda; 1 unless given. */
  readonly ranks?: number
  /** How such a stage's training is spread: "weights" unless given. */
  readonly sharding?: Sharding
  /** Seconds that ranks wait for one another before they give up; 600 unless given. */
  readonly rankSeconds?: number
  /** Stages without tensors that run at once; stages with tensors run one at a time. */
  readonly jobs?: number
  readonly only?: string
  readonly from?: string
  readonly until?: string
  readonly force?: ReadonlyArray<string>
  readonly onEvent?: (event: RunEvent) => void
  /** What every node may take; a node's own limits come first. */
  readonly limits?: NodeLimits
  /** Seconds between two checkpoints of a stage, at least; 60 unless given. 0: after every step. */
  readonly checkpointSeconds?: number
  /** Steps between two checkpoints, at most; whichever comes first, if seconds are given too. */
  readonly checkpointSteps?: number
  /** The command line that asks for the same again, where there is one: recorded with the run. */
  readonly again?: CommandLine
  /** Looks up what is on the Hugging Face Hub: what runs share, they take at the same commits. One of its own for each run unless given. */
  readonly hub?: Hub
  /** What `freeze` wrote: the run does not start when anything differs from it, and fails when a result does. */
  readonly locked?: LockFile
  /** Where stages run, unless their nodes say otherwise; "local" unless given. */
  readonly on?: "local" | "slurm"
  /** Jobs that are submitted at once, at most. */
  readonly slurmJobs?: number
  /** What becomes of jobs when the run is interrupted; asked then. They are left unless given. */
  readonly onInterruption?: () => Interruption
  /** Where results are shared with others. */
  readonly shared?: SharedPlace
}

export interface Machine {
  readonly device: "cpu" | "cuda"
  readonly threads: number
  /** Above 1, and with it `sharding`; else neither is there. */
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

/** What a graph is built with. */
export const graphOptions = ({ settings = {}, seed = 0 }: Pick<RunOptions, "settings" | "seed">) => ({ settings, seed })

/** The options with nodes by their ids, where an output's name was given. Fails for a name that is neither. */
export const namedNodes = <Options extends RunOptions>(graph: Graph, options: Options): Effect.Effect<Options, PipelineError> =>
  Effect.gen(function* () {
    const isStage = (id: string) => graph.nodes.get(id)?.kind === "stage"
    const named = Effect.fnUntraced(function* (flag: string, name: string) {
      const id = nodeNamed(graph, name)
      if (id !== undefined && isStage(id)) return id
      const near = didYouMean(name, [...[...graph.nodes.keys()].filter(isStage), ...Object.keys(graph.outputs)])
      return yield* new PipelineError({ message: `--${flag} ${name}: there is no such node or output.${near}` })
    })
    const given = (["only", "from", "until"] as const).flatMap((flag) =>
      options[flag] === undefined ? [] : [[flag, options[flag]] as const]
    )
    const chosen = yield* Effect.forEach(given, ([flag, name]) => Effect.map(named(flag, name), (id) => [flag, id] as const))
    const force = yield* Effect.forEach(options.force ?? [], (name) => named("force", name))
    return { ...options, ...Object.fromEntries(chosen), ...(force.length > 0 && { force }) }
  })

/** The nodes that a selection runs, by ids (`namedNodes`); undefined: all. */
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
