// `node scripts/setup.mjs demo` and `... test`: sets up this clone (packages, Node 24, libtorch, the addon), then runs the command. Plain Node 20, no
// dependencies. Each step is skipped if already done; a rerun completes an interrupted setup.
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

import { ensureLibtorch } from "./libtorch.mjs"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const bin = join(root, "node_modules/.bin")
const node = join(bin, "node")

// stdout belongs to the command that runs at the end; setup and its tools write to stderr.
const run = (program, args, stdout = 2, more = {}) =>
  spawnSync(program, args, { cwd: root, stdio: ["inherit", stdout, "inherit"], env: { ...environment(), ...more } })

/** Child processes find Node 24 first. */
const environment = () => ({ ...process.env, PATH: [bin, process.env.PATH].join(delimiter) })

const lockedVersions = (file) =>
  existsSync(file) ? Object.entries(JSON.parse(readFileSync(file, "utf8")).packages).filter(([path]) => path !== "") : []

/** npm writes node_modules/.package-lock.json when it finishes: compare it with the lock file. */
const packagesAreInstalled = () => {
  const installed = new Map(lockedVersions(join(root, "node_modules/.package-lock.json")).map(([path, entry]) => [path, entry.version]))
  return lockedVersions(join(root, "package-lock.json")).every(([path, { version, optional }]) =>
    installed.has(path) ? installed.get(path) === version : optional === true
  )
}

const installPackages = () => {
  if (packagesAreInstalled()) return
  process.stderr.write("Installing the npm packages in package-lock.json.\n")
  const npm = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: root, stdio: ["inherit", 2, "inherit"] })
  if (npm.error) throw new Error(`npm could not be run: ${npm.error.message}. It comes with Node; on Debian: apt-get install npm`)
  if (npm.status !== 0) throw new Error(`npm ci ended with ${npm.status ?? npm.signal}; see the error above. Fix it, then run \`npm ci\`.`)
}

const nodeVersion = () => {
  const answer = spawnSync(node, ["--version"], { encoding: "utf8" })
  return answer.status === 0 ? answer.stdout.trim() : undefined
}

/** The npm package "node" downloads Node 24 in its install script, which npm may be configured not to run. */
const checkNode = () => {
  const isNew = (version) => version !== undefined && Number(/^v(\d+)/.exec(version)?.[1]) >= 24
  if (isNew(nodeVersion())) return
  process.stderr.write("Installing Node 24 (the npm package node).\n")
  spawnSync("npm", ["rebuild", "node", "--ignore-scripts=false", "--loglevel=error"], { cwd: root, stdio: ["ignore", 2, 2] })
  const version = nodeVersion()
  if (isNew(version)) return
  throw new Error(
    `Expected Node 24 or later in ${node}, found ${version ?? "none that runs"}. Run \`npm ci --ignore-scripts=false\`, or install Node 24.`
  )
}

const buildAddon = async () => {
  const build = await import("../engine/native/build.mjs")
  build.buildAddon()
}

const setup = async () => {
  installPackages()
  checkNode()
  await ensureLibtorch()
  await buildAddon()
}

const faultTests = [
  "tests/faults",
  ...["store/gc", "run/mapped", "run/processes", "inspect/reproduce", "run/run", "store/single-flight", "store/store"].map(
    (name) => `tests/runtime/${name}.test.ts`
  ),
  "tests/schemas/dataset.test.ts",
  "tests/stages/ranks.test.ts"
]

const commands = {
  study: (args) => run(node, ["cli/caravan.js", "run", "pipelines/study.ts", "--device", "cuda", ...args], "inherit"),
  demo: (args) => run(node, ["cli/caravan.js", "run", "pipelines/demo.ts", ...args], "inherit"),
  test: (args) => run(node, ["scripts/test.mjs", ...args], "inherit"),
  // Fails every call in turn, and runs the other fault tests: half an hour (docs/faults.md).
  faults: (args) =>
    run(node, ["node_modules/vitest/vitest.mjs", "run", ...(args.length > 0 ? args : faultTests)], "inherit", { FAULTS: "all" }),
  // Runs against a temporary Slurm on this machine, with injected faults: a quarter of an hour.
  cluster: (args) =>
    run(
      node,
      ["node_modules/vitest/vitest.mjs", "run", "--no-file-parallelism", ...(args.length > 0 ? args : ["tests/cluster"])],
      "inherit",
      {
        FAULTS: "all"
      }
    ),
  nothing: () => ({ status: 0 })
}
const usage = `Usage: node scripts/setup.mjs [${Object.keys(commands).join(" | ")}] [arguments of caravan run, or of vitest]`

const [what = "nothing", ...args] = process.argv.slice(2)
if (!Object.hasOwn(commands, what)) {
  process.stderr.write(`Unknown command ${what}.\n${usage}\n`)
  process.exit(2)
}
try {
  await setup()
} catch (error) {
  process.stderr.write(`\nSetup failed: ${error.message}\n`)
  process.exit(1)
}
const { status, signal } = commands[what](args)
if (signal) process.kill(process.pid, signal)
process.exit(status ?? 1)
