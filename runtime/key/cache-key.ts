/**
 * The cache key: sha256 over a tagged, length-prefixed encoding of everything a result depends on. Two values that differ in type, or in where
 * one part ends and the next begins, never encode alike; the order of an object's fields does not matter. Paths, times and concurrency are
 * not in it.
 */
import { hash } from "node:crypto"

/** Raised when this encoding changes: old keys then match nothing. */
export const formatVersion = 1

/** Everything that a node's result depends on, by part, so that it can be said which part changed. */
export interface KeyParts {
  readonly stage: string
  /** Digest of the stage's code and the packages it uses (code-identity.ts). */
  readonly code: string
  /** Of a pinned stage: the version that stands in the key where its code's digest would. The code is known beside it: to tell whether it drifts. */
  readonly pinned?: string
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
    parts.numerics
  ])

/** sha256 of a value's encoding, in hex. Throws on what has no stable encoding (functions, symbols, NaN, class instances). */
export const digestOf = (value: unknown): string => hash("sha256", encodingOf(value))

/** Two values have the same text only when they are the same value. Throws as digestOf does. */
export const encodingOf = (value: unknown): string => {
  try {
    return encode(value)
  } catch (cause) {
    throw cause instanceof Unencodable ? new Error(`value${cause.path} is ${cause.message}`) : cause
  }
}

class Unencodable extends Error {
  /** Where in the value: ".layers[2]". Put together on the way out: it is needed only then. */
  path = ""
  within(place: string): this {
    this.path = place + this.path
    return this
  }
}

/** Tag, length, colon, bytes: n null, u undefined, b boolean, d number, i bigint, s string, l list, o object. */
const encode = (value: unknown): string => {
  switch (typeof value) {
    case "string":
      return `s${Buffer.byteLength(value)}:${value}`
    case "boolean":
      return value ? "b1:1" : "b1:0"
    case "bigint":
      return `i${String(value).length}:${value}`
    case "undefined":
      return "u0:"
    case "number": {
      if (!Number.isFinite(value)) throw new Unencodable(`${value}: a cache key can't hold it`)
      const text = Object.is(value, -0) ? "-0" : String(value)
      return `d${text.length}:${text}`
    }
    case "object": {
      if (value === null) return "n0:"
      if (Array.isArray(value)) {
        let text = `l${value.length}:`
        value.forEach((element, i) => (text += encodeWithin(element, `[${i}]`)))
        return text
      }
      const prototype = Object.getPrototypeOf(value) as unknown
      if (prototype !== Object.prototype && prototype !== null)
        throw new Unencodable(
          `a ${value.constructor.name}: a cache key can't hold it; use plain objects, lists, strings, numbers and booleans`
        )
      const names = Object.keys(value).sort()
      let text = `o${names.length}:`
      for (const name of names) {
        const field = (value as Record<string, unknown>)[name]
        text += encode(name) + (typeof field === "string" ? encode(field) : encodeWithin(field, `.${name}`))
      }
      return text
    }
    default:
      throw new Unencodable(`a ${typeof value}: a cache key can't hold it`)
  }
}

const encodeWithin = (value: unknown, place: string): string => {
  try {
    return encode(value)
  } catch (cause) {
    throw cause instanceof Unencodable ? cause.within(place) : cause
  }
}
