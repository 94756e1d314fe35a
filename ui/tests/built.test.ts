/** The built page: its size, its types, and what it does not hold. */
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { beforeAll, describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("../..", import.meta.url))
const dist = join(root, "ui/dist")
const node = (...args: ReadonlyArray<string>) => spawnSync(process.execPath, args, { cwd: root, encoding: "utf8" })

beforeAll(() => {
  expect(node("ui/build.mjs").status).toBe(0)
}, 180_000)

describe("the built page", () => {
  const index = () => readFileSync(join(dist, "index.html"), "utf8")

  it("begins with at most 60 kB, gzipped", () => {
    const first = [...index().matchAll(/(?:src|href)="\/(assets\/[^"]+)"/g)].map(([, path]) => readFileSync(join(dist, path!)))
    expect(first.length).toBeGreaterThan(1)
    const size = first.reduce((sum, bytes) => sum + gzipSync(bytes).length, gzipSync(index()).length)
    expect(size).toBeLessThan(60_000)
  })

  it("has no inline script or style, and makes no requests to other servers", () => {
    expect(index()).not.toMatch(/<style|<script(?![^>]*src=)|\sstyle=|\son[a-z]+=/)
    for (const name of readdirSync(join(dist, "assets"))) {
      const text = readFileSync(join(dist, "assets", name), "utf8")
      expect(text).not.toMatch(/\beval\(|new Function\(|innerHTML\s*=\s*[^"'`]*\+|@import|url\(["']?https?:/)
    }
  })

  it("is not rebuilt if its sources are unchanged", () => {
    expect(node("ui/build.mjs")).toMatchObject({ status: 0, stderr: "" })
  })

  it("matches the types of the server's API", () => {
    expect(node("node_modules/typescript/bin/tsc", "-p", "ui").stdout).toBe("")
    if (existsSync(join(root, "ui/tests/node_modules/playwright-core")))
      expect(node("node_modules/typescript/bin/tsc", "-p", "ui/tests").stdout).toBe("")
  }, 120_000)
})
