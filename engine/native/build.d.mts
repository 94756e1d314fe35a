import type { Libtorch } from "./libtorch.mjs"

export type { Libtorch } from "./libtorch.mjs"
export { findLibtorch } from "./libtorch.mjs"
/** The path of the addon for this source and this libtorch, built or not. Throws without libtorch. */
export function addonPath(libtorch?: Libtorch): string
/** Builds the addon unless it exists; returns its path. Throws with the command that fixes a failure. */
export function buildAddon(options?: { readonly quiet?: boolean }): string
/** sha256 of the addon's sources: part of the numerics. */
export function addonSourceDigest(): string
