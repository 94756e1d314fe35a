/** docs/quickstart.md, command by command, in its order: the demo at small sizes at which most answers end, on any processor, read, changed and run again. */
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { command, removeFolder, workFolder } from "./cli/caravan.ts"
import { calls, commandLines, read, root } from "./doc-commands.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))

const small = Object.entries({
  ...{ dim: 32, layers: 1, heads: 2, texts: 2000, pretrainSteps: 400, sftSteps: 100, steps: 40, maxNewTokens: 40 },
  ...{ pairs: 100, testPairs: 150, prompts: 40, k: 2, ppoIterations: 1, ppoBatch: 8, heldOut: 20, dialogues: 12 }
}).flatMap(([name, value]) => ["--set", `${name}=${value}`])

/** The words after "caravan" of one of the page's commands; undefined of what is not run here: setting up, and the live page (tests/cli/ui). */
const wordsOf = ([program, ...words]: ReadonlyArray<string>): ReadonlyArray<string> | undefined => {
  if (program === "npm" && words[0] === "run" && words[1] === "demo") return ["run", "pipelines/demo.ts", ...words.slice(3)]
  return program === "npx" && words[0] === "caravan" && words[1] !== "ui" && words[1] !== "doctor" ? words.slice(1) : undefined
}
const run = (words: ReadonlyArray<string>, ...more: ReadonlyArray<string>) => {
  const sizes = words.includes("pipelines/demo.ts") ? small : []
  const args = words.map((word) => (word === "pipelines/demo.ts" ? join(root, word) : word))
  const { status, stderr, stdout } = spawnSync(process.execPath, [command, ...args, ...sizes, ...more], {
    cwd: folder,
    env: { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" },
    encoding: "utf8",
    input: "/quit\n"
  })
  expect([words.join(" "), status, status === 0 ? "" : stderr]).toEqual([words.join(" "), 0, ""])
  return stdout
}
/** Ids of the nodes that a run made. */
const made = (document: string): ReadonlyArray<string> =>
  (JSON.parse(document) as { readonly nodes: ReadonlyArray<{ readonly id: string; readonly status: string }> }).nodes
    .filter(({ status }) => status === "ran")
    .map(({ id }) => id)

it("the commands of the quickstart do what it says", { timeout: 300_000 }, () => {
  const commands = calls(commandLines(read("docs/quickstart.md"))).flatMap((call) => {
    const words = wordsOf(call)
    return words === undefined ? [] : [words]
  })
  expect(commands.map(([name]) => name)).toEqual(["run", "report", "show", "curves", "sample", "plan", "run", "diff"])
  const [demo, report, show, curves, sample, plan, changed, diff] = commands

  expect(made(run(demo!, "--json"))).toEqual(expect.arrayContaining(["base", "sft", "rlhf-v1", "rlhf-v4", "rlhf-v5"]))
  const page = /\S*report-demo-\w+\/report\.html/.exec(run(report!))?.[0]
  expect(page !== undefined && existsSync(join(folder, page.replace(/^file:\/\//, "").replace(`${folder}/`, "")))).toBe(true)
  expect(run(show!)).toContain("rlhf-v5")
  expect(run(curves!)).toContain("reward")
  run(sample!)

  const planned = run(plan!)
  expect(planned).toMatch(/^run +rlhf-v5 /m)
  expect(planned).toMatch(/^hit +rlhf-v4 /m)
  expect(planned.match(/^run +\S+/gm)).toEqual([expect.stringMatching(/rlhf-v5$/)])
  const again = made(run(changed!, "--json"))
  expect(again).toContain("rlhf-v5")
  expect(again.filter((id) => /^(base|sft|rlhf-v[1-4])$/.test(id))).toEqual([])
  expect(run(diff!)).toContain("beta")
  expect(made(run(changed!, "--json"))).toEqual([])
  expect(made(run(demo!, "--json"))).toEqual([])
})
