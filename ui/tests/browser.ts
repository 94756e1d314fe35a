/** A browser for the tests of the page: Debian's Chromium, driven by playwright-core, which is installed here when it is first wanted. */
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"
import type { Browser, Page } from "playwright-core"

const here = fileURLToPath(new URL(".", import.meta.url))
export const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium"
export const hasChromium = existsSync(chromium)

/** Debian's Chromium, as root in a container without a network. */
const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync"
]

export const launch = async (): Promise<Browser> => {
  if (!existsSync(`${here}/node_modules/playwright-core/package.json`)) {
    const { status } = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: here, stdio: ["ignore", 2, 2] })
    if (status !== 0) throw new Error("playwright-core could not be installed; the reason is above")
  }
  const { chromium: driver } = createRequire(import.meta.url)("playwright-core") as typeof import("playwright-core")
  return driver.launch({ executablePath: chromium, args: flags })
}

/** Serious faults of accessibility that axe finds on the page. */
export const faults = async (page: Page): Promise<ReadonlyArray<string>> => {
  const { source } = createRequire(import.meta.url)("axe-core") as { readonly source: string }
  // The page's policy takes no scripts of others: the driver's own world is not under it.
  await page.evaluate(source)
  const found = await page.evaluate(async () =>
    (
      globalThis as unknown as {
        axe: { run: () => Promise<{ violations: ReadonlyArray<{ id: string; impact: string; nodes: ReadonlyArray<{ html: string }> }> }> }
      }
    ).axe.run()
  )
  return found.violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(
      ({ id, nodes }) =>
        `${id}: ${nodes
          .slice(0, 3)
          .map(({ html }) => html.slice(0, 120))
          .join(" | ")}`
    )
}

/** What went wrong in a page: errors of its scripts, and what its policy refused. */
export const troublesOf = (page: Page): Array<string> => {
  const troubles: Array<string> = []
  page.on("pageerror", (error) => troubles.push(error.message))
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED/.test(message.text()))
      troubles.push(message.text())
  })
  return troubles
}
