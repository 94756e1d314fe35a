/**
 * A stage with several ranks: processes of one group, each with torchrun's variables for its place. Whatever starts them (gang.ts on this machine, a
 * scheduler elsewhere) gives each one its rank's variables and its job (`rankJob`).
 */
import type { StageNode } from "../define/graph.ts"

/** What training shards: which of a model's weights, gradients and optimiser state each rank stores only partly (docs/decisions/0023-ranks.md). */
export type Sharding = "none" | "optimizer" | "weights"

export interface RankGroup {
  readonly size: number
  readonly sharding: Sharding
  /** Seconds that a rank waits for the others. */
  readonly seconds: number
  /** Number of machines. */
  readonly nodes: number
}

/** A rank's place in its group, as passed to its process. */
export interface RankPlace extends RankGroup {
  readonly rank: number
  readonly host: string
  readonly port: number
}

/** The run's options. */
interface Asked {
  readonly device?: "cpu" | "cuda"
  readonly threads?: number
  readonly ranks?: number
  readonly sharding?: Sharding
  readonly rankSeconds?: number
}

/**
 * The number of ranks of a node's stage: on CUDA the number of GPUs in its placement, if given; otherwise the run's option. A stage that does not
 * support ranks has one; a mapped stage processes its shards one by one.
 */
export const ranksOf = ({ placement, stage }: Pick<StageNode, "placement" | "stage">, { device = "cpu", ranks = 1 }: Asked): number => {
  if ((stage.resources.ranks ?? false) === false || stage.sharding !== undefined) return 1
  const gpus = device === "cuda" ? placement?.gpus : undefined
  return gpus === undefined ? ranks : gpus * (placement?.nodes ?? 1)
}

/** The parts of a node's job that follow from the run's hardware. */
export const machineFor = (node: Pick<StageNode, "placement" | "stage">, asked: Asked) => {
  const { device = "cpu", rankSeconds = 600, sharding = "weights", threads = 1 } = asked
  const size = ranksOf(node, asked)
  const group: RankGroup = { size, sharding, seconds: rankSeconds, nodes: node.placement?.nodes ?? 1 }
  return { device, threads, ...(size > 1 ? { ranks: group } : {}) }
}

/** torchrun's variables for a rank. */
export const rankVariables = (at: {
  readonly rank: number
  readonly localRank: number
  readonly size: number
  readonly host: string
  readonly port: number
}): Readonly<Record<string, string>> => ({
  RANK: String(at.rank),
  WORLD_SIZE: String(at.size),
  LOCAL_RANK: String(at.localRank),
  MASTER_ADDR: at.host,
  MASTER_PORT: String(at.port)
})

/** This process's place according to those variables; throws if one is missing or invalid. */
export const rankPlace = (group: RankGroup, environment: Readonly<Record<string, string | undefined>>): RankPlace => {
  const { MASTER_ADDR: host = "", MASTER_PORT, RANK, WORLD_SIZE } = environment
  const [rank, size, port] = [RANK, WORLD_SIZE, MASTER_PORT].map(Number) as [number, number, number]
  const isWhole = (value: number, least: number, most: number) => Number.isInteger(value) && value >= least && value <= most
  if (size === group.size && isWhole(rank, 0, size - 1) && isWhole(port, 1, 65535) && host !== "") return { ...group, rank, host, port }
  const found = Object.entries({ RANK, WORLD_SIZE, MASTER_ADDR: host, MASTER_PORT }).map(([name, value]) => `${name}=${value ?? ""}`)
  throw new Error(
    `A stage of ${group.size} ranks: expected RANK from 0 to ${group.size - 1}, WORLD_SIZE ${group.size}, MASTER_ADDR and a MASTER_PORT, found ${found.join(" ")}. The program that starts the ranks must set them, as torchrun does.`
  )
}
