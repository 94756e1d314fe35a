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
    // What was written comes before what TypeDoc makes.
    search: {
      provider: "local",
      options: { miniSearch: { searchOptions: { boostDocument: (id) => (id.includes("/reference/api/") ? 0.2 : 1) } } }
    }
  },
  markdown: {
    // The anchors that GitHub gives.
    anchor: { slugify: (heading) => new GithubSlugger().slug(heading) },
    config: repositoryLinks
  },
  vite: { build: { chunkSizeWarningLimit: 4000 } },
  buildEnd: ({ outDir }) => copySources(outDir)
})
