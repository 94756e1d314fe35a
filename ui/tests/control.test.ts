/** The page in a browser, doing: a run is stopped and resumed, a round of pairs is labelled to its end by keys alone, and nothing of it without the token. */
import type { ChildProcess } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { removeFolder } from "../../tests/cli/caravan.ts"
import { faults, hasChromium, launch, troublesOf } from "./browser.ts"
import { begin, beginUi, ended, makeProject, type Project } from "./project.ts"

describe.skipIf(!hasChromium)("the page of caravan ui --allow-control", () => {
  let project: Project
  let browser: Browser
  let page: Page
  let server: ChildProcess
  let url: string
  let token: string
  let troubles: ReadonlyArray<string>
  beforeAll(async () => {
    project = makeProject()
    mkdirSync(join(project.folder, "home"))
    const served = await beginUi(project, "--allow-control")
    ;[server, url, token] = [served.child, served.url, served.token!]
    browser = await launch()
    page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
    page.setDefaultTimeout(20_000)
    troubles = troublesOf(page)
  }, 180_000)
  afterAll(async () => {
    await browser?.close()
    server?.kill()
    if (project !== undefined) removeFolder(project.folder)
  })

  it("asks for the token, rejects a wrong one, and removes the right one from its address", async () => {
    const run = begin(project, "run", "pipeline.ts", "--set", `go=${project.go}`, "--quiet")
    await page.goto(url)
    await page.locator(".runs tbody").getByRole("link").first().click()
    await page.getByText("Enter the token to stop, resume and add notes").click()
    await page.getByLabel("Token printed by caravan ui").fill("wrong")
    await page.getByRole("button", { name: "Use token" }).click()
    await page.getByRole("list", { name: "Running now" }).waitFor()
    await page.getByRole("button", { name: "Stop" }).click()
    await page.getByRole("button", { name: "Stop the run?" }).click()
    await page.getByText("The token is missing or wrong").waitFor()
    expect(run.exitCode).toBe(null)
    await page.goto(`${url}#/?token=${token}`)
    await page.reload()
    await page.getByRole("heading", { name: "Runs" }).waitFor()
    expect(page.url()).not.toContain(token)
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("stops a run and resumes it", async () => {
    await page.locator(".runs tbody").getByRole("link").first().click()
    await page.getByRole("button", { name: "Stop" }).click()
    await page.getByRole("button", { name: "Stop the run?" }).click()
    await page.locator(".run-title").getByText("interrupted").waitFor()
    const before = page.url()
    writeFileSync(project.go, "")
    await page.getByRole("button", { name: "Resume" }).click()
    await page.waitForURL((now) => now.href !== before)
    await page.locator(".run-title").getByText("done").waitFor()
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("keeps a note and tags, which the list shows", async () => {
    await page.getByRole("link", { name: "Settings" }).click()
    await page.getByLabel("Note", { exact: true }).fill("the <b>first</b> one that ended")
    await page.getByLabel("tags, separated by commas").fill("good, v1")
    await page.getByRole("button", { name: "Save" }).click()
    await page.getByText("Saved.").waitFor()
    expect(await faults(page)).toEqual([])
    await page.getByRole("link", { name: "Runs" }).click()
    await page.getByText("the <b>first</b> one that ended").waitFor()
    await page.getByLabel("Search runs").fill("v1")
    await page.getByText("1 run", { exact: true }).waitFor()
  }, 60_000)

  it("pins a result", async () => {
    await page.locator(".runs tbody").getByRole("link").first().click()
    await page.getByRole("navigation", { name: "Parts of the run" }).getByRole("link", { name: "Nodes" }).click()
    await page.getByRole("link", { name: "tuned-v2" }).click()
    await page.getByRole("button", { name: "Pin" }).click()
    await page.getByRole("button", { name: "Unpin" }).waitFor()
    expect(await faults(page)).toEqual([])
  }, 60_000)

  it("labels a round of pairs with the keyboard alone, and the waiting run continues with the labels", async () => {
    expect((await ended(begin(project, "run", "labelling.ts", "--quiet"))).code).toBe(1)
    await page.getByRole("link", { name: "Label" }).click()
    await page.getByLabel("Your name").fill("anna")
    await page.getByRole("article", { name: "Labels of preferences" }).waitFor()
    expect(await faults(page)).toEqual([])
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.getByRole("heading", { name: "Pair 1 of 3" }).waitFor()
    expect(await page.title()).not.toBe("pwned")
    expect(await faults(page)).toEqual([])
    const keys = ["b", "s", "s", "d", "3", "Enter"]
    for (const key of keys) await page.keyboard.press(key)
    await page.getByRole("heading", { name: "Pair 2 of 3" }).waitFor()

    // Another page of the same annotator is first with the second pair.
    const other = await (await browser.newContext()).newPage()
    await other.goto(`${url}#/?token=${token}`)
    await other.goto(`${url}#/label`)
    await other.getByLabel("Your name").fill("anna")
    await other.getByRole("button", { name: "Continue" }).click()
    await other.getByRole("heading", { name: "Pair 2 of 3" }).waitFor()
    for (const key of ["a", "s", "d", "1", "Enter"]) await other.keyboard.press(key)
    await other.getByRole("heading", { name: "Pair 3 of 3" }).waitFor()
    await other.close()
    for (const key of ["b", "s", "d", "4", "Enter"]) await page.keyboard.press(key)
    await page.getByText("Another page of anna has changed this pair's label in the meantime: A, rating 0").waitFor()
    expect(await page.getByRole("radio", { name: /^A is better/ }).isChecked()).toBe(true)
    await page.keyboard.press("n")
    await page.getByRole("heading", { name: "Pair 3 of 3" }).waitFor()
    for (const key of ["a", "s", "d", "2", "Enter"]) await page.keyboard.press(key)
    await page.getByText("All pairs are labelled").waitFor()

    await page.getByRole("link", { name: "all tasks" }).first().click()
    await page.getByRole("button", { name: "Write the label file" }).click()
    await page.getByText(/^3 labels were written to .*labels\.jsonl\. Next: run again with --set labelled=1\.$/).waitFor()
    const file = join(project.folder, "labels.jsonl")
    expect(existsSync(file)).toBe(true)
    const labels = readFileSync(file, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>)
    expect(labels.map(({ choice, rating, safeA, safeB }) => [choice, rating, safeA, safeB])).toEqual([
      ["B", 2, false, true],
      ["A", 0, true, true],
      ["A", 1, true, true]
    ])
    expect((await ended(begin(project, "run", "labelling.ts", "--set", "labelled=1", "--quiet"))).code).toBe(0)
  }, 90_000)

  it("had no errors and no violations of its content security policy", () => {
    expect(troubles).toEqual([])
  })
})
