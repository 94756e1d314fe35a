/** The tables of the studies' runs: differences paired by seed, and runs that do not belong together. */
import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, describe, expect, it } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "caravan-studies-"))
afterAll(() => rmSync(folder, { recursive: true }))
const script = fileURLToPath(new URL("../../bench/studies.ts", import.meta.url))

/** Writes the reports of a run's outputs. */
const outputsOf = (name: string, reports: Readonly<Record<string, object>>) =>
  Object.fromEntries(
    Object.entries(reports).map(([id, report]) => {
      const path = join(folder, `${name}-${id}`)
      mkdirSync(path)
      writeFileSync(join(path, "report.json"), JSON.stringify(report))
      return [id, { path }]
    })
  )
const evaluation = (helpfulness: number) => ({
  helpfulness: { mean: helpfulness },
  safety: { mean: 0.5 },
  reward: { mean: 0.5 },
  violationRate: { mean: 0 }
})

/** The document of a run, whose last version has this helpfulness. */
const run = (name: string, helpfulness: number, seeds: { readonly seed: number; readonly judgingSeed: number }): string => {
  const nodes = [
    { id: "sft", digest: `weights of seed ${seeds.seed}` },
    { id: "judging", digest: `prompts of seed ${seeds.judgingSeed}` },
    { id: "rlhf-v5", stage: "ppo", metrics: { iterations: 60, kept: seeds.seed === 0 ? 55 : 60 } }
  ]
  const outputs = outputsOf(name, {
    ...{ "rlhf-v5-rs": evaluation(helpfulness - 0.1 - seeds.seed / 50), "kl-rlhf-v5-rs": { kl: { mean: 0.5 } } },
    ...{ "rlhf-v5": evaluation(helpfulness), "kl-rlhf-v5": { kl: { mean: 1 } } }
  })
  const file = join(folder, `${name}.json`)
  writeFileSync(file, JSON.stringify({ run: name, pipeline: "ppo-from", status: "succeeded", nodes, outputs }))
  return file
}
const tablesOf = (study: string, ...args: ReadonlyArray<string>) =>
  promisify(execFile)(process.execPath, [script, study, ...args]).then(
    ({ stdout }) => stdout,
    ({ stderr }: { readonly stderr: string }) => stderr
  )

const tables = (...args: ReadonlyArray<string>) => tablesOf("ppo-from", ...args)

