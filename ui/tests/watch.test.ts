/** The page in a browser, through a run: it begins, goes on, fails, is begun again and ends, while a server comes and goes. */
import type { ChildProcess } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { removeFolder } from "../../tests/cli/caravan.ts"
import { faults, hasChromium, launch, troublesOf } from "./browser.ts"
import { begin, beginUi, ended, makeProject, type Project } from "./project.ts"

describe.skipIf(!hasChromium)("the page of caravan ui", () => {
  let project: Project
  let browser: Browser
  let page: Page
  let server: ChildProcess
  let url: string
  let troubles: ReadonlyArray<string>
  let run: ChildProcess
  beforeAll(async () => {
    project = makeProject()
    mkdirSync(join(project.folder, "home"))
    ;({ child: server, url } = await beginUi(project))
    browser = await launch()
    page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
    page.setDefaultTimeout(20_000)
    troubles = troublesOf(page)
    await page.goto(url)
  }, 180_000)
  afterAll(async () => {
    run?.kill()
    await browser?.close()
    server?.kill()
    if (project !== undefined) removeFolder(project.folder)
  })

  it("shows a run that starts, without a reload", async () => {
    await page.getByText("Nothing has run here yet").waitFor()
    run = begin(project, "run", "pipeline.ts", "--set", `go=${project.go}`, "--quiet")
    await page.getByRole("cell", { name: "running" }).waitFor()
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("opens with the keyboard alone, with its rounds folded", async () => {
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    for (let i = 0; i < 12 && !(await page.evaluate(() => document.activeElement?.textContent?.startsWith("little") ?? false)); i++)
      await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.getByRole("heading", { name: /^little/ }).waitFor()
    await page.locator(".graph svg").waitFor()
    expect((await page.locator(".node.group text:not(.small)").allTextContents()).sort()).toEqual(["round 1", "round 2"])
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("moves from node to node with the arrow keys, and unfolds a round with Enter", async () => {
    await page.locator(".graph-frame").focus()
    const spoken = () => page.locator(".graph [role=status]").textContent()
    for (let i = 0; i < 6 && (await spoken()) !== "round 1, folded"; i++) await page.keyboard.press("ArrowRight")
    expect(await spoken()).toBe("round 1, folded")
    await page.keyboard.press("Enter")
    await page.locator(".node", { hasText: "tuned-v1" }).waitFor()
    await page.getByRole("button", { name: /round 1/ }).waitFor()
  }, 60_000)

  it("shows a running node's progress: its step, its loss, its curve", async () => {
    await page.getByRole("list", { name: "Running now" }).getByRole("link", { name: "tuned-v1" }).click()
    const panel = page.getByRole("complementary", { name: "Node tuned-v1" })
    await panel.getByText("20 of 200").waitFor()
    await panel.locator(".uplot canvas").first().waitFor()
    await panel.getByText("20 reports").waitFor()
    await panel.getByText("it has never run here").first().waitFor()
    expect(await panel.locator("tr.differs th").allTextContents()).toEqual(["go"])
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("reconnects after the server was down, and misses nothing", async () => {
    const { port } = new URL(url)
    server.kill("SIGKILL")
    await page.getByText("reconnecting").waitFor()
    ;({ child: server } = await beginUi(project, "--port", port))
    await page.getByText("live", { exact: true }).waitFor()
    await page.getByText("20 of 200").first().waitFor()
  }, 60_000)

  it("shows why a node failed, as plain text", async () => {
    writeFileSync(`${project.go}.fail`, "")
    await ended(run)
    const panel = page.getByRole("complementary", { name: "Node tuned-v1" })
    const error = await panel.getByRole("alert").textContent()
    expect(error).toContain("out of data: <img src=x")
    expect(error).toContain("\\x1b[31m\\u202ered")
    expect(await page.title()).not.toBe("pwned")
    expect(await page.locator("main img, main script").count()).toBe(0)
    await page.locator(".run-title").getByText("failed").waitFor()
    // What it told of is not lost with it.
    await panel.getByText("20 reports").waitFor()
  }, 60_000)

  it("shows the run that continues from there to its end, with every step in its curve", async () => {
    rmSync(`${project.go}.fail`)
    writeFileSync(project.go, "")
    run = begin(project, "run", "pipeline.ts", "--set", `go=${project.go}`, "--quiet")
    await page.getByRole("link", { name: "Runs" }).click()
    await ended(run)
    const first = page.locator(".runs tbody tr").first()
    await first.getByText("done", { exact: true }).waitFor()
    await first.getByRole("link").click()
    await page.getByRole("link", { name: "Curves" }).click()
    await page.getByLabel("tuned-v2").check()
    await page.locator(".uplot canvas").first().waitFor()
    expect(await page.locator(".chart figcaption").first().textContent()).toBe("loss")
    await page.getByLabel("smoothing").fill("0.9")
    await page.getByLabel("log y").check()
    await page.getByRole("img", { name: /^loss, .*tuned-v2: from/ }).waitFor()
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("lists the nodes in a searchable table, whatever their names are", async () => {
    await page.getByRole("navigation", { name: "Parts of the run" }).getByRole("link", { name: "Nodes" }).click()
    await page.getByLabel("Search nodes").fill("odd")
    await page.getByRole("link", { name: "<b>odd</b>/\\u202ename" }).click()
    await page.getByRole("complementary").getByText("Report", { exact: true }).click()
    expect(await page.getByRole("complementary").locator("details pre").first().textContent()).toContain("<script>document.title")
    expect(await page.title()).not.toBe("pwned")
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("pages and searches the rows of a dataset with any content", async () => {
    await page.getByLabel("Search nodes").fill("texts")
    await page.getByRole("region", { name: "Nodes" }).getByRole("link", { name: "texts", exact: true }).click()
    await page.getByRole("link", { name: "Rows", exact: true }).click()
    await page.getByRole("heading", { name: /^texts/ }).waitFor()
    await page.getByText("text 0 <img src=x onerror=").waitFor()
    await page.getByRole("button", { name: "Next" }).click()
    await page.getByText("rows 26 to 50").waitFor()
    await page.getByLabel("Search rows").fill("TEXT 299 ")
    await page.getByText("rows 300 to 300").waitFor()
    expect(await page.locator("article.row").count()).toBe(1)
    expect(await page.title()).not.toBe("pwned")
    expect(await faults(page)).toEqual([])
    await page.getByRole("link", { name: "back to the run" }).click()
    await page.getByRole("heading", { name: /^little/ }).waitFor()
  }, 60_000)

  it("compares two runs, and puts them in a table with their curves", async () => {
    await ended(begin(project, "run", "pipeline.ts", "--set", `go=${project.go}`, "--set", "rate=0.3", "--quiet"))
    await page.getByRole("link", { name: "Runs" }).click()
    await page.getByText("rate=0.3").waitFor()
    for (const i of [0, 1])
      await page
        .getByRole("checkbox", { name: /^Choose little/ })
        .nth(i)
        .check()
    await page.getByRole("link", { name: "Compare", exact: true }).click()
    await page.getByRole("rowheader", { name: "rate", exact: true }).waitFor()
    await page.getByText("tuned-v1", { exact: true }).waitFor()
    const rates = page
      .getByRole("row", { name: /config learningRate/ })
      .first()
      .locator("td")
    await expect.poll(() => rates.allTextContents(), { timeout: 10_000 }).toEqual(["0.1", "0.3", ""])
    expect(await faults(page)).toEqual([])
    await page.goBack()
    for (const i of [0, 1])
      await page
        .getByRole("checkbox", { name: /^Choose little/ })
        .nth(i)
        .check()
    await page.getByRole("link", { name: "Table and curves" }).click()
    await page.getByRole("columnheader", { name: "rate" }).waitFor()
    await page.getByRole("combobox", { name: "Node" }).selectOption("tuned-v1")
    await page.getByRole("img", { name: /^loss, / }).waitFor()
    const label = () => page.getByRole("img", { name: /^loss, / }).getAttribute("aria-label")
    await expect.poll(label, { timeout: 10_000 }).toMatch(/rate=–: from .*; rate=0\.3: from /)
    await page.getByLabel("separate charts").check()
    await page.locator(".small-multiples .chart").nth(1).waitFor()
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("shows an artifact's origin and what was made from it", async () => {
    await page.getByRole("link", { name: "Runs" }).click()
    await page.locator(".runs tbody tr").first().getByRole("link").click()
    await page.getByRole("navigation", { name: "Parts of the run" }).getByRole("link", { name: "Nodes" }).click()
    await page.getByRole("link", { name: "measured-1" }).click()
    await page.getByRole("link", { name: /^Lineage/ }).click()
    await page.getByRole("heading", { name: "Made from" }).waitFor()
    expect(await page.locator(".tree").first().getByRole("link").first().textContent()).toMatch(/tuned-v1|texts/)
    expect(await faults(page)).toEqual([])
    await page.goBack()
  }, 60_000)

  it("is usable on a phone, and in dark mode", async () => {
    await page.setViewportSize({ width: 390, height: 844 })
    await page.emulateMedia({ colorScheme: "dark" })
    for (const hash of ["#/", (await page.url()).replace(/^[^#]*/, "")]) {
      await page.goto(`${url}${hash}`)
      await page.getByText("live", { exact: true }).waitFor()
      // What is wider than the screen.
      const wide = await page.evaluate(() =>
        document.documentElement.scrollWidth <= innerWidth
          ? []
          : [...document.querySelectorAll("main *")]
              .filter((one) => one.getBoundingClientRect().right > innerWidth)
              .map((one) => one.outerHTML.slice(0, 120))
      )
      expect(wide).toEqual([])
      expect(await faults(page)).toEqual([])
    }
  }, 60_000)

  it("had no errors and no violations of its content security policy", () => {
    expect(troubles).toEqual([])
  })
})
