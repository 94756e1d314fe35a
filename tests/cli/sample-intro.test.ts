/** The introduction of a dialogue. */
import { join } from "node:path"
import { afterAll, beforeAll, expect, it, vi } from "vitest"
import { introduction } from "../../cli/sample-intro.ts"
import { read } from "../../data/world/tasks.ts"
import { presets } from "../../models/config.ts"
import { openHome } from "../runtime/fixture.ts"
import { removeFolder, workFolder } from "./caravan.ts"

const folder = workFolder()
const settings = { maxNewTokens: 40, temperature: 0.6, topP: 0.9 }
beforeAll(() => {
  vi.stubEnv("CARAVAN_HOME", join(folder, "home"))
  const { close, journal } = openHome(join(folder, "home"))
  const parts = { config: {}, seed: null, code: "", inputs: {}, numerics: null } as never
  const common = { key: "", parts, files: {}, status: "ran" as const, milliseconds: 1, error: null }
  for (const [run, pipeline, stages] of [
    ["1".repeat(36), "demo", ["world-texts", "sft"]],
    ["2".repeat(36), "mine", ["import-demonstrations", "tune"]]
  ] as const) {
    journal.startRun(run, pipeline, { outputs: {} })
    stages.forEach((stage, i) =>
      journal.recordExecution({ ...common, run, pipeline, node: stage, stage, digest: `${run.slice(0, 1)}${i}`.padEnd(64, "0") })
    )
  }
  close()
})
afterAll(() => {
  vi.unstubAllEnvs()
  removeFolder(folder)
})

it("names the model, its settings and the possible input, and suggests questions for a model of the small world", async () => {
  const text = await introduction("sft", presets["260k"], settings)
  expect(text).toMatch(/^Chat with sft of demo: a Llama model with 0\.2\d+ million parameters and a context of 512 tokens\.\n/)
  expect(text).toContain("Answers: temperature 0.6, top-p 0.9, at most 40 tokens.\n")
  expect(text).toMatch(/\/reset starts over, \/system <text> .*, \/quit ends\. Ctrl-C stops an answer/)
  const questions = text.split("\n").filter((line) => line.startsWith("  "))
  expect(questions.length).toBeGreaterThan(2)
  // The world's oracle can parse each of them.
  expect(questions.map((line) => read(line.trim())?.text)).toEqual(questions.map((line) => line.trim()))
})

it("suggests no questions to other models", async () => {
  expect(await introduction("tune", presets["7b"], settings)).toMatch(
    /^Chat with tune of mine: a Llama model with 6\.7\d+ billion parameters/
  )
  expect(await introduction("tune", presets["7b"], settings)).not.toContain("Example questions")
  vi.stubEnv("CARAVAN_HOME", join(folder, "none"))
  expect(await introduction("path/to/model", presets["7b"], settings)).toMatch(/^Chat with path\/to\/model: /)
  vi.stubEnv("CARAVAN_HOME", join(folder, "home"))
})
