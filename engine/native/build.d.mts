export interface Libtorch {
  readonly version: string
  /** Where it was found: "LIBTORCH", "python", "system", "download". */
  readonly source: string
  readonly includeDirs: ReadonlyArray<string>
  readonly libDir: string | undefined
  readonly cuda: boolean
  readonly cxx11Abi: boolean
}
/** The libtorch of this machine, or undefined. */
export function findLibtorch(): Libtorch | undefined
/** Where the addon for this source and this libtorch is, or will be. Throws without libtorch. */
export function addonPath(libtorch?: Libtorch): string
/** Builds the addon unless it is there; returns its path. Throws with the command that mends it. */
export function buildAddon(options?: { readonly quiet?: boolean }): string
/** sha256 of the addon's sources: part of the numerics. */
export function addonSourceDigest(): string
