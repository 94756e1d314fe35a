export interface Libtorch {
  /** "1.13.0", as its headers say. */
  readonly version: string
  /** Where it was found: the variable LIBTORCH, the installed Python's torch, the system's packages, the archive that setup fetched. */
  readonly source: "LIBTORCH" | "python" | "system" | "archive"
  readonly includeDirs: ReadonlyArray<string>
  /** undefined: the linker's own folders. */
  readonly libDir: string | undefined
  readonly cuda: boolean
  readonly cxx11Abi: boolean
}
/** The libtorch of this machine, or undefined. Throws when LIBTORCH names a folder that holds none. */
export function findLibtorch(): Libtorch | undefined
/** The per-user cache: built addons, a fetched libtorch, what Python answered. */
export function cacheDirectory(): string
/** Where setup unpacks the official archive. */
export function fetchedLibtorch(): string
/** The library behind the system's libblas.so.3 (Debian's libtorch multiplies matrices with it): its path, or undefined. */
export function systemBlas(): string | undefined
/** Whether a BLAS is one that is tuned for the processor; Debian's reference BLAS is 40 times slower. */
export function isFastBlas(name: string | undefined): boolean
