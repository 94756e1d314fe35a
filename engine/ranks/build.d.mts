import type { Libtorch } from "../native/libtorch.mjs"

/** What ranks exchange tensors over, for a libtorch: NCCL where it has CUDA, else Gloo. */
export function backendOf(libtorch?: Libtorch): "nccl" | "gloo"
/** Why the addon can't be built here, with what mends it; undefined where it can. */
export function ranksMissing(libtorch?: Libtorch): string | undefined
/** Of the addon's source. */
export function sourceDigest(): string
/** Builds the addon unless it is there; returns its path. Throws with the command that mends it, or where its source has another digest than that. */
export function buildRanks(expected?: string): string
