/**
 * A group of ranks: processes that train one model callGroup, with one GPU each. They communicate through torch.distributed's c10d (ranks/ranks.cc): Gloo on the
 * CPU, NCCL on GPUs. A process that has not joined a group is a group of one, and every function here returns its own values.
 */
import { createRequire } from "node:module"
import { deserialize, serialize } from "node:v8"
import { findOperator, native } from "./native.ts"
import { noGrad, scoped, tensor, type Tensor } from "./tensor.ts"

/** How a model in training is sharded over the ranks: not at all; gradients and optimiser state only; or the weights too, which are gathered block by block. */
export type Sharding = "none" | "optimizer" | "weights"

/** A rank's place in its group, from torchrun's variables, and the group's settings. */
export interface Place {
  /** RANK, from 0; WORLD_SIZE. */
  readonly rank: number
  readonly size: number
  /** MASTER_ADDR and MASTER_PORT: the address at which rank 0 accepts the others. */
  readonly host: string
  readonly port: number
  /** Timeouts in seconds: for all ranks to join, and for one operation. */
  readonly joining: number
  readonly deadline: number
  readonly sharding: Sharding
}

/** Digest of ranks/ranks.cc, whose sums affect results. Here it is part of the stages' code, and so of their keys. */
const source = "502393f9e4abcad6"

let place: Place | undefined
let device: "cpu" | "cuda" = "cpu"

/** The other ranks could not be reached, or the connection to them was lost. They report their own errors. */
export class RankError extends Error {
  override readonly name = "RankError"
  readonly _tag = "RankError"
  readonly isRetryable = true
}

const lines = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause)).split("\n")[0]!.replace(/\.$/, "")

const call = (name: string, ...args: ReadonlyArray<number | string>): any => native().call(findOperator(`caravan_ranks::${name}`), ...args)

/** Calls one of the group's operators; `doing` describes the purpose, for errors. */
const callGroup = (doing: string, name: string, ...args: ReadonlyArray<number | string>): any => {
  try {
    return call(name, ...args)
  } catch (cause) {
    throw new RankError(
      `Rank ${rank()} of ${ranks()} lost the others while ${doing}: ${lines(cause)}. Another rank ended, or the network between them failed: read the other ranks' lines in the log (caravan log).`
    )
  }
}

/** Joins a group. Call it before any other use of tensors. A process leaves the group when it exits. */
export const joinRanks = (to: Place, on: "cpu" | "cuda"): void => {
  const require = createRequire(import.meta.url)
  const build = require("./ranks/build.mjs") as typeof import("./ranks/build.mjs")
  const nccl = build.backendOf() === "nccl"
  if (nccl !== (on === "cuda"))
    throw new Error(
      nccl
        ? "Ranks on the CPU need Gloo, whose headers this libtorch does not include. Use --device cuda, or Debian's libtorch (apt-get install libtorch-dev libgloo-dev)."
        : "Ranks on GPUs need a libtorch with CUDA. Install PyTorch with CUDA, or use --device cpu."
    )
  native()
  process.dlopen({ exports: {} }, build.buildRanks(source))
  const { deadline, host, joining, port, rank, size } = to
  const where = `${host}:${port}`
  try {
    call("join", rank, size, host, port, joining, deadline)
  } catch (cause) {
    const hint = /in use|EADDRINUSE/i.test(lines(cause))
      ? `Another program uses port ${port}: set MASTER_PORT to a free port.`
      : rank === 0
        ? "A rank did not start, or can't reach this machine: check the other ranks' logs, and set MASTER_ADDR to an address of this machine that they can reach."
        : "Check that rank 0 is running and that MASTER_ADDR and MASTER_PORT point to it."
    throw new RankError(`Rank ${rank} of ${size} did not meet the others at ${where} within ${joining} seconds: ${lines(cause)}. ${hint}`)
  }
  const [backend, prefix] = nccl ? ["NCCL", "NCCL"] : ["Gloo", "GLOO"]
  const interfaces = `${prefix}_SOCKET_IFNAME selects the network interface that all machines share${nccl ? ", and NCCL_DEBUG=INFO shows what NCCL tries" : ""}`
  try {
    call("connect_all", `connecting to the others over ${backend} (${interfaces})`)
  } catch (cause) {
    throw new RankError(
      `Rank ${rank} of ${size} joined the others at ${where}, but could not connect to them over ${backend}: ${lines(cause)}. ${interfaces}.`
    )
  }
  place = to
  device = on
}

