// The pages and their pictures, copied to site/pages as they lie in the repository: VitePress wants them inside its package.
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs"
import { dirname, join, posix } from "node:path"
import { pages, root } from "./navigation.mjs"

export const staged = join(root, "site/pages")
/** Where TypeDoc writes, as a page's path. */
export const api = "docs/reference/api"

export const apiPages = () =>
  existsSync(join(staged, api))
    ? readdirSync(join(staged, api), { recursive: true })
        .filter((name) => name.endsWith(".md"))
        .sort()
        .map((name) => `${api}/${name}`)
    : []

const copy = (path) => {
  mkdirSync(dirname(join(staged, path)), { recursive: true })
  cpSync(join(root, path), join(staged, path))
}

/** Copies all but what TypeDoc makes. */
export const stage = () => {
  for (const name of existsSync(staged) ? readdirSync(staged, { recursive: true }) : [])
    if (/\.(md|png|svg)$/.test(name) && !name.startsWith(api)) rmSync(join(staged, name))
  for (const page of pages()) {
    copy(page)
    for (const [, picture] of readFileSync(join(root, page), "utf8").matchAll(/!\[[^\]]*\]\(([^):]+)\)/g))
      copy(posix.join(posix.dirname(page), picture))
  }
}
