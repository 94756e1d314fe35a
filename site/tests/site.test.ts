/** The built site: every page, no dead link, search. */
import { spawnSync } from "node:child_process"
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { hasChromium, launch, troublesOf } from "../../ui/tests/browser.ts"
import { deadLinks } from "../check-links.mjs"
import { pages, placeOf, root } from "../navigation.mjs"

const dist = join(root, "site/dist")
const places = pages().map((page) => placeOf(page).replace(/\.md$/, ".html"))

describe("the site", () => {
  it("builds, without dead links", () => {
    const { status, stderr, stdout } = spawnSync(process.execPath, ["site/build.mjs"], { cwd: root, encoding: "utf8" })
    expect([status, status === 0 ? "" : stdout + stderr]).toEqual([0, ""])
  }, 300_000)
  it("has every page of the sidebar, and the API of every entry", () => {
    const api = ["README", "engine", "models", "stages"].map((name) => `reference/api/caravan/${name.replace("README", "index")}.html`)
    expect([...places, ...api].filter((place) => !existsSync(join(dist, place)))).toEqual([])
    expect(readFileSync(join(dist, "reference/api/caravan/stages.html"), "utf8")).toContain('id="policyloss"')
  })
  it("has the files of the repository that pages link to", () => {
    expect(readFileSync(join(dist, "source/stages/ppo/ppo.ts.txt"), "utf8")).toBe(readFileSync(join(root, "stages/ppo/ppo.ts"), "utf8"))
  })
})

describe("the tests of the site", () => {
  it.skipIf(!existsSync(join(root, "ui/tests/node_modules/playwright-core")))(
    "fit its types",
    () => {
      expect(
        spawnSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "site/tests"], { cwd: root, encoding: "utf8" }).stdout
      ).toBe("")
    },
    120_000
  )
})

describe("a link of a site", () => {
  it("that leads to no file, or to no anchor of its page, is found", () => {
    const folder = mkdtempSync(join(tmpdir(), "site-"))
    mkdirSync(join(folder, "a"))
    const links = [
      "b.html",
      "b.html#here",
      "b.html#none",
      "/a/",
      "/a/#top",
      "/none",
      "/none.png#x",
      "#top",
      "#none",
      "https://h.example/x",
      "../a/b.html?x#here"
    ]
    writeFileSync(
      join(folder, "a/index.html"),
      `<h1 id="top"></h1>${links.map((link) => `<a class="x" href="${link}">x</a>`).join("")}<img src="no.png">`
    )
    writeFileSync(join(folder, "a/b.html"), `<p id="here"></p><a href="../..//a.html">x</a>`)
    const dead = [
      "a/index.html: b.html#none",
      "a/index.html: /none",
      "a/index.html: /none.png#x",
      "a/index.html: #none",
      "a/index.html: no.png",
      "a/b.html: ../..//a.html"
    ]
    expect([...deadLinks(folder)].sort()).toEqual(dead.sort())
    expect(deadLinks(folder, "/under/")).toContain("a/index.html: /a/")
    rmSync(folder, { recursive: true })
  })
})

const types: Readonly<Record<string, string>> = { html: "text/html", js: "text/javascript", css: "text/css", txt: "text/plain" }

describe.skipIf(!hasChromium)("the site in a browser", () => {
  let browser: Browser
  let server: Server
  let page: Page
  let troubles: ReadonlyArray<string>
  const at = (place: string) => `http://127.0.0.1:${(server.address() as AddressInfo).port}/${place}`
  beforeAll(async () => {
    server = createServer(({ url }, response) => {
      const path = join(dist, decodeURI(new URL(url!, "http://localhost").pathname))
      const file = existsSync(path) && statSync(path).isDirectory() ? join(path, "index.html") : path
      if (!existsSync(file)) return void response.writeHead(404).end()
      response.writeHead(200, { "content-type": types[file.split(".").at(-1)!] ?? "application/octet-stream" })
      createReadStream(file).pipe(response)
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    browser = await launch()
    page = await browser.newPage()
    troubles = troublesOf(page)
  }, 120_000)
  afterAll(async () => {
    await browser.close()
    server.close()
  })

  it("finds a field of a stage and a sentence of the README by search, and opens what it found", async () => {
    await page.setViewportSize({ width: 1280, height: 800 })
    await page.goto(at("architecture.html"))
    for (const [words, place] of [
      ["valueLearningRate", /reference\/stages\/ppo\.html#ppo$/],
      ["killed run resumes", /\/(index\.html)?#?/]
    ] as const) {
      await page.click(".DocSearch-Button, .VPNavBarSearch button")
      await page.fill("input.search-input", words)
      const first = page.locator(".results a.result").first()
      await first.waitFor()
      expect(await first.getAttribute("href")).toMatch(place)
      await first.click()
      await page.waitForURL(place)
    }
    expect(troubles).toEqual([])
  }, 60_000)

  it.each([390, 1280])(
    "is no wider than a screen of %i pixels, but for tables and code, which scroll",
    async (width) => {
      await page.setViewportSize({ width, height: 844 })
      for (const place of places) {
        await page.goto(at(place), { waitUntil: "domcontentloaded" })
        expect([place, await page.evaluate(() => document.documentElement.scrollWidth)]).toEqual([place, width])
      }
      expect(troubles).toEqual([])
    },
    180_000
  )
})
