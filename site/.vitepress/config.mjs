// The site: the repository's Markdown files as they are. Links become the site's in links.mjs.
import GithubSlugger from "github-slugger"
import { defineConfig } from "vitepress"
import { copySources, repositoryLinks } from "../links.mjs"
import { navigation, placeOf, titleOf } from "../navigation.mjs"
import { apiPages, stage, staged } from "../staged.mjs"

stage()

const item = (page) => ({ text: page === "README.md" ? "Overview" : titleOf(page, staged), link: `/${placeOf(page)}` })
const group = (text, items) => ({ text, collapsed: true, items })
const sidebar = navigation().map(({ text, pages, folders }) => ({
  text,
  items: [
    ...pages.map(item),
    ...folders.map((folder) => group(folder.text, folder.pages.map(item))),
    ...(text === "Reference" && apiPages().length > 0 ? [group("API", apiPages().map(item))] : [])
  ]
}))

/** Functions go to the page as their text: they can use nothing from around them. */
const miniSearch = {
  options: {
    processTerm: (term) =>
      /^(an?|and|are|as|at|be|but|by|for|from|in|is|it|its|of|on|or|that|the|to|was|with)$/i.test(term) ? null : term.toLowerCase()
  },
  searchOptions: {
    prefix: (term) => term.length > 2,
    fuzzy: (term) => (term.length > 4 ? 0.2 : false),
    // What was written comes before what TypeDoc makes.
    boostDocument: (id) => (id.includes("/reference/api/") ? 0.2 : 1)
  }
}

export default defineConfig({
  title: "Caravan",
  description: "The Llama 2 RLHF recipe as a typed, cached, resumable dataflow pipeline",
  lang: "en",
  srcDir: "pages",
  outDir: "dist",
  rewrites: placeOf,
  themeConfig: {
    sidebar,
    nav: ["How-to", "The recipe", "Reference", "Internals"].map((text) => ({
      text,
      link: sidebar.find((each) => each.text === text).items[0].link
    })),
    outline: [2, 3],
    search: { provider: "local", options: { miniSearch } }
  },
  markdown: {
    // The anchors that GitHub gives.
    anchor: { slugify: (heading) => new GithubSlugger().slug(heading) },
    config: repositoryLinks
  },
  vite: { build: { chunkSizeWarningLimit: 4000 } },
  buildEnd: ({ outDir }) => copySources(outDir)
})
