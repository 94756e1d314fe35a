/** Pieces of HTML: text that is no markup, and tables. */
import { visible } from "../../schemas/visible.ts"
import type { Cell, Rows } from "./figure.ts"

/** Text as HTML: nothing that a model or a user wrote is markup, turns the writing direction around or is a control character. */
export const escapeHtml = (text: string): string =>
  visible(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;").replaceAll("'", "&#39;")

const show = (value: Cell | undefined): string =>
  typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : escapeHtml(String(value ?? "–"))

/** Rows of one shape as a table, at most so many; each first cell names its row. */
export const tableOf = (rows: Rows, most = Infinity): string => {
  const columns = Object.keys(rows[0] ?? {})
  const line = (cells: ReadonlyArray<string>, tag: string) => `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`
  const body = rows.slice(0, most).map((row) =>
    line(
      columns.map((column) => show(row[column])),
      "td"
    )
  )
  return `<div class="wide" tabindex="0"><table><thead>${line(columns.map(escapeHtml), "th")}</thead><tbody>${body.join("\n")}</tbody></table></div>`
}
