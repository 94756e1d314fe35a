export interface Libtorch {
  /** The version in its headers, such as "1.13.0". */
  readonly version: string
  /** Where it was found: the variable LIBTORCH, the installed Python's torch, the system's packages, or the archive that setup downloaded. */
  readonly source: "LIBTORCH" | "python" | "system" | "archive"
  readonly includeDirs: ReadonlyArray<string>
  /** undefined: the linker's default folders. */
  readonly libDir: string | undefined
  readonly cuda: boolean
  readonly cxx11Abi: boolean
}
/** The libtorch of this machine, or undefined. Throws if LIBTORCH points to a folder without one. */
export function findLibtorch(): Libtorch | undefined
/** The per-user cache: built addons, a downloaded libtorch, Python's answers. */
export function cacheDirectory(): string
/** The folder into which setup unpacks the official archive. */
export function fetchedLibtorch(): string
/** The path of the library behind the system's libblas.so.3 (with which Debian's libtorch multiplies matrices), or undefined. */
export function systemBlas(): string | undefined
/** Whether a BLAS is tuned for the processor; Debian's reference BLAS is 40 times slower. */
export function isFastBlas(name: string | undefined): boolean
