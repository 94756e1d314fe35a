/** Data kept between runs so that keys are cheap: identities of stages' code and digests of the user's files. Stored in the journal. */
import type * as Effect from "effect/Effect"
import type { StoreError } from "../errors.ts"

export interface KeyCache {
  readonly code: (stage: string) => Effect.Effect<unknown, StoreError>
  readonly recordCode: (stage: string, value: unknown) => Effect.Effect<void, StoreError>
  /** The digest of a file if it still has this stamp. */
  readonly fileDigest: (path: string, stamp: string) => Effect.Effect<string | undefined, StoreError>
  readonly recordFile: (path: string, stamp: string, digest: string) => Effect.Effect<void, StoreError>
}
