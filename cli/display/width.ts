/**
 * How wide text is on a terminal: the sum of its characters. A sequence that some terminals join (a family of emoji) counts as its parts: a line that
 * is taken for wider than it is leaves a gap, one taken for narrower wraps and breaks the redrawing.
 */
import { stripVTControlCharacters } from "node:util"
import { eastAsianWidth } from "get-east-asian-width"

/** Characters of no width of their own: combining marks, joiners, variation selectors. */
const none = /^[\p{Mn}\p{Me}\p{Cf}]$/u
const widthOfCharacter = (character: string): number => (none.test(character) ? 0 : eastAsianWidth(character.codePointAt(0)!))

/** Columns that a line takes. It holds no control characters (see `plain`). */
export const widthOf = (line: string): number => {
  let width = 0
  for (const character of line) width += widthOfCharacter(character)
  return width
}

/** Text as a part of a line that is redrawn: what would move the cursor, colour the terminal or turn the writing round is taken out. */
export const plain = (text: string): string =>
  // oxlint-disable-next-line no-control-regex
  stripVTControlCharacters(text).replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+/g, " ")

/** The line cut to so many columns, with "…" where something was cut off. */
export const cut = (line: string, columns: number): string => {
  if (widthOf(line) <= columns) return line
  let [out, width] = ["", 0]
  for (const character of line) {
    width += widthOfCharacter(character)
    if (width > columns - 1) break
    out += character
  }
  return columns < 1 ? "" : `${out}…`
}
