#!/usr/bin/env node
// The command `caravan`. Plain JavaScript: it must run on an old Node, to find a new one.
import { existsSync } from "node:fs"
import { spawn } from "node:child_process"
import * as module from "node:module"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const here = dirname(fileURLToPath(import.meta.url))

if (Number(process.versions.node.split(".")[0]) < 24) {
  // The npm package `node` brings Node 24 along; it is somewhere above.
  let own
  for (let folder = here; own === undefined && folder !== dirname(folder); folder = dirname(folder)) {
    const candidate = join(folder, "node_modules/node/bin/node")
    if (existsSync(candidate)) own = candidate
  }
  if (own === undefined) {
    process.stderr.write(
      `Caravan needs Node 24 or later; this is ${process.version}. Install it (npm install --save-dev node@24), or run it with a newer node.\n`
    )
    process.exit(2)
  }
  const child = spawn(own, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" })
  // Ctrl-C reaches the whole group, this process too: what it means is the other's to say.
  process.on("SIGINT", () => {})
  for (const name of ["SIGTERM", "SIGHUP"]) process.on(name, () => child.kill(name))
  const [status, signal] = await new Promise((resolve) => child.on("exit", (...end) => resolve(end)))
  process.exit(signal === "SIGINT" ? 130 : (status ?? 1))
}

module.enableCompileCache?.()
const source = join(here, "main.ts")
// In the repository the sources run as they are; the package holds what was built from them.
const { main } = await import(existsSync(source) ? source : join(here, "../dist/cli/main.js"))
process.exitCode = await main(process.argv.slice(2))
