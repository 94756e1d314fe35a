/**
 * The storage of shared results, as the runtime sees it: two kinds of files, as in Bazel's HTTP cache. `ac/<key>` is a key's entry (entry.ts);
 * `cas/<sha256>` is a manifest or a file of a result, named by its content. folder.ts is the only implementation; a client of an HTTP cache could be
 * another.
 */

/** "gone": missing, or no longer there; "slow": no answer within the deadline; "full": no space left; "lying": bytes that do not match their name. */
export type Trouble = "gone" | "slow" | "full" | "lying" | "refused"

export class SharedError extends Error {
  readonly trouble: Trouble
  constructor(trouble: Trouble, message: string) {
    super(message)
    this.trouble = trouble
  }
}

/** All methods reject with a SharedError if the storage fails. */
export interface SharedFiles {
  /** A description of the storage. */
  readonly where: string
  readonly isReadOnly: boolean
  /** Checks whether it can be used. */
  readonly begin: () => Promise<void>
  /** The entry of a key; undefined if there is none. */
  readonly entry: (key: string) => Promise<Uint8Array | undefined>
  readonly putEntry: (key: string, bytes: Uint8Array) => Promise<void>
  /** The size of the content with this name; undefined if missing. */
  readonly has: (sha256: string) => Promise<number | undefined>
  /** Copies it to a new file, hashing its bytes on the way; false if missing. Not copied if its size differs from the expected one. */
  readonly fetch: (sha256: string, to: string, size?: number) => Promise<boolean>
  /** Copies a file there, hashing its bytes on the way. Replaces existing content with this name. */
  readonly send: (sha256: string, from: string) => Promise<void>
  readonly close: () => void
}
