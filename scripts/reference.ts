/**
 * Generates docs/reference/ and the index of docs/decisions/ from the code. Deterministic; unchanged pages are not rewritten. `--check` writes
 * nothing, lists the pages that would change and exits with 1 if there are any.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { artifactsPage, path as artifactsPath } from "./reference/artifacts.ts"
import { commandsPage, path as commandsPath } from "./reference/commands.ts"
import { decisionsPage, path as decisionsPath } from "./reference/decisions.ts"
import { errorsPage, path as errorsPath } from "./reference/errors.ts"
import { generated } from "./reference/markdown.ts"
import { indexPage, path as indexPath } from "./reference/overview.ts"
import { loadStages, stagePages } from "./reference/stages.ts"

const root = fileURLToPath(new URL("../", import.meta.url))

/** Path from the root -> page. */
export const reference = async (): Promise<ReadonlyMap<string, string>> => {
  const stages = await loadStages()
  return new Map([
    [indexPath, indexPage()],
    ...stagePages(stages),
    [artifactsPath, artifactsPage(stages)],
    [commandsPath, await commandsPage()],
    [errorsPath, errorsPage()],
    [decisionsPath, decisionsPage()]
  ])
}

/** Pages that differ from the generated ones, including pages that no longer exist. */
export const stale = (pages: ReadonlyMap<string, string>): ReadonlyArray<string> => {
  const gone = readdirSync(`${root}docs/reference`, { recursive: true, encoding: "utf8" })
    .map((name) => `docs/reference/${name}`)
    .filter((path) => path.endsWith(".md") && !pages.has(path) && readFileSync(root + path, "utf8").includes(generated))
  const changed = [...pages].filter(([path, page]) => !existsSync(root + path) || readFileSync(root + path, "utf8") !== page)
  return [...changed.map(([path]) => path), ...gone]
}

const main = async (): Promise<void> => {
  mkdirSync(`${root}docs/reference`, { recursive: true })
  const pages = await reference()
  const paths = stale(pages)
  for (const path of paths) process.stdout.write(`${path}\n`)
  if (process.argv.includes("--check")) {
    process.exitCode = paths.length === 0 ? 0 : 1
    return
  }
  for (const path of paths) {
    const page = pages.get(path)
    mkdirSync(dirname(root + path), { recursive: true })
    if (page === undefined) rmSync(root + path)
    else writeFileSync(root + path, page)
  }
}

if (import.meta.main)
  await main().catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  })
