/** The cache key: sha256 over the encoding (encoding.ts) of everything a result depends on. Paths, times and concurrency are not in it. */
import { digestOf } from "../encoding.ts"

/** Raised when the encoding or the parts change their meaning: old keys then match nothing. */
export const formatVersion = 1

/** Everything that a node's result depends on, by part, so that it can be said which part changed. */
export interface KeyParts {
  readonly stage: string
  /** Digest of the stage's code and the packages it uses (code-identity.ts). */
  readonly code: string
  /** Of a pinned stage: the version that stands in the key where its code's digest would. The code is known beside it: to tell whether it drifts. */
  readonly pinned?: string
  /** Of a mapped stage: the version of how stages are mapped (mapped.ts), whose code the stage's own does not hold. */
  readonly mapping?: number
  /** The decoded config, without fields that can't change the result. */
  readonly config: Readonly<Record<string, unknown>>
  /** null for a stage that draws no random numbers. */
  readonly seed: number | null
  /** Content digests by port: a single one, a list, or null for an open port. */
  readonly inputs: Readonly<Record<string, string | ReadonlyArray<string> | null>>
  /** What of the machine changes bits; null for a stage that computes with no tensors. */
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
