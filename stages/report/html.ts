/** Building blocks of HTML: escaped text and tables. */
import { visible } from "../../schemas/visible.ts"
import type { Cell, Rows } from "./figure.ts"

/** Text as HTML, in which text from models and users is neither markup, nor control characters, nor bidirectional overrides. */
export const escapeHtml = (text: string): string =>
  visible(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;").replaceAll("'", "&#39;")

const show = (value: Cell | undefined): string =>
  typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : escapeHtml(String(value ?? "–"))

const isEmpty = (value: Cell | undefined): boolean => value === null || value === undefined || value === "–"

/** Rows of one shape as a table, up to a maximum; columns without any value are left out. */
export const tableOf = (rows: Rows, most = Infinity): string => {
  const columns = Object.keys(rows[0] ?? {}).filter((column) => rows.some((row) => !isEmpty(row[column])))
  const line = (cells: ReadonlyArray<string>, tag: string) => `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`
  const body = rows.slice(0, most).map((row) =>
    line(
      columns.map((column) => show(row[column])),
      "td"
    )
  )
  return `<div class="wide" tabindex="0"><table><thead>${line(columns.map(escapeHtml), "th")}</thead><tbody>${body.join("\n")}</tbody></table></div>`
}
