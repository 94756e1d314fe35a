// Called by `npm pack` and `npm publish`: puts JavaScript and declarations into dist/, next to files that are shipped unchanged (the addons' sources
// and the modules that build them). Node does not strip types under node_modules, so the package contains no TypeScript sources.
import { spawnSync } from "node:child_process"
import { cpSync, readdirSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const dist = join(root, "dist")

rmSync(dist, { recursive: true, force: true })
const compiler = join(root, "node_modules/typescript/bin/tsc")
const { status } = spawnSync(process.execPath, [compiler, "-p", "tsconfig.build.json"], { cwd: root, stdio: ["ignore", 2, 2] })
if (status !== 0) process.exit(status ?? 1)
// No entry of the package exports the command line, and the compiler writes its largest type in another order each time.
for (const name of readdirSync(join(dist, "cli"), { recursive: true })) if (name.endsWith(".d.ts")) rmSync(join(dist, "cli", name))

// The page of `caravan ui`. A package packed locally (caravan init) may lack it: only `caravan ui` then fails, with a message. A published package
// must have it.
const page = spawnSync(process.execPath, [join(root, "ui/build.mjs")], { cwd: root, stdio: ["ignore", 2, 2] })
if (page.status === 0)
  cpSync(join(root, "ui/dist"), join(dist, "ui/dist"), { recursive: true, filter: (path) => !path.endsWith(".built-of") })
else if (process.env.npm_command === "publish") process.exit(1)
else process.stderr.write("Could not build the page of caravan ui (see the error above): the package does not contain it.\n")

const asTheyAre = [
  "scripts/libtorch.mjs",
  "scripts/libtorch.d.mts",
  ...["engine/native", "engine/ranks"].flatMap((folder) => readdirSync(join(root, folder)).map((name) => `${folder}/${name}`))
]
for (const path of asTheyAre) cpSync(join(root, path), join(dist, path))
