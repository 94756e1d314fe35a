/**
 * Where shared results are kept, as the runtime sees it: two kinds of files, as in Bazel's HTTP cache. `ac/<key>` says what the result of a key is (entry.ts); `cas/<sha256>` is
 * a manifest or a file of a result, named by its content. folder.ts is the one implementation; a client of an HTTP cache would be another.
 */

/** "gone": not there, or no longer; "slow": no answer within the deadline; "full": it takes nothing more; "lying": bytes that are not what their name says. */
export type Trouble = "gone" | "slow" | "full" | "lying" | "refused"

export class SharedError extends Error {
  readonly trouble: Trouble
  constructor(trouble: Trouble, message: string) {
    super(message)
    this.trouble = trouble
  }
}

/** All reject with a SharedError where the place can't do its work. */
export interface SharedFiles {
  /** The place, in words. */
  readonly where: string
  readonly isReadOnly: boolean
  /** Whether it can be used at all. */
  readonly begin: () => Promise<void>
  /** What is said of a key; undefined: nothing. */
  readonly entry: (key: string) => Promise<Uint8Array | undefined>
  readonly putEntry: (key: string, bytes: Uint8Array) => Promise<void>
  /** The size of what is there under a content's name; undefined: nothing. */
  readonly has: (sha256: string) => Promise<number | undefined>
  /** Copies it to a new file, whose bytes were hashed on the way; false: it is not there. One that has not the size it should have is not copied. */
  readonly fetch: (sha256: string, to: string, size?: number) => Promise<boolean>
  /** Copies a file there, whose bytes are hashed on the way. What was there under the name is replaced. */
  readonly send: (sha256: string, from: string) => Promise<void>
  readonly close: () => void
}
