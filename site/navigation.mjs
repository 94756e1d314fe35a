// The pages of the site, in the order of its sidebar. Plain Node without packages: the root's tests read it too.
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, posix } from "node:path"
import { fileURLToPath } from "node:url"

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
const read = (path) => readFileSync(join(root, path), "utf8")

/** The sections of the sidebar. "folder/" stands for all pages of a folder, in the order in which its README.md links to them, then by name. */
const sections = [
  { text: "Start", pages: ["README.md", "docs/quickstart.md", "docs/concepts.md"] },
  {
    text: "How-to",
    pages: [
      "docs/how-to/",
      "docs/own-data.md",
      "docs/data.md",
      "docs/models.md",
      "docs/hub.md",
      "docs/scale.md",
      "docs/other-clusters.md",
      "docs/reproducibility.md"
    ]
  },
  { text: "The recipe", pages: ["docs/recipe/", "docs/stages/", "docs/paper.md", "docs/study.md", "docs/ablations.md"] },
  {
    text: "Reference",
    pages: ["docs/reference/", "docs/shapes.md"],
    folders: [{ text: "Stages", pages: ["docs/reference/stages/"] }]
  },
  {
    text: "Internals",
    pages: [
      "docs/architecture.md",
      "docs/where.md",
      "docs/faults.md",
      "docs/performance.md",
      "docs/log.md",
      "CONTRIBUTING.md",
      "CHANGELOG.md"
    ],
    folders: [{ text: "Decisions", pages: ["docs/decisions/"] }]
  }
]

const isPage = (name) => name.endsWith(".md")
const namesIn = (folder) => {
  try {
    return readdirSync(join(root, folder))
  } catch (error) {
    if (error.code === "ENOENT") return []
    throw error
  }
}

/** The pages of a folder: its README, those that the README links to, the others by name. */
const pagesIn = (folder) => {
  const names = namesIn(folder).filter(isPage).sort()
  const linked = names.includes("README.md")
    ? [...read(`${folder}README.md`).matchAll(/\]\(([\w.-]+\.md)(?:#[^)]*)?\)/g)].map(([, name]) => name)
    : []
  return [...new Set(["README.md", ...linked, ...names])].filter((name) => names.includes(name)).map((name) => folder + name)
}

const expand = (pages) =>
  pages.flatMap((page) => (page.endsWith("/") ? pagesIn(page) : namesIn(`${dirname(page)}/`).includes(posix.basename(page)) ? [page] : []))

/** [{ text, pages: [path], folders: [{ text, pages }] }]: paths from the repository's root, each once. */
export const navigation = () => {
  const seen = new Set()
  const once = (pages) => expand(pages).filter((page) => !seen.has(page) && seen.add(page))
  return sections.map(({ text, pages, folders = [] }) => ({
    text,
    pages: once(pages),
    folders: folders.map((folder) => ({ text: folder.text, pages: once(folder.pages) })).filter((folder) => folder.pages.length > 0)
  }))
}

export const pages = () => navigation().flatMap((section) => [...section.pages, ...section.folders.flatMap((folder) => folder.pages)])

/** Where the site has a page: docs/ is the site's root, a README the index of its folder. */
export const placeOf = (page) =>
  page
    .replace(/^docs\//, "")
    .replace(/(^|\/)README\.md$/, "$1index.md")
    .toLowerCase()

/** The text of a page's first heading. */
export const titleOf = (page, folder = root) =>
  /^# (.*)$/m.exec(readFileSync(join(folder, page), "utf8"))?.[1].replaceAll(/`|\\(?=[<>_*])/g, "") ?? page
