// Builds the page into ui/dist, and installs its packages if missing. Does nothing if the sources have not changed. Plain Node, like scripts/setup.mjs.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const here = dirname(fileURLToPath(import.meta.url))
const stamp = join(here, "dist/.built-of")

const sources = () => {
  const hash = createHash("sha256")
  const below = ["src", "public"].flatMap((folder) =>
    readdirSync(join(here, folder), { recursive: true, withFileTypes: true }).flatMap((entry) =>
      entry.isFile() ? [join(entry.parentPath, entry.name)] : []
    )
  )
  const own = ["index.html", "vite.config.mjs", "package.json", "package-lock.json"].map((name) => join(here, name))
  for (const path of [...below, ...own].sort()) hash.update(path.slice(here.length)).update("\0").update(readFileSync(path)).update("\0")
  return hash.digest("hex")
}

const run = (program, args) => {
  const { status, error } = spawnSync(program, args, { cwd: here, stdio: ["ignore", 2, 2] })
  if (error) process.stderr.write(`${program} could not be run: ${error.message}\n`)
  if (status !== 0) process.exit(1)
}

const digest = sources()
if (existsSync(stamp) && readFileSync(stamp, "utf8") === digest) process.exit(0)
process.stderr.write("Building the page of caravan ui (ui/dist), which takes a few seconds.\n")
const wanted = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8")).packages
const installed = join(here, "node_modules/.package-lock.json")
const isInstalled =
  existsSync(installed) &&
  Object.entries(JSON.parse(readFileSync(installed, "utf8")).packages).every(([path, { version }]) => wanted[path]?.version === version)
// npm runs on any Node version, and would warn about the version that the project requires.
if (!isInstalled) run("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"])
run(process.execPath, ["node_modules/vite/bin/vite.js", "build", "--logLevel", "warn"])
writeFileSync(stamp, digest)
