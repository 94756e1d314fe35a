/** The built site: every page, no dead link, search. */
import { spawnSync } from "node:child_process"
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
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
  it("shows neither the notes on generated pages nor tags", () => {
    for (const place of places) expect([place, /&lt;!--|&lt;a id=/.test(readFileSync(join(dist, place), "utf8"))]).toEqual([place, false])
  })
  it("has the files of the repository that pages link to", () => {
    const copy = readFileSync(join(dist, "source/stages/ppo/ppo.ts.txt"), "utf8")
    expect(copy).toBe(`\uFEFF${readFileSync(join(root, "stages/ppo/ppo.ts"), "utf8")}`)
  })
})

describe("a link of a site", () => {
  it("that leads to a missing file or anchor is found", () => {
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

type Browser = Awaited<ReturnType<typeof launch>>
type Page = Awaited<ReturnType<Browser["newPage"]>>
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

  it("has tests that type-check", () => {
    expect(
      spawnSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "site/tests"], { cwd: root, encoding: "utf8" }).stdout
    ).toBe("")
  }, 120_000)

  it("finds a field of a stage and a sentence of the README by search, and opens the results", async () => {
    await page.setViewportSize({ width: 1280, height: 800 })
    await page.goto(at("architecture.html"))
    for (const [words, place] of [
      ["valueLearningRate", "/reference/stages/ppo.html#ppo"],
      ["killed run resumes", "/"]
    ] as const) {
      await page.click(".VPNavBarSearch button")
      await page.fill("input.search-input", words)
      await page.click(`.results a.result[href="${place}"], .results a.result[href^="${place}#"]`)
      await page.waitForURL((url) => url.href.replace(/index\.html/, "").startsWith(at(place.slice(1))))
    }
    expect(troubles).toEqual([])
  }, 60_000)

  it("fits a phone's screen: wide tables and code scroll within the page", async () => {
    await page.setViewportSize({ width: 390, height: 844 })
    await page.goto(at(places[0]!))
    const widths = await page.evaluate(async (wanted) => {
      const content = document.querySelector(".vp-doc")!
      const found: Array<readonly [string, number]> = []
      for (const place of wanted) {
        const text = await (await fetch(`/${place}`)).text()
        content.innerHTML = new DOMParser().parseFromString(text, "text/html").querySelector(".vp-doc")!.innerHTML
        found.push([place, document.documentElement.scrollWidth])
      }
      content.innerHTML = `<p style="width: 500px">Wide</p>`
      return [...found, ["a page with something wide", document.documentElement.scrollWidth] as const]
    }, places)
    expect(widths).toHaveLength(places.length + 1)
    expect(widths.filter(([, width]) => width > 390).map(([place]) => place)).toEqual(["a page with something wide"])
  }, 60_000)
})
