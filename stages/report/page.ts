/** The report as one HTML file: figures as SVG, data in tables below them, sampled texts escaped. It asks nothing of a network or a script. */
import type { ScoredCompletion } from "../../schemas/rows.ts"
import type { Figure } from "./figures.ts"
import type { Table } from "./tables.ts"

/** Text as HTML: nothing that a model wrote is markup. */
export const escapeHtml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;").replaceAll("'", "&#39;")

const show = (value: string | number | boolean | null): string =>
  typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : escapeHtml(String(value ?? "–"))

/** Rows of one shape as a table. */
const tableOf = (rows: ReadonlyArray<Readonly<Record<string, string | number | boolean | null>>>): string => {
  const columns = Object.keys(rows[0] ?? {})
  const line = (cells: ReadonlyArray<string>, tag: string) => `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`
  return `<table><thead>${line(columns.map(escapeHtml), "th")}</thead><tbody>${rows
    .map((row) =>
      line(
        columns.map((column) => show(row[column]!)),
        "td"
      )
    )
    .join("\n")}</tbody></table>`
}

/** The same prompts answered by each version, with both scores. */
export const dialogues = (
  sets: ReadonlyArray<{ readonly name: string; readonly scored: ReadonlyArray<ScoredCompletion> }>,
  count: number
): string => {
  const all = sets.map(({ name, scored }) => ({
    name,
    answers: new Map(scored.filter(({ sample }) => sample === 0).map((one) => [one.promptId, one]))
  }))
  const shared = [...(all[0]?.answers.values() ?? [])].filter(({ promptId }) => all.every(({ answers }) => answers.has(promptId)))
  // As many prompts to refuse as prompts to help with.
  const chosen = [
    ...shared.filter(({ safety }) => !safety).slice(0, Math.ceil(count / 2)),
    ...shared.filter(({ safety }) => safety).slice(0, Math.floor(count / 2))
  ]
  const score = (value: number | null) => (value === null ? "–" : value.toFixed(2))
  return chosen
    .map(({ promptId, prompt, safety }) => {
      const rows = all.map(({ name, answers }) => {
        const one = answers.get(promptId)!
        return `<tr><th scope="row">${escapeHtml(name)}</th><td class="said">${escapeHtml(one.text)}</td><td>${score(one.helpfulnessScore)}</td><td>${score(one.safetyScore)}</td></tr>`
      })
      const asked = prompt.map(({ role, content }) => `<p><b>${role}</b> ${escapeHtml(content)}</p>`).join("")
      return `<article><header>${asked}<small>${safety ? "to be refused" : "to help with"}</small></header><table><thead><tr><th>version</th><th>answer</th><th>R_h</th><th>R_s</th></tr></thead><tbody>${rows.join("\n")}</tbody></table></article>`
    })
    .join("\n")
}

const style = `
:root { color-scheme: light dark; --line: #8884 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 3rem }
figure { margin: 1rem 0; overflow-x: auto } figure svg { background: #fff; border-radius: 6px; max-width: 100%; height: auto }
figcaption, section > p { max-width: 60rem; opacity: .85 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 } th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
.wide { overflow-x: auto } .wide table { font-size: 13px } .wide th, .wide td { padding: .2rem .45rem; white-space: nowrap }
details { margin: .3rem 0 1.5rem } details table { font-size: 13px } summary { cursor: pointer }
.said-so { list-style: none; padding: 0 } .said-so li { display: flex; gap: .8rem; padding: .25rem 0; border-bottom: 1px solid var(--line) } .said-so b { flex: 0 0 7rem } .said-so .open { opacity: .7; font-weight: normal } .said-so .no { color: #b34700; color: light-dark(#b34700, #ff9a57) } .said-so .yes { color: #00714f; color: light-dark(#00714f, #2fc39a) }
article { border: 1px solid var(--line); border-radius: 6px; padding: .6rem 1rem; margin: 1rem 0 } article p { margin: .2rem 0 } .said { white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 40rem) {
figure svg { max-width: none } .said-so li { display: block } article { padding: .4rem .6rem } article th, article td { padding: .2rem .3rem; font-size: 13px; overflow-wrap: anywhere }
}
`

export interface Page {
  readonly title: string
  /** A line for each version. */
  readonly versions: Table["rows"]
  /** Statements, and whether the figures bear them out; none: the page has no such section. */
  readonly conclusions?: ReadonlyArray<{ readonly verdict: string; readonly text: string }>
  readonly figures: ReadonlyArray<Figure & { readonly svg: string }>
  readonly tables: ReadonlyArray<Table>
  readonly dialogues: string
  /** Which run it is of: seed and parameters, no times. */
  readonly about: string
}

/** What the page comes to, in words. */
const conclusionsOf = (conclusions: NonNullable<Page["conclusions"]>): string =>
  conclusions.length === 0
    ? ""
    : `<section>
<h2>What holds, and what does not</h2>
<p>Each statement beside its figure on held-out prompts or pairs and the value that it is held against. Not shown: the 95% interval holds that value. The opposite: the interval is on the other side. Each interval is of one comparison; of twenty that are none, one is expected to look like one.</p>
<ul class="said-so">
${conclusions.map(({ text, verdict }) => `<li><b class="${verdict === "holds" ? "yes" : verdict === "not shown" ? "open" : "no"}">${escapeHtml(verdict)}</b> <span>${escapeHtml(text)}</span></li>`).join("\n")}
</ul>
</section>
`

export const pageOf = ({ title, versions, conclusions = [], figures, tables, dialogues: said, about }: Page): string =>
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${escapeHtml(title)}</title>
<style>${style}</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(about)}</p>
<div class="wide">${tableOf(versions)}</div>
${conclusionsOf(conclusions)}${figures
    .map(
      ({ title: says, caption, svg, rows }) => `<section>
<h2>${escapeHtml(says)}</h2>
<figure role="img" aria-label="${escapeHtml(`${says}. ${caption}`)}">${svg}<figcaption>${escapeHtml(caption)}</figcaption></figure>
<details><summary>Data (${rows.length} rows)</summary><div class="wide">${tableOf(rows.slice(0, 500))}</div>${rows.length > 500 ? `<p>The first 500 of ${rows.length} rows.</p>` : ""}</details>
</section>`
    )
    .join("\n")}
${tables
  .map(
    ({ title: says, caption, rows }) =>
      `<section>\n<h2>${escapeHtml(says)}</h2>\n<p>${escapeHtml(caption)}</p>\n<div class="wide">${tableOf(rows)}</div>\n</section>`
  )
  .join("\n")}
<section>
<h2>The same prompts, answered by each version</h2>
${said}
</section>
</body>
</html>
`
