/** What the addon needs and this machine lacks, as Debian's packages. */
export function missingPackages(): Array<string>
/** Unpacks an official archive into the per-user cache. */
export function fetchArchive(url?: string, target?: string): Promise<void>
/** Leaves the machine with libtorch and a compiler, or throws with the command that mends it. */
export function ensureLibtorch(): Promise<void>
