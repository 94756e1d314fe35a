// Builds the site into site/dist: the API's pages (TypeDoc), the site (VitePress), then a look at every link. Arguments go to `vitepress build`, such as --base /caravan/.
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { deadLinks } from "./check-links.mjs"
import { root } from "./navigation.mjs"
import { api, staged } from "./staged.mjs"

const here = join(root, "site")
const args = process.argv.slice(2)

const run = (program, words, cwd = here) => {
  const { status, error } = spawnSync(program, words, { cwd, stdio: ["ignore", "inherit", "inherit"] })
  if (error) process.stderr.write(`${program} could not be run: ${error.message}\n`)
  if (status !== 0) process.exit(1)
}

const versions = (file) =>
  Object.entries(existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).packages : {}).filter(([path]) => path !== "")
/** Whether npm has installed what a folder's lock file asks for. */
const isInstalled = (folder) => {
  const installed = new Map(versions(join(folder, "node_modules/.package-lock.json")).map(([path, { version }]) => [path, version]))
  return versions(join(folder, "package-lock.json")).every(([path, { version, optional }]) =>
    installed.has(path) ? installed.get(path) === version : optional === true
  )
}
// The types of the root's packages are part of the API.
for (const folder of [root, here]) if (!isInstalled(folder)) run("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"], folder)

rmSync(join(staged, api), { recursive: true, force: true })
run(process.execPath, ["node_modules/typedoc/bin/typedoc"])
// Search finds "Stage.make()", not one of several "make()".
for (const page of readdirSync(join(staged, api, "caravan/namespaces"))) {
  const path = join(staged, api, "caravan/namespaces", page)
  writeFileSync(path, readFileSync(path, "utf8").replaceAll(/^### (\w+\(\))$/gm, `### ${page.replace(".md", "")}.$1`))
}
run(process.execPath, ["node_modules/vitepress/bin/vitepress.js", "build", ...args])

const base = args[args.indexOf("--base") + 1]
const dead = deadLinks(join(here, "dist"), args.includes("--base") ? base : "/")
if (dead.length > 0) {
  process.stderr.write(`Links that lead nowhere in the built site:\n${dead.map((link) => `  ${link}\n`).join("")}`)
  process.exit(1)
}
process.stdout.write(`The site is in ${join(here, "dist")}.\n`)
