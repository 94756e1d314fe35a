// Links of the Markdown files, as GitHub resolves them: to pages of the site, and to files of the repository, which the site serves as text below source/.
import { cpSync, existsSync, mkdirSync, statSync } from "node:fs"
import { dirname, join, posix, relative } from "node:path"
import { pages, placeOf, root } from "./navigation.mjs"
import { api, apiPages, staged } from "./staged.mjs"

const shown = new Set([...pages(), ...apiPages()])
const sources = new Set()

/** Where the site has what a page links to. Throws if the link leads nowhere. */
export const resolveLink = (page, link) => {
  if (/^([a-z]+:|\/\/|#)/i.test(link)) return link
  const [path, anchor] = link.split("#", 2)
  const target = posix.join(posix.dirname(page), decodeURI(path))
  const dead = (reason) => new Error(`${page} links to ${link}: ${reason}`)
  const hash = anchor === undefined ? "" : `#${anchor}`
  const found = [target, `${target.replace(/\/$/, "")}/README.md`].find((each) => shown.has(each))
  if (found !== undefined) return `/${placeOf(found)}${hash}`
  if (target.startsWith("..") || !existsSync(join(root, target))) throw dead("there is no such file in the repository.")
  if (statSync(join(root, target)).isDirectory()) throw dead("a folder without a README.md. Link to a file.")
  sources.add(target)
  return `/source/${target}.txt${hash}`
}

const pageOf = (env) => relative(staged, env.realPath ?? env.path)

/** For markdown-it, before VitePress sees the links. */
export const repositoryLinks = (md) => {
  // Text is text: what looks like a tag is shown. Only TypeDoc writes tags: anchors.
  md.core.ruler.before("normalize", "tags", ({ env }) => {
    md.options.html = pageOf(env).startsWith(`${api}/`)
  })
  md.core.ruler.push("repository-links", ({ env, tokens }) => {
    const page = pageOf(env)
    for (const token of tokens.flatMap(({ children }) => children ?? []))
      if (token.type === "link_open") {
        token.attrSet("href", resolveLink(page, token.attrGet("href")))
        if (token.attrGet("href").startsWith("/source/")) token.attrSet("target", "_self")
      }
  })
  // Code that is indented looks like code between fences.
  md.renderer.rules.code_block = (tokens, i, options, env, self) => md.renderer.rules.fence(tokens, i, options, env, self)
  // Vue would evaluate what stands in double braces.
  const text = md.renderer.rules.text
  md.renderer.rules.text = (...args) => text(...args).replaceAll("{{", "&#123;&#123;")
}

/** Copies the files that pages link to. */
export const copySources = (outDir) => {
  for (const source of sources) {
    const to = join(outDir, "source", `${source}.txt`)
    mkdirSync(dirname(to), { recursive: true })
    cpSync(join(root, source), to)
  }
}
