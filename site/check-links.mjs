// Links of the built site that lead nowhere: to a file that is not there, or to an anchor that the page does not have.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { join, posix } from "node:path"

const unescape = (text) =>
  text.replaceAll("&quot;", '"').replaceAll("&#39;", "'").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&")
const attributes = (html, tag, name) =>
  [...html.matchAll(new RegExp(`<${tag}\\b[^>]*?\\s${name}="([^"]*)"`, "g"))].map(([, value]) => unescape(value))

/** ["page.html: ../other.html#nowhere"] of the HTML files below a folder that is served at `base`. */
export const deadLinks = (folder, base = "/") => {
  const html = new Map(
    readdirSync(folder, { recursive: true })
      .filter((name) => name.endsWith(".html"))
      .map((name) => [name, readFileSync(join(folder, name), "utf8")])
  )
  const ids = new Map()
  const idsOf = (name) => {
    if (!ids.has(name)) ids.set(name, new Set(attributes(html.get(name), "[a-z][a-z0-9-]*", "id")))
    return ids.get(name)
  }
  const isDead = (from, link) => {
    if (/^([a-z]+:|\/\/)/i.test(link)) return false
    const [path, anchor] = link.split("#", 2)
    if (path.startsWith("/") && !path.startsWith(base)) return true
    const place = decodeURI(path.replace(/\?.*$/, ""))
    const to =
      place === "" ? from : place.startsWith("/") ? posix.join(".", place.slice(base.length)) : posix.join(posix.dirname(from), place)
    const file = [to, posix.join(to, "index.html")].find((each) => existsSync(join(folder, each)) && statSync(join(folder, each)).isFile())
    if (file === undefined) return true
    return anchor !== undefined && anchor !== "" && html.has(file) && !idsOf(file).has(decodeURIComponent(anchor))
  }
  return [...html].flatMap(([name, text]) =>
    [
      ...new Set([
        ...attributes(text, "a", "href"),
        ...attributes(text, "img", "src"),
        ...attributes(text, "(?:link|script)", "(?:href|src)")
      ])
    ]
      .filter((link) => isDead(name, link))
      .map((link) => `${name}: ${link}`)
  )
}
