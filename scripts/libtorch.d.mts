/** Missing requirements of the addon on this machine, as Debian packages. */
export function missingPackages(): Array<string>
/** Unpacks an official archive into the per-user cache. */
export function fetchArchive(url?: string, target?: string): Promise<void>
/** Ensures that libtorch and a compiler are installed; otherwise throws an error with the command that fixes it. */
export function ensureLibtorch(): Promise<void>
