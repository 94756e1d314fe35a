// `npm pack` and `npm publish` call this first: JavaScript and declarations in dist/, beside what is used as it is (the addons' sources and the
// modules that build them). Node strips no types under node_modules, so a package holds no TypeScript of ours.
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

// The page of `caravan ui`. Without it a package that is only packed here (caravan init) is whole but for that command, which says so; one that is published has it.
const page = spawnSync(process.execPath, [join(root, "ui/build.mjs")], { cwd: root, stdio: ["ignore", 2, 2] })
if (page.status === 0)
  cpSync(join(root, "ui/dist"), join(dist, "ui/dist"), { recursive: true, filter: (path) => !path.endsWith(".built-of") })
else if (process.env.npm_command === "publish") process.exit(1)
else process.stderr.write("The page of caravan ui could not be built (its reason is above): this package is made without it.\n")

const asTheyAre = [
  "scripts/libtorch.mjs",
  "scripts/libtorch.d.mts",
  ...["engine/native", "engine/ranks"].flatMap((folder) => readdirSync(join(root, folder)).map((name) => `${folder}/${name}`))
]
for (const path of asTheyAre) cpSync(join(root, path), join(dist, path))
