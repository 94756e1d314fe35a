/** The tables of the studies' runs: differences paired by seed, and runs that do not belong together. */
import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, describe, expect, it } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "caravan-studies-"))
afterAll(() => rmSync(folder, { recursive: true }))
const script = fileURLToPath(new URL("../../bench/studies.ts", import.meta.url))

/** The document of a run, whose last version has this helpfulness. */
const run = (name: string, helpfulness: number, seeds: { readonly seed: number; readonly judgingSeed: number }): string => {
  const output = (id: string, report: object) => {
    const path = join(folder, `${name}-${id}`)
    mkdirSync(path)
    writeFileSync(join(path, "report.json"), JSON.stringify(report))
    return [id, { path }]
  }
  const nodes = [
    { id: "sft", digest: `weights of seed ${seeds.seed}` },
    { id: "judging", digest: `prompts of seed ${seeds.judgingSeed}` }
  ]
  const of = { helpfulness: { mean: helpfulness }, safety: { mean: 0.5 }, reward: { mean: 0.5 }, violationRate: { mean: 0 } }
  const outputs = Object.fromEntries([output("rlhf-v5", of), output("kl-rlhf-v5", { kl: { mean: 1 } })])
  const file = join(folder, `${name}.json`)
  writeFileSync(file, JSON.stringify({ run: name, pipeline: "ppo-from", status: "succeeded", nodes, outputs }))
  return file
}
const tables = (...args: ReadonlyArray<string>) =>
  promisify(execFile)(process.execPath, [script, "ppo-from", ...args]).then(
    ({ stdout }) => stdout,
    ({ stderr }: { readonly stderr: string }) => stderr
  )

describe("the tables of a study", () => {
  const [one, two] = [run("one", 0.5, { seed: 0, judgingSeed: 300 }), run("two", 0.7, { seed: 1, judgingSeed: 301 })]
  const [oneFrom4, twoFrom4] = [run("one-4", 0.6, { seed: 0, judgingSeed: 300 }), run("two-4", 0.82, { seed: 1, judgingSeed: 301 })]

  it("have differences paired by seed, with Student's interval over seeds", async () => {
    // 0.1 and 0.12: a mean of 0.11, a standard error of 0.01, 12.706 of which are 0.127.
    expect(await tables(one, two, "--", "from4", oneFrom4, twoFrom4)).toContain("| from4 | +0.110 (-0.017 to +0.237) | +0.000")
  })
  it("are refused for arms whose seeds are in another order", async () => {
    expect(await tables(one, two, "--", "from4", twoFrom4, oneFrom4)).toBe(
      "Every arm needs the runs of the same seeds, in the same order.\n"
    )
  })
  it("are refused for two runs of one seed or with the same evaluation prompts, which are not independent", async () => {
    const again = run("again", 0.7, { seed: 0, judgingSeed: 302 })
    expect(await tables(one, two, again)).toContain(`${one} and ${again} have the same run seed: their differences are not independent`)
    const sameQuestions = run("same", 0.7, { seed: 2, judgingSeed: 301 })
    expect(await tables(one, two, sameQuestions)).toContain(`${two} and ${sameQuestions} have the same judgingSeed`)
  })
})
