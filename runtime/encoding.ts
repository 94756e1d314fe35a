/**
 * One text for one value: a tagged, length-prefixed encoding, and its digest. Two values that differ in type, or in where one part ends and the next
 * begins, never encode alike; the order of an object's fields does not matter. Whoever changes it raises `formatVersion` (key/cache-key.ts).
 */
import { hash } from "node:crypto"

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
