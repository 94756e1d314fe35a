#!/usr/bin/env node
// The command `caravan`. Plain JavaScript: it must start on an old Node in order to find a new one.
import { existsSync } from "node:fs"
import { spawn } from "node:child_process"
import * as module from "node:module"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"

const here = dirname(fileURLToPath(import.meta.url))
/** Exists only in a clone: installs packages, Node 24 and libtorch. */
const setup = relative(process.cwd(), join(here, "../scripts/setup.mjs"))

if (Number(process.versions.node.split(".")[0]) < 24) {
  // The npm package `node` contains Node 24; look for it in the folders above.
  let own
  for (let folder = here; own === undefined && folder !== dirname(folder); folder = dirname(folder)) {
    const candidate = join(folder, "node_modules/node/bin/node")
    if (existsSync(candidate)) own = candidate
  }
  if (own === undefined) {
    const how = existsSync(setup) ? `Run \`node ${setup}\`, which installs it` : "Install it (npm install --save-dev node@24)"
    process.stderr.write(`Caravan needs Node 24 or later; this is ${process.version}. ${how}, or run it with a newer node.\n`)
    process.exit(2)
  }
  const child = spawn(own, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" })
  // Ctrl-C reaches the whole process group, including this process: let the child decide what it means.
  process.on("SIGINT", () => {})
  for (const name of ["SIGTERM", "SIGHUP"]) process.on(name, () => child.kill(name))
  const [status, signal] = await new Promise((resolve) => child.on("exit", (...end) => resolve(end)))
  process.exit(signal === "SIGINT" ? 130 : (status ?? 1))
}

if (existsSync(setup) && !existsSync(join(here, "../node_modules/effect"))) {
  process.stderr.write(`This clone is not set up: its packages are missing. Run \`node ${setup}\` first.\n`)
  process.exit(2)
}

module.enableCompileCache?.()
resolveOwnModules()
const source = join(here, "main.ts")
// A checkout runs the TypeScript sources directly; the npm package contains compiled JavaScript.
const { main } = await import(existsSync(source) ? source : join(here, "../dist/cli/main.js"))
process.exitCode = await main(process.argv.slice(2))

/**
 * Hundreds of modules import each other by full relative paths. Node checks each path on disk, and the package.json above it for its module format: a
 * fifth of the time of a run that finds every result (docs/performance.md). For our own modules and effect's the answer is known in advance.
 */
function resolveOwnModules() {
  const own = new URL("../", import.meta.url).href
  const ours = ["cli", "data", "dist", "engine", "models", "runtime", "schemas", "stages"].map((folder) => `${own}${folder}/`)
  const isKnown = (url) => ours.some((folder) => url.startsWith(folder)) || url.includes("/node_modules/effect/dist/")
  module.registerHooks?.({
    resolve: (specifier, context, next) => {
      const { parentURL } = context
      const format = specifier.endsWith(".ts") ? "module-typescript" : specifier.endsWith(".js") ? "module" : undefined
      if (format === undefined || !specifier.startsWith(".") || parentURL === undefined || !isKnown(parentURL))
        return next(specifier, context)
      return { url: new URL(specifier, parentURL).href, format, shortCircuit: true }
    }
  })
}
