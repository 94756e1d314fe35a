/**
 * A stage that runs as several ranks: processes of one group, each told its place by torchrun's variables. Whoever starts them (gang.ts on this machine, a scheduler elsewhere) gives each the
 * variables of its rank, and its job (`rankJob`).
 */
import type { StageNode } from "../define/graph.ts"

/** How training is spread: what of a model's weights, gradients and optimiser each rank has a part of, and not the whole (docs/decisions/0023-ranks.md). */
export type Sharding = "none" | "optimizer" | "weights"

export interface RankGroup {
  readonly size: number
  readonly sharding: Sharding
  /** Seconds that a rank waits for the others. */
  readonly seconds: number
  /** Machines that they are on. */
  readonly nodes: number
}

/** A rank's place in its group, as a process is told it. */
export interface RankPlace extends RankGroup {
  readonly rank: number
  readonly host: string
  readonly port: number
}

/** What is asked of a run. */
interface Asked {
  readonly device?: "cpu" | "cuda"
  readonly threads?: number
  readonly ranks?: number
  readonly sharding?: Sharding
  readonly rankSeconds?: number
}

/** How many ranks a node's stage runs as: with device cuda as many as it is placed on GPUs, where it says; else as many as the run asks for. One that can't spread is one; a mapped one works on its shards one by one. */
export const ranksOf = ({ placement, stage }: Pick<StageNode, "placement" | "stage">, { device = "cpu", ranks = 1 }: Asked): number => {
  if (stage.resources.ranks !== true || stage.sharding !== undefined) return 1
  const gpus = device === "cuda" ? placement?.gpus : undefined
  return gpus === undefined ? ranks : gpus * (placement?.nodes ?? 1)
}

/** What of a node's job follows from the machine that a run is given. */
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

/** The place that those variables give this process; throws where one is missing or is not what it should be. */
export const rankPlace = (group: RankGroup, environment: Readonly<Record<string, string | undefined>>): RankPlace => {
  const { MASTER_ADDR: host = "", MASTER_PORT, RANK, WORLD_SIZE } = environment
  const [rank, size, port] = [RANK, WORLD_SIZE, MASTER_PORT].map(Number) as [number, number, number]
  const isWhole = (value: number, least: number, most: number) => Number.isInteger(value) && value >= least && value <= most
  if (size === group.size && isWhole(rank, 0, size - 1) && isWhole(port, 1, 65535) && host !== "") return { ...group, rank, host, port }
  const found = Object.entries({ RANK, WORLD_SIZE, MASTER_ADDR: host, MASTER_PORT }).map(([name, value]) => `${name}=${value ?? ""}`)
  throw new Error(
    `A stage of ${group.size} ranks: expected RANK from 0 to ${group.size - 1}, WORLD_SIZE ${group.size}, MASTER_ADDR and a MASTER_PORT, found ${found.join(" ")}. Whatever starts the ranks must set them, as torchrun does.`
  )
}
