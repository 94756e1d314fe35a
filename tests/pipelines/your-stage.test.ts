/** The files of docs/how-to/your-stage.md as written there: they compile; both pipelines, the program and the test run. */
import { spawnSync } from "node:child_process"
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { writeCheckpoint } from "../../models/checkpoint.ts"
import { llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"
import { removeFolder, runJson, workFolder } from "../cli/caravan.ts"

const root = fileURLToPath(new URL("../../", import.meta.url))
const page = readFileSync(join(root, "docs/how-to/your-stage.md"), "utf8")
const folder = workFolder()
afterAll(() => removeFolder(folder))

/** The files that the page tells the reader to save, by name. */
const files = new Map([...page.matchAll(/`([\w.-]+\.ts)`[^`]*?:\n\n```ts\n(.*?)^```$/gms)].map(([, name, text]) => [name!, text!]))
const entries = { '"caravan"': "index.ts", '"caravan/engine"': "exports/engine.ts", '"caravan/models"': "exports/models.ts" }
const inThisCheckout = (text: string): string =>
  Object.entries(entries).reduce((all, [entry, file]) => all.replaceAll(entry, JSON.stringify(join(root, file))), text)

const pairs = [
  ["Name a colour.", "Red.", "Blue."],
  ["Name an animal.", "A horse, which is a large animal with four legs that people ride.", "A cow."],
  ["Name a city.", "Oslo.", "There are a great many cities in the world."]
]

beforeAll(async () => {
  for (const [name, text] of files) writeFileSync(join(folder, name), inThisCheckout(text))
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: join(root, "tsconfig.json"), include: ["*.ts"], exclude: [] }))
  writeFileSync(
    join(folder, "pairs.jsonl"),
    pairs.map(([prompt, chosen, rejected]) => `${JSON.stringify({ prompt, chosen, rejected })}\n`).join("")
  )
  writeFileSync(join(folder, "texts.txt"), "Rivers carry salts to the sea.\nMost lakes have an outlet.\n")
  const tokenizer = trainTokenizer(["Rivers carry salts to the sea, and most lakes have an outlet."], { vocabSize: 290 })
  const sizes = { vocabSize: 290, dim: 16, layers: 1, heads: 2, kvHeads: 2, ffn: 24, maxPositions: 64 }
  mkdirSync(join(folder, "model"))
  await writeCheckpoint(join(folder, "model"), { model: initLlama(llamaConfig(sizes), { seed: 1 }), tokenizer, role: "policy" })
})

interface Output {
  readonly path: string
}
const run = (...args: Array<string>) => {
  const result = runJson(folder, ...args) as { readonly status: string; readonly outputs: Readonly<Record<string, Output>> }
  const reportOf = (name: string): unknown => JSON.parse(readFileSync(join(result.outputs[name]!.path, "report.json"), "utf8"))
  return { ...result, reportOf }
}

describe("the files in docs/how-to/your-stage.md", () => {
  it("are seven and compile", { timeout: 120_000 }, () => {
    expect([...files.keys()]).toEqual([
      "drop-long-wins.ts",
      "length-bias.ts",
      "pipeline.ts",
      "compare.ts",
      "text-loss.ts",
      "losses.ts",
      "drop-long-wins.test.ts"
    ])
    const { stdout } = spawnSync(join(root, "node_modules/.bin/tsc"), ["--noEmit", "-p", folder], { encoding: "utf8" })
    expect(stdout).toBe("")
  })

  it("filter pairs and measure them before and after", { timeout: 60_000 }, () => {
    const { reportOf, status } = run(join(folder, "pipeline.ts"), "--set", `data=${join(folder, "pairs.jsonl")}`)
    expect(status).toBe("succeeded")
    // Longer, longer, shorter: the second is dropped. "Red." is shorter than "Blue.".
    expect(reportOf("before")).toEqual({ pairs: 3, longerChosen: 1 / 3 })
    expect(reportOf("after")).toEqual({ pairs: 2, longerChosen: 0 })
  })

  it("run a pipeline from a program", { timeout: 60_000 }, () => {
    const env = { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" }
    const { stderr, stdout } = spawnSync(process.execPath, ["compare.ts"], { cwd: folder, env, encoding: "utf8" })
    expect([stdout, stderr]).toEqual([
      "2 { pairs: 2, longerChosen: 0 }\n1.2 { pairs: 2, longerChosen: 0 }\n",
      expect.stringContaining("drop-long-wins: ")
    ])
  })

  it("measure a model's loss on texts: close to that of a uniform distribution for untrained weights", { timeout: 60_000 }, () => {
    const { reportOf, status } = run(
      join(folder, "losses.ts"),
      ...["--set", `model=${join(folder, "model")}`, "--set", `texts=${join(folder, "texts.txt")}`]
    )
    expect(status).toBe("succeeded")
    const loss = reportOf("loss") as { readonly nats: number; readonly tokens: number }
    expect(loss.tokens).toBeGreaterThan(10)
    expect(Math.abs(loss.nats - Math.log(290))).toBeLessThan(0.1)
  })

  it("test the filter, and the test fails for a stage with another bound", { timeout: 120_000 }, () => {
    const stage = join(folder, "drop-long-wins.ts")
    const test = () => {
      // Without its own runner's variables, Node's runner reports to this process.
      const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(NODE_|VITEST)/.test(name)))
      return spawnSync(process.execPath, ["--test", join(folder, "drop-long-wins.test.ts")], { cwd: folder, env, encoding: "utf8" })
    }
    expect(test()).toMatchObject({ status: 0, stdout: expect.stringMatching(/pass 1\b/) })
    const text = readFileSync(stage, "utf8")
    writeFileSync(stage, text.replace("chosen.length <= config.ratio", "chosen.length < config.ratio"))
    const { status, stdout } = test()
    writeFileSync(stage, text)
    expect([status, stdout]).toEqual([1, expect.stringMatching(/fail 1\b/)])
  })
})