/** This process's number in its group, from 0; 0 without one. */
export const rank = (): number => place?.rank ?? 0
/** How many ranks there are; 1 without a group. */
export const ranks = (): number => place?.size ?? 1
/** How the model in training is sharded over the group. */
export const sharding = (): Sharding => place?.sharding ?? "none"

/** Sums a tensor over all ranks, in place. */
export const allReduce_ = (x: Tensor, doing: string): Tensor => {
  if (ranks() > 1) noGrad(() => callGroup(doing, "all_reduce", x.handle, doing))
  return x
}

/** Waits for a pending operation. Call it once. */
export type Wait = () => void

/** Fills `whole` (n E,) with every rank's `shard` (E,), in rank order. */
export const allGather = (whole: Tensor, shard: Tensor, doing: string): Wait => {
  const number = callGroup(doing, "all_gather", whole.handle, shard.handle, doing) as number
  return () => callGroup(doing, "finish", number)
}
/** Fills `shard` (E,) with this rank's part of the sum of all ranks' `whole` (n E,). Overwrites `whole`. */
export const reduceScatter = (shard: Tensor, whole: Tensor, doing: string): Wait => {
  const number = callGroup(doing, "reduce_scatter", shard.handle, whole.handle, doing) as number
  return () => callGroup(doing, "finish", number)
}

/** Releases a contiguous tensor's memory (0 bytes) or allocates it again, uninitialised. Views of it stay views. */
export const resizeStorage_ = (x: Tensor, bytes: number): void => call("resize_storage", x.handle, bytes)
/** Sets a tensor's gradient, which may have another dtype. */
export const setGradient = (x: Tensor, gradient: Tensor): void => call("set_gradient", x.handle, gradient.handle)

/** Each rank's value, in rank order. Values are plain data; numbers are transferred exactly. */
export const gatherAll = <A>(mine: A, doing: string): Array<A> => {
  if (ranks() === 1) return [mine]
  const bytes = serialize(mine)
  return scoped(() =>
    noGrad(() => {
      const length = tensor(Float64Array.of(bytes.length), { device })
      const lengths = tensor(new Float64Array(ranks()), { device })
      allGather(lengths, length, doing)()
      const sizes = lengths.toNumbers()
      const most = Math.max(...sizes)
      const padded = new Uint8Array(most)
      padded.set(bytes)
      const all = tensor(new Uint8Array(most * ranks()), { device })
      allGather(all, tensor(padded, { device }), doing)()
      const out = new Uint8Array(most * ranks())
      all.copyBytes(out, 0)
      return sizes.map((size, i) => deserialize(out.subarray(i * most, i * most + size)) as A)
    })
  )
}
/** Rank 0's value, on every rank. */
export const agree = <A>(mine: A, doing: string): A => gatherAll(rank() === 0 ? mine : (undefined as A), doing)[0]!

/** Sums over all ranks, in rank order: the same numbers on every rank, including NaN. */
export const sumOver = (numbers: ArrayLike<number>, doing: string): Array<number> => {
  if (ranks() === 1) return Array.from(numbers)
  return scoped(() =>
    noGrad(() => {
      const all = tensor(new Float64Array(numbers.length * ranks()), { device })
      allGather(all, tensor(Float64Array.from(numbers), { device }), doing)()
      const given = all.toNumbers()
      return Array.from(numbers, (_, i) =>
        Array.from({ length: ranks() }, (_, rank) => given[rank * numbers.length + i]!).reduce((sum, x) => sum + x, 0)
      )
    })
  )
}

/**
 * The rows that this rank (or rank `to`) computes, of rows that all ranks know. Consecutive rows go to different ranks, because rows next to each
 * other often have similar lengths.
 */
export const rowsOfRank = <A>(rows: ReadonlyArray<A>, to = rank()): ReadonlyArray<A> =>
  ranks() === 1 ? rows : rows.filter((_, i) => i % ranks() === to)

/** The inverse of `rowsOfRank`: merges each rank's rows into the original order. */
export const mergeRows = <A>(all: ReadonlyArray<ReadonlyArray<A>>): Array<A> =>
  Array.from({ length: all.reduce((sum, { length }) => sum + length, 0) }, (_, i) => all[i % all.length]![Math.floor(i / all.length)]!)

/** Maps `compute` over rows that all ranks know, one result per row. Each rank computes its own rows, and every rank gets all results. */
export const overRanks = <Row, A>(
  rows: ReadonlyArray<Row>,
  doing: string,
  compute: (rows: ReadonlyArray<Row>) => ReadonlyArray<A>
): ReadonlyArray<A> => (ranks() === 1 ? compute(rows) : mergeRows(gatherAll(compute(rowsOfRank(rows)), doing)))
