/** How wide text is on a terminal. */

/** Characters of no width of their own: combining marks, joiners, variation selectors. */
const none = /^[\p{Mn}\p{Me}\p{Cf}]$/u
/** Those of two columns: East Asian wide and full-width forms, emoji. */
const wide =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f680}-\u{1f6ff}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]$/u

const widthOfCharacter = (character: string): number => (none.test(character) ? 0 : wide.test(character) ? 2 : 1)

/** Columns that a line takes. It holds no control characters (see `plain`). */
export const widthOf = (line: string): number => {
  let width = 0
  for (const character of line) width += widthOfCharacter(character)
  return width
}

/** Text as one line: what would move the cursor or colour the terminal is taken out. */
export const plain = (text: string): string =>
  // oxlint-disable-next-line no-control-regex
  text.replaceAll(/\u001b\[[0-?]*[ -/]*[@-~]/g, "").replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ")

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
