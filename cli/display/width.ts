/**
 * The width of text on a terminal: the sum of its characters' widths. A sequence that some terminals join (a family emoji) counts as its parts:
 * overestimating a line's width leaves a gap, underestimating it wraps the line and breaks the redraw.
 */
import { stripVTControlCharacters } from "node:util"
import { eastAsianWidth } from "get-east-asian-width"

/** Zero-width characters: combining marks, joiners, variation selectors. */
const none = /^[\p{Mn}\p{Me}\p{Cf}]$/u
const widthOfCharacter = (character: string): number => (none.test(character) ? 0 : eastAsianWidth(character.codePointAt(0)!))

/** Columns that a line occupies. It must contain no control characters (see `plain`). */
export const widthOf = (line: string): number => {
  let width = 0
  for (const character of line) width += widthOfCharacter(character)
  return width
}

/** Text that is safe in a redrawn line: removes cursor movement, colours and bidirectional overrides. */
export const plain = (text: string): string =>
  // oxlint-disable-next-line no-control-regex
  stripVTControlCharacters(text).replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+/g, " ")

/** The line truncated to this many columns, with "…" at the end if something was cut off. */
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