describe("the tables of a study", () => {
  const [one, two] = [run("one", 0.5, { seed: 0, judgingSeed: 300 }), run("two", 0.7, { seed: 1, judgingSeed: 301 })]
  const [oneFrom4, twoFrom4] = [run("one-4", 0.6, { seed: 0, judgingSeed: 300 }), run("two-4", 0.82, { seed: 1, judgingSeed: 301 })]

  it("have differences paired by seed, with Student's interval over seeds", async () => {
    // 0.1 and 0.12: a mean of 0.11, a standard error of 0.01, 12.706 of which are 0.127.
    expect(await tables(one, two, "--", "from4", oneFrom4, twoFrom4)).toContain("| from4 | +0.110 (-0.017 to +0.237) | +0.000")
  })
  it("have the gain of PPO over the version before it, paired by seed", async () => {
    expect(await tables(one, two)).toContain("| after the last round | +0.110 (-0.017 to +0.237) | +0.000 (+0.000 to +0.000) |")
  })
  it("have the PPO iterations, and how many led to the policies that were kept", async () => {
    expect(await tables(one, two)).toContain("| 1.000 ± 0.000 | 60.0 (57.5) |")
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

describe("the tables from SFT", () => {
  const arms = { sft: 0.5, "recipe-0.1-v1": 0.8, "dpo-0.1-v1": 0.7, "rloo-0.1-v1": 0.6, "fixed-2": 0.4 }
  /** One round, in which DPO and the recipe collect the same pairs. `earlier`: the pairs were in the store before the run. */
  const run = (seed: number, { earlier = false, more = [] as ReadonlyArray<object> } = {}): string => {
    const name = `sft-${seed}-${earlier}-${more.length}`
    const outputs = outputsOf(
      name,
      Object.fromEntries(
        Object.entries(arms).flatMap(([arm, helpfulness]) => [
          [arm, evaluation(helpfulness + seed / 100)],
          [`kl-${arm}`, { kl: { mean: 1 } }],
          [`tuning-${arm}`, evaluation(0.5)]
        ])
      )
    )
    const pairs = (id: string, status: string, count: number) => ({
      ...{ id, stage: "collect-pairs", status, milliseconds: status === "hit" ? 0 : 2000 },
      ...{ key: `${seed} ${id.replace("dpo-0.1-", "")}`, metrics: { pairs: count } }
    })
    const trained = (id: string, milliseconds: number) => ({
      id,
      stage: "any",
      status: "ran",
      milliseconds,
      key: `${seed} ${id}`,
      metrics: {}
    })
    const nodes = [
      { ...trained("sft", 50_000), digest: name },
      { ...trained("judging", 1000), digest: name },
      pairs("pairs-helpfulness-1", earlier ? "hit" : "ran", 100 + seed),
      pairs("pairs-test-helpfulness-1", "ran", 40),
      pairs("dpo-0.1-pairs-helpfulness-1", "hit", 100 + seed),
      trained("recipe-0.1-v1", 30_000),
      trained("dpo-0.1-v1", 3000),
      trained("judged-answers-dpo-0.1-v1", 7000),
      ...more
    ]
    const file = join(folder, `${name}.json`)
    writeFileSync(file, JSON.stringify({ run: name, pipeline: "from-sft", status: "succeeded", nodes, outputs }))
    return file
  }

  it("count labels and GPU seconds of each arm after SFT; shared results count for each", async () => {
    const text = await tablesOf("from-sft", run(0), run(2))
    expect(text).toMatch(/\| recipe-0\.1-v1 \|.*\| 101 \(\+ 40\) \| 34 \|/)
    expect(text).toMatch(/\| dpo-0\.1-v1 \|.*\| 101 \(\+ 0\) \| 5 \|/)
    expect(text).toContain("| dpo - recipe | -0.100 (-0.100 to -0.100)")
    expect(text).toContain("| fixed-2 - sft | -0.100 (-0.100 to -0.100)")
  })
  it("have no GPU seconds for what ran before, unless that run is given too", async () => {
    const again = [run(3, { earlier: true }), run(5, { earlier: true })]
    expect(await tablesOf("from-sft", ...again, "--", run(3), run(5))).toMatch(/\| dpo-0\.1-v1 \|.*\| 104 \(\+ 0\) \| 5 \|/)
    expect(await tablesOf("from-sft", ...again)).toMatch(/\| dpo-0\.1-v1 \|.*\| 104 \(\+ 0\) \| – \|/)
  })
  it("are refused for runs with nodes that they can't assign to a method", async () => {
    const more = [{ id: "sweep-2", stage: "any", status: "ran", milliseconds: 1, key: "sweep", metrics: {} }]
    expect(await tablesOf("from-sft", run(6, { more }), run(7, { more }))).toContain('has the node "sweep-2", which from-sft does not have')
  })
  it("are refused for documents without metrics", async () => {
    const files = [run(8), run(9)]
    for (const file of files) writeFileSync(file, readFileSync(file, "utf8").replaceAll('"metrics":', '"other":'))
    expect(await tablesOf("from-sft", ...files)).toBe(
      'A document lacks the metric "pairs": make it again by the same command, which finds all results in the store.\n'
    )
  })
})

describe("the figure of a study", () => {
  const filesOf = (name: string, strongest: number) =>
    [0, 1].map((seed) => {
      const outputs = outputsOf(`${name}-${seed}`, {
        ...{ start: evaluation(0.4), "kl-start": { kl: { mean: 0 } } },
        ...{ "ppo-0.1": evaluation(0.5 + seed / 5), "kl-ppo-0.1": { kl: { mean: 0.5 + seed } } },
        ...{
          "dpo-0.1": evaluation(0.7),
          "kl-dpo-0.1": { kl: { mean: 4 } },
          "dpo-0.3": evaluation(0.8),
          "kl-dpo-0.3": { kl: { mean: strongest } }
        }
      })
      const nodes = ["sft", "judging"].map((id) => ({ id, digest: `${id} of ${seed}` }))
      const file = join(folder, `${name}-${seed}.json`)
      writeFileSync(file, JSON.stringify({ run: `${name}-${seed}`, pipeline: "policy-optimisation", status: "succeeded", nodes, outputs }))
      return file
    })
  it("has a point for each arm and measure at its KL, the mean over seeds", async () => {
    const svg = await tablesOf("policy-optimisation-figure", ...filesOf("figure", 2))
    const points = [...svg.matchAll(/KL, nats per response: ([\d.]+); value: ([\d.]+); line: (\w+);/g)].map(
      ([, kl, value, line]) => `${line} ${kl} ${value}`
    )
    // R_c and safety are 0.5 everywhere.
    expect(new Set(points)).toEqual(new Set(["ppo 1 0.6", "ppo 1 0.5", "dpo 4 0.7", "dpo 4 0.5", "dpo 2 0.8", "dpo 2 0.5"]))
  })
  it("is refused for an arm whose KL is not above 0", async () => {
    expect(await tablesOf("policy-optimisation-figure", ...filesOf("unmoved", 0))).toBe(
      'The arm "dpo-0.3" has a mean KL of 0, which has no place on a logarithmic axis.\n'
    )
  })
})
