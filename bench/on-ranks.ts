/**
 * Starts a benchmark as several ranks with one GPU each, as torchrun does; rank 0 prints.
 *
 *     node bench/on-ranks.ts 2 bench/train-gpu.ts size=1.1b batch=4 length=4096 sharding=weights
 *
 * The peer: torchrun --nproc-per-node 2 bench/peers/fsdp2.py.
 *
 * ONE_GPU=on: all ranks use the first GPU and NCCL connects them over sockets, as ranks of different machines; for comparing losses, not speed.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"

const [ranks, ...command] = process.argv.slice(2)
const size = Number(ranks)
if (!Number.isInteger(size) || size < 1 || command.length === 0)
  throw new Error("Usage: node bench/on-ranks.ts <ranks> <file.ts> [arguments]")
const gpuOf = (rank: number) =>
  process.env.ONE_GPU === "on" ? { CUDA_VISIBLE_DEVICES: "0", NCCL_HOSTID: `rank-${rank}` } : { CUDA_VISIBLE_DEVICES: `${rank}` }
const port = String(20_000 + (process.pid % 20_000))
const children = Array.from({ length: size }, (_, rank) => {
  const variables = { RANK: `${rank}`, WORLD_SIZE: `${size}`, LOCAL_RANK: `${rank}`, MASTER_ADDR: "127.0.0.1", MASTER_PORT: port }
  return spawn(process.execPath, command, {
    env: { ...process.env, ...variables, ...gpuOf(rank) },
    stdio: ["ignore", rank === 0 ? "inherit" : "ignore", "inherit"]
  })
})
const codes = await Promise.all(
  children.map(async (child) => {
    const [code] = (await once(child, "exit")) as [number | null]
    if (code !== 0) children.forEach((other) => other.kill("SIGKILL"))
    return code
  })
)
process.exit(codes.every((code) => code === 0) ? 0 : 1)
