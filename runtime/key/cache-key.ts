/** The cache key: sha256 of the encoding (encoding.ts) of everything a result depends on. Paths, times and concurrency are not part of it. */
import { digestOf } from "../encoding.ts"

/** Increased when the encoding or the meaning of the parts changes: old keys then match nothing. */
export const formatVersion = 1

/** Everything that a node's result depends on, by part, so that changes can be attributed to a part. */
export interface KeyParts {
  readonly stage: string
  /** Digest of the stage's code and the packages it uses (code-identity.ts). */
  readonly code: string
  /** For a pinned stage: the version that replaces the code's digest in the key. The code's digest is recorded too, to detect drift. */
  readonly pinned?: string
  /** For a mapped stage: the version of the mapping code (mapped.ts), which is not part of the stage's own code. */
  readonly mapping?: number
  /** The decoded config, without fields that can't change the result. */
  readonly config: Readonly<Record<string, unknown>>
  /** null for a stage without random numbers. */
  readonly seed: number | null
  /** Content digests by port: one, a list, or null for an unconnected port. */
  readonly inputs: Readonly<Record<string, string | ReadonlyArray<string> | null>>
  /** The machine's properties that change bits; null for a stage without tensors. */
  readonly numerics: Readonly<Record<string, string>> | null
}

export const cacheKey = (parts: KeyParts): string =>
  digestOf([
    "caravan cache key",
    formatVersion,
    parts.stage,
    parts.pinned === undefined ? parts.code : ["pinned", parts.pinned],
    parts.config,
    parts.seed,
    parts.inputs,
    parts.numerics,
    ...(parts.mapping === undefined ? [] : [["mapping", parts.mapping]])
  ])
