/**
 * Makes untrusted text safe to display: rows, model answers, names, errors that quote data, process output. A terminal interprets control
 * characters as commands (they move the cursor, rename the window, hide text), and bidirectional overrides make text read differently
 * from what it is. These characters are escaped; line breaks and tabs are kept.
 */

/** DEL and C1, line and paragraph separators, bidirectional overrides, embeddings and isolates: the characters that JSON.stringify does not escape. */
const unseenInJson = "\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069"
const unsafe = new RegExp(`[\\x00-\\x08\\x0b-\\x1f${unseenInJson}]`, "g")
const unsafeJson = new RegExp(`[${unseenInJson}]`, "g")

const hexadecimal = (character: string, digits: number): string => character.charCodeAt(0).toString(16).padStart(digits, "0")
const writtenOut = (character: string): string =>
  character < "\u0100" ? `\\x${hexadecimal(character, 2)}` : `\\u${hexadecimal(character, 4)}`

/** "\u001b[31m" -> "\\x1b[31m". CR LF becomes LF; any other carriage return would overwrite its line and is escaped. */
export const visible = (text: string): string => text.replaceAll("\r\n", "\n").replaceAll(unsafe, writtenOut)

/** A value as JSON in which every such character is escaped. Numbers that JSON cannot represent are written as JSON.stringify writes them. */
export const visibleJson = (value: unknown, indent?: number, replacer?: (name: string, value: unknown) => unknown): string =>
  JSON.stringify(value, replacer, indent).replaceAll(unsafeJson, (character) => `\\u${hexadecimal(character, 4)}`)
