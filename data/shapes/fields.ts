/** Accessors for the fields of a user's row. Each returns the field or throws BadRow with the field's name and the value found. */
import type { Message, Preference } from "../../schemas/rows.ts"
import { own } from "../../schemas/own.ts"
import { BadRow, inField } from "../read/record.ts"

/** A rating or label outside the allowed set. Not a BadRow: a human judgement is never skipped together with invalid rows. */
export class BadLabel extends Error {
  readonly line: number
  readonly field: string
  readonly expected: string
  readonly found: string
  /** The file, when known. */
  file: string | undefined
  constructor(line: number, field: string, expected: string, value: unknown) {
    // A Parquet file may contain NaN, which JSON can't represent.
    const found = (typeof value === "number" ? `${value}` : (JSON.stringify(value) ?? "nothing")).slice(0, 40)
    super(`expected ${expected}, found ${found}`)
    this.line = line
    this.field = field
    this.expected = expected
    this.found = found
  }
}

export const kindOfValue = (value: unknown): string =>
  Array.isArray(value) ? "a list" : value === null ? "null" : ArrayBuffer.isView(value) ? "bytes" : typeof value

/** The fields of a row. `where` names the object if it is nested in a row. */
export const fieldsOf = (value: unknown, where = "(the row)"): Record<string, unknown> => {
  if (typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value))
    return value as Record<string, unknown>
  throw new BadRow(where, `expected an object, found ${kindOfValue(value)}`, inField(where, "not an object"))
}

/** A field of a row; undefined if it is missing or null. */
export const optional = (value: unknown, name: string, where = name): unknown =>
  own(fieldsOf(value, where === name ? undefined : where), name) ?? undefined

/** A field of a row. `where` is its full name if the object is nested in a row. */
export const field = (value: unknown, name: string, where = name): unknown => {
  const found = optional(value, name, where)
  if (found === undefined)
    throw new BadRow(
      where,
      Object.hasOwn(value as object, name)
        ? "null"
        : `missing; there are ${
            Object.keys(value as object)
              .slice(0, 20)
              .join(", ") || "no fields"
          }`,
      inField(where, "missing")
    )
  return found
}

/** Rejects half a surrogate pair: JSON may contain one ("\ud800"), but UTF-8 can't represent it. */
export const wellFormed = (found: string, name: string): string => {
  if (!found.isWellFormed()) throw new BadRow(name, "text with half of a surrogate pair")
  return found
}

export const text = (value: unknown, name: string, where = name): string => {
  const found = field(value, name, where)
  if (typeof found !== "string") throw new BadRow(where, `expected text, found ${kindOfValue(found)}`, inField(where, "not text"))
  return wellFormed(found, where)
}

/** Text that is not blank. */
export const nonEmpty = (value: unknown, name: string, where = name): string => {
  const found = text(value, name, where)
  if (found.trim() === "") throw new BadRow(where, "empty")
  return found
}

export const number = (value: unknown, name: string, where = name): number => {
  const found = field(value, name, where)
  if (typeof found !== "number" || !Number.isFinite(found))
    throw new BadRow(
      where,
      `expected a number, found ${typeof found === "number" ? found : kindOfValue(found)}`,
      inField(where, "not a number")
    )
  return found
}

export const list = (value: unknown, name: string): ReadonlyArray<unknown> => {
  const found = field(value, name)
  if (!Array.isArray(found)) throw new BadRow(name, `expected a list, found ${kindOfValue(found)}`, inField(name, "not a list"))
  return found
}

/** A human label; null if absent. Throws BadLabel if it is not in the set. */
export const label = <A extends string | number | boolean>(
  value: unknown,
  name: string,
  set: ReadonlyArray<A>,
  line: number,
  words = `${set.slice(0, -1).join(", ")} or ${String(set.at(-1))}`
): A | null => {
  const found = own(fieldsOf(value), name) ?? null
  if (found !== null && !set.includes(found as A)) throw new BadLabel(line, name, words, found)
  return found as A | null
}

/** Checks that two answers differ and are not blank. */
export const checkAnswers = (chosen: string, rejected: string, names: readonly [string, string] = ["chosen", "rejected"]): void => {
  if (chosen.trim() === "") throw new BadRow(names[0], "the response is empty")
  if (rejected.trim() === "") throw new BadRow(names[1], "the response is empty")
  if (chosen === rejected) throw new BadRow(names[1], `the same as ${names[0]}`)
}

export const preference = (
  id: string,
  prompt: ReadonlyArray<Message>,
  chosen: string,
  rejected: string,
  source: string,
  labels: Partial<Pick<Preference, "rating" | "chosenSafe" | "rejectedSafe">> = {}
): Preference => ({ id, prompt, chosen, rejected, rating: null, chosenSafe: null, rejectedSafe: null, source, ...labels })

export const asked = (content: string): ReadonlyArray<Message> => [{ role: "user", content }]

/**
 * The paper's rating (§3.2.1) for a difference of two scores: 3 negligibly better, 2 slightly better from the first threshold on, 1 better from the second,
 * 0 significantly better from the third.
 */
export const ratingOf = (difference: number, thresholds: readonly [number, number, number]): number =>
  3 - thresholds.filter((threshold) => difference >= threshold).length
