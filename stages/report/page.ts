/**
 * A report as one HTML file: facts about the run, contents, conclusions, sections of figures as SVG with their data in tables, and dialogues. It needs no network and has no
 * script; texts are escaped. It follows the reader's light or dark mode, and has figures for desktop and phone.
 */
import { type ShownId, paperOf } from "./catalogue.ts"
import { drawFigure } from "./draw.ts"
import type { Figure, Rows, Section, Table } from "./figure.ts"
import { escapeHtml, tableOf } from "./html.ts"
import { notationOf } from "./notation.ts"
import { style } from "./style.ts"

export interface Page {
  readonly title: string
  /** Paragraphs that identify the run. */
  readonly about: ReadonlyArray<string>
  /** Facts about the run, one line each: name and value. */
  readonly facts?: ReadonlyArray<readonly [name: string, value: string]>
  /** A row per version. */
  readonly versions?: Rows
  /** Statements, and whether the figures support them; if absent, the page has no such section. */
  readonly conclusions?: ReadonlyArray<{ readonly verdict: string; readonly text: string }>
  readonly sections: ReadonlyArray<Section>
  /** HTML from dialogues.ts; if empty, the page has no such section. */
  readonly dialogues?: string
  /** Called for each figure with its wide SVG as drawn in the page. */
  readonly onDrawn?: ((figure: Figure, svg: string) => void) | undefined
}

/** Maximum number of rows of a figure's data in the page. */
const maxRows = 200

/** The conclusions as HTML. */
const conclusionsOf = (conclusions: NonNullable<Page["conclusions"]>): string =>
  `<p>Each statement with its figure on held-out prompts or pairs and the value that it is compared with. Not shown: the 95% interval contains that value. The opposite: the interval is on the other side. Each interval is for a single comparison; of twenty comparisons without a difference, one is expected to appear as one.</p>
<ul class="said-so">
${conclusions.map(({ text, verdict }) => `<li><b class="${verdict === "holds" ? "yes" : verdict === "not shown" ? "open" : "no"}">${escapeHtml(verdict)}</b> <span>${escapeHtml(text)}</span></li>`).join("\n")}
</ul>`

/** "Figure 11 of the paper." */
const inPaper = (id: ShownId): string => {
  const paper = paperOf(id)
  if (paper === null) return ""
  return ` <small>${paper.startsWith("§") ? paper : `${paper[0]!.toUpperCase()}${paper.slice(1)}`} of the paper.</small>`
}

const figureHtml = async (figure: Figure, onDrawn: Page["onDrawn"]): Promise<string> => {
  const { caption, id, rows, title } = figure
  const [wide, narrow] = [await drawFigure(figure, "page", "wide"), await drawFigure(figure, "page", "narrow")]
  onDrawn?.(figure, wide)
  return `<h3>${escapeHtml(title)}</h3>
<figure role="img" aria-label="${escapeHtml(`${title}. ${caption}`)}"><div class="on-wide">${wide}</div><div class="on-narrow">${narrow}</div><figcaption>${escapeHtml(caption)}${inPaper(id)}</figcaption></figure>
<details><summary>Data (${rows.length} rows)</summary>${tableOf(rows, maxRows)}${rows.length > maxRows ? `<p>The first ${maxRows} of ${rows.length} rows.</p>` : ""}</details>`
}

const tableHtml = ({ caption, id, rows, title }: Table): string =>
  `<h3>${escapeHtml(title)}</h3>\n<p class="caption">${escapeHtml(caption)}${inPaper(id)}</p>\n${tableOf(rows)}`

const sectionHtml = async ({ figures = [], tables = [], text = [] }: Section, onDrawn: Page["onDrawn"]): Promise<string> => {
  const drawn: Array<string> = []
  for (const figure of figures) drawn.push(await figureHtml(figure, onDrawn))
  return [...text.map((one) => `<p>${escapeHtml(one)}</p>`), ...drawn, ...tables.map(tableHtml)].join("\n")
}

/** Empty sections are left out. */
const hasContent = ({ figures = [], tables = [], text = [] }: Section): boolean => figures.length + tables.length + text.length > 0

export const pageOf = async ({
  about,
  conclusions = [],
  dialogues = "",
  facts = [],
  onDrawn,
  sections,
  title,
  versions = []
}: Page): Promise<string> => {
  const parts: Array<{ readonly title: string; readonly html: string }> = []
  if (facts.length > 0)
    parts.push({
      title: "The run",
      html: `<dl>${facts.map(([name, value]) => `<div><dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd></div>`).join("\n")}</dl>`
    })
  if (versions.length > 0) parts.push({ title: "The versions", html: tableOf(versions) })
  if (conclusions.length > 0) parts.push({ title: "What holds, and what does not", html: conclusionsOf(conclusions) })
  for (const section of sections) if (hasContent(section)) parts.push({ title: section.title, html: await sectionHtml(section, onDrawn) })
  const notation = notationOf(parts.map(({ html }) => html))
  if (dialogues !== "") parts.push({ title: "The same prompts answered by each version", html: dialogues })
  return `<!doctype html>
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
${about.map((one) => `<p>${escapeHtml(one)}</p>`).join("\n")}
<nav aria-label="Contents"><ol>
${parts.map((part, i) => `<li><a href="#part-${i + 1}">${escapeHtml(part.title)}</a></li>`).join("\n")}
</ol></nav>
${parts.map((part, i) => `<section id="part-${i + 1}">\n<h2>${escapeHtml(part.title)}</h2>\n${i === notation?.first ? `<p>${escapeHtml(notation.text)}</p>\n` : ""}${part.html}\n</section>`).join("\n")}
</body>
</html>
`
}
