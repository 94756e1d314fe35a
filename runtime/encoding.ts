/**
 * A canonical encoding of values (tagged and length-prefixed) and its digest. Values that differ in type or structure never encode alike; the order
 * of an object's fields does not matter. If you change it, increase `formatVersion` (key/cache-key.ts).
 */
import { hash } from "node:crypto"

/** sha256 of a value's encoding, in hex. Throws for values without a stable encoding (functions, symbols, NaN, class instances). */
export const digestOf = (value: unknown): string => hash("sha256", encodingOf(value))

/** Two values have the same encoding only if they are equal. Throws like digestOf. */
export const encodingOf = (value: unknown): string => {
  try {
    return encode(value)
  } catch (cause) {
    throw cause instanceof Unencodable ? new Error(`value${placeIn(value)} is ${cause.message}`) : cause
  }
}

/** Cached encodings of values that are part of many keys. */
const remembered = new WeakMap<object, string>()

/** Returns the same value and caches its encoding. Only for objects that are never modified afterwards. */
export const remember = <A extends object>(value: A): A => {
  if (!remembered.has(value)) remembered.set(value, encodingOf(value))
  return value
}

class Unencodable extends Error {}

const isPlain = (value: object): boolean => {
  const prototype = Object.getPrototypeOf(value) as unknown
  return prototype === Object.prototype || prototype === null
}

/** The location of the part that can't be encoded: ".layers[2]". */
const placeIn = (value: unknown): string => {
  if (typeof value !== "object" || value === null || !(Array.isArray(value) || isPlain(value))) return ""
  for (const name of Array.isArray(value) ? value.keys() : Object.keys(value).sort()) {
    const field = (value as Record<string | number, unknown>)[name]
    try {
      encode(field)
    } catch {
      return `${typeof name === "number" ? `[${name}]` : `.${name}`}${placeIn(field)}`
    }
  }
  return ""
}

/**
 * Tag, length, colon, bytes: n null, u undefined, b boolean, d number, i bigint, s string, w string with half of a
 * surrogate pair, l list, o object.
 */
const encode = (value: unknown): string => {
  switch (typeof value) {
    case "string":
      // As UTF-8, which is hashed, all halves of surrogate pairs are the same character.
      if (!value.isWellFormed()) return `w${4 * value.length}:${Buffer.from(value, "utf16le").toString("hex")}`
      return `s${Buffer.byteLength(value)}:${value}`
    case "boolean":
      return value ? "b1:1" : "b1:0"
    case "bigint":
      return `i${String(value).length}:${value}`
    case "undefined":
      return "u0:"
    case "number": {
      if (!Number.isFinite(value)) throw new Unencodable(`${value}: not allowed in a cache key`)
      const text = Object.is(value, -0) ? "-0" : String(value)
      return `d${text.length}:${text}`
    }
    case "object": {
      if (value === null) return "n0:"
      const known = remembered.get(value)
      if (known !== undefined) return known
      if (Array.isArray(value)) {
        let text = `l${value.length}:`
        for (const element of value as ReadonlyArray<unknown>) text += encode(element)
        return text
      }
      if (!isPlain(value))
        throw new Unencodable(
          `a ${value.constructor.name}: not allowed in a cache key; use plain objects, lists, strings, numbers and booleans`
        )
      const names = Object.keys(value).sort()
      let text = `o${names.length}:`
      for (const name of names) text += encode(name) + encode((value as Record<string, unknown>)[name])
      return text
    }
    default:
      throw new Unencodable(`a ${typeof value}: not allowed in a cache key`)
  }
}
