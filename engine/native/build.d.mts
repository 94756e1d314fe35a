import type { Libtorch } from "./libtorch.mjs"

export type { Libtorch } from "./libtorch.mjs"
export { findLibtorch } from "./libtorch.mjs"
/** Where the addon for this source and this libtorch is, or will be. Throws without libtorch. */
export function addonPath(libtorch?: Libtorch): string
/** Builds the addon unless it is there; returns its path. Throws with the command that mends it. */
export function buildAddon(options?: { readonly quiet?: boolean }): string
/** sha256 of the addon's sources: part of the numerics. */
export function addonSourceDigest(): string
