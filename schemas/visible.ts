/**
 * Text from outside as it may be shown: rows, answers of models, names, errors that quote data, output of processes. A terminal takes control
 * characters for commands (they move the cursor, rename the window, hide text), and overrides of the writing direction make text read as
 * what it is not. Such characters are written out; line ends and tabs stay.
 */

/** DEL and C1; line and paragraph separators; overrides, embeddings and isolates of the writing direction: what JSON.stringify leaves as it is. */
const unseenInJson = "\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069"
const unsafe = new RegExp(`[\\x00-\\x08\\x0b-\\x1f${unseenInJson}]`, "g")
const unsafeJson = new RegExp(`[${unseenInJson}]`, "g")

const hexadecimal = (character: string, digits: number): string => character.charCodeAt(0).toString(16).padStart(digits, "0")
const writtenOut = (character: string): string =>
  character < "\u0100" ? `\\x${hexadecimal(character, 2)}` : `\\u${hexadecimal(character, 4)}`

/** "\u001b[31m" -> "\\x1b[31m". CR LF becomes LF; any other carriage return would overwrite its line and is written out. */
export const visible = (text: string): string => text.replaceAll("\r\n", "\n").replaceAll(unsafe, writtenOut)

/** A value as JSON in which every such character is escaped. Numbers that JSON does not know are as JSON.stringify has them. */
export const visibleJson = (value: unknown, indent?: number, replacer?: (name: string, value: unknown) => unknown): string =>
  JSON.stringify(value, replacer, indent).replaceAll(unsafeJson, (character) => `\\u${hexadecimal(character, 4)}`)
