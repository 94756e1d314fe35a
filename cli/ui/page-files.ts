/** The built page: its files, read once. Only these files are served, so no request path can reach another file. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { extname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml"
}

export interface PageFile {
  readonly bytes: Uint8Array
  readonly type: string
}

/** The folder of the built page, in a clone and in the package. */
const folder = fileURLToPath(new URL("../../ui/dist/", import.meta.url))

/** Request path -> file; undefined if the page is not built. */
export const readPage = (): ReadonlyMap<string, PageFile> | undefined => {
  if (!existsSync(join(folder, "index.html"))) return undefined
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).flatMap((entry) => {
    const type = types[extname(entry.name)]
    if (!entry.isFile() || type === undefined) return []
    const path = join(entry.parentPath, entry.name)
    return [[`/${relative(folder, path)}`, { bytes: readFileSync(path), type }] as const]
  })
  const page = new Map<string, PageFile>(files)
  page.set("/", page.get("/index.html")!)
  return page
}
