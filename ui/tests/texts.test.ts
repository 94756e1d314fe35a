/** The page's Texts, in a browser: the answers of versions side by side, those that scoring skipped without a score. */
import type { ChildProcess } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Browser, Page } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { removeFolder, runJson, workFolder } from "../../tests/cli/caravan.ts"
import { faults, hasChromium, launch } from "./browser.ts"
import { beginUi } from "./project.ts"

const source = `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../../data/dataset.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyper } from "../../../schemas/hyper.ts"
import { Completions, ScoredCompletions } from "../../../schemas/rows.ts"

const made = { seeded: false, resources: { inProcess: true } } as const
export const sampled = Stage.make("some-samples", { ...made, inputs: {}, config: Schema.Struct({ which: hyper("first", "of two") }), output: Completions, run: Effect.fn("s")(function* ({ config, output }) {
  return yield* writeDataset(output, ["a", "b"].map((id) => ({
    promptId: id, prompt: [{ role: "user" as const, content: "question " + id }], safety: false, sample: 0, text: id === "b" && config.which === "first" ? "" : config.which + " to " + id,
    tokens: [5, 2], logProbabilities: [-1, -2], finished: true, temperature: 1, policy: "0"
  })))
}) })
export const scores = Stage.make("some-scores", { ...made, inputs: { completions: Completions }, config: Schema.Struct({}), output: ScoredCompletions, run: Effect.fn("sc")(function* ({ inputs, output }) {
  const rows = yield* readRows(inputs.completions, Completions)
  return yield* writeDataset(output, rows.filter(({ text }) => text !== "").map((row) => ({ ...row, reward: 2, helpfulnessScore: 0.5, safetyScore: null })))
}) })
export default Pipeline.make("answers", { params: Schema.Struct({}) }, () =>
  Object.fromEntries(["first", "second"].map((which) => [which, scores({ completions: sampled({}, { which }).named("answers-" + which) }).named("judged-" + which)]))
)
`

describe.skipIf(!hasChromium)("the texts of a run", () => {
  const folder = workFolder()
  let browser: Browser
  let page: Page
  let server: ChildProcess
  beforeAll(async () => {
    writeFileSync(join(folder, "answers.ts"), source)
    const { status, stdout } = runJson(folder, "answers.ts")
    expect(status).toBe("succeeded")
    let url: string
    ;({ child: server, url } = await beginUi({ folder, go: "" }))
    browser = await launch()
    page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
    page.setDefaultTimeout(20_000)
    await page.goto(`${url}#/run/${(JSON.parse(stdout) as { run: string }).run}/texts`)
  }, 180_000)
  afterAll(async () => {
    await browser?.close()
    server?.kill()
    removeFolder(folder)
  })

  it("say that an answer has no score, rather than that there is none", async () => {
    const cells = page.getByRole("article", { name: "Prompt b" }).locator(".answer-cell")
    await cells.first().waitFor()
    expect(await cells.allTextContents()).toEqual([
      expect.stringMatching(/an empty answer.*no score$/),
      expect.stringMatching(/second to b.*reward 2.*helpful 0\.5$/)
    ])
    expect(await page.getByText("no score").count()).toBe(1)
    expect(await faults(page)).toEqual([])
  }, 60_000)
})
