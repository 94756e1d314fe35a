import type { Libtorch } from "../native/libtorch.mjs"

/** The backend over which ranks exchange tensors: NCCL if this libtorch has CUDA, otherwise Gloo. */
export function backendOf(libtorch?: Libtorch): "nccl" | "gloo"
/** Why the addon can't be built here, and how to fix that; undefined if it can. */
export function ranksMissing(libtorch?: Libtorch): string | undefined
/** Digest of the addon's source. */
export function sourceDigest(): string
/** Builds the addon unless it exists; returns its path. Throws with the command that fixes a failure, or if the source's digest is not `expected`. */
export function buildRanks(expected?: string): string
