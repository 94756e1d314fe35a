/** Joins the ranks that bench/on-ranks.ts or torchrun started, by their environment variables; without them the process stays alone. */
import { joinRanks, RankError, type Sharding } from "../engine/ranks.ts"

export const joinFromEnvironment = (sharding: Sharding, device: "cpu" | "cuda"): void => {
  const { MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE } = process.env
  if (RANK === undefined) return
  const group = { rank: Number(RANK), size: Number(WORLD_SIZE), host: MASTER_ADDR!, port: Number(MASTER_PORT) }
  try {
    joinRanks({ ...group, joining: 120, deadline: 300, sharding }, device)
  } catch (error) {
    if (!(error instanceof RankError)) throw error
    console.error(error.message)
    process.exit(1)
  }
}
