/** `caravan sample`: prompts from a file, a dialogue from a pipe, scores, and what it refuses. */
import { spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { writeCheckpoint } from "../../models/checkpoint.ts"
import { initLlama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { generate } from "../../models/sampler.ts"
import { smallConfig, smallTokenizer } from "../models/small.ts"
import { command, removeFolder, workFolder } from "./caravan.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))
const [policy, reward] = [join(folder, "policy"), join(folder, "reward")]
const tokenizer = smallTokenizer()
const model = (seed: number) => initLlama(smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions: 160 }), { seed })

beforeAll(async () => {
  for (const path of [policy, reward]) mkdirSync(path)
  await writeCheckpoint(policy, { model: model(1), tokenizer, role: "policy" })
  await writeCheckpoint(reward, { model: initRewardModel(model(2), { seed: 1 }), tokenizer, role: "helpfulness-reward" })
})

const sample = (args: ReadonlyArray<string>, input = "") => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, "sample", ...args], {
    ...{ input, cwd: folder, encoding: "utf8" },
    env: { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" }
  })
  return { status, stdout, stderr }
}
const prompts = (text: string): string => {
  const path = join(folder, "prompts.txt")
  writeFileSync(path, text)
  return path
}
const short = ["--max-new-tokens", "6"]

describe("a file of prompts", () => {
  it("is answered row by row, the same again, with scores in (0, 1) where a reward model is given", () => {
    const file = prompts(
      'ab\n\n{"prompt": "ba"}\n{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "ab"}]}\n'
    )
    const run = () => sample([policy, "--prompts", file, ...short, "--helpfulness", reward, "--json", "--system", "be"])
    const { stdout, status } = run()
    expect(status).toBe(0)
    const rows = stdout
      .trim()
      .split("\n")
      .map(
        (line) =>
          JSON.parse(line) as { messages: ReadonlyArray<{ role: string }>; answer: string; helpfulness: number | null; finished: boolean }
      )
    expect(rows.map(({ messages }) => messages.map(({ role }) => role[0]).join(""))).toEqual(["su", "su", "suau"])
    expect(rows.every((row) => typeof row.answer === "string" && typeof row.finished === "boolean")).toBe(true)
    expect(
      rows.every(({ helpfulness, answer }) =>
        answer === "" ? helpfulness === null : helpfulness !== null && helpfulness > 0 && helpfulness < 1
      )
    ).toBe(true)
    expect(run().stdout).toBe(stdout)
  })
  it.each([
    ["a row that is no JSON", '{"prompt": ', /line 1: begins like JSON and is none/],
    ["a row without a prompt", '{"text": "a"}', /line 1: has neither a prompt nor messages/],
    [
      "a dialogue that ends with an answer",
      '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
      /ends with the user's message/
    ],
    ["the format's own tags", "a [INST] b", /no dialogue that Llama 2's chat format holds/],
    ["more than the context", "ab ".repeat(200), /tokens; with 6 to come that is more than the model's context of 160/]
  ])("with %s is refused before anything is answered", (_, text, message) => {
    const { status, stdout, stderr } = sample([policy, "--prompts", prompts(`ab\n${text}\n`.replace(/^ab\n(?=\{)/, "")), ...short])
    expect(stderr).toMatch(message)
    expect([status, stdout]).toEqual([2, ""])
  })
})

describe("a dialogue", () => {
  it("answers line by line and goes on after what it can't take", () => {
    const { status, stdout } = sample(
      [policy, ...short, "--helpfulness", reward],
      "ab\n/nonsense\n[INST]\n/system be\n/reset\nba\n/quit\nnever\n"
    )
    expect(status).toBe(0)
    expect(stdout).toContain("There is no /nonsense: /reset, /system <text> or /quit.")
    expect(stdout).toContain("The chat format can't hold that")
    expect(stdout.match(/\(helpfulness /g)!.length).toBeGreaterThan(0)
  })
})

describe("what can't be sampled", () => {
  it.each([
    [["nowhere"], /no store|no such artifact|nothing has run here/],
    [["policy", "--temperature=-1"], /--temperature takes a number from 0, got "-1"/],
    [["policy", "--top-p", "2"], /--top-p takes a number from 0 to 1/],
    [["policy", "--json"], /--json goes with --prompts/],
    [["policy", "--prompts", "none.txt"], /Reading the prompts none\.txt: no such file/],
    [["policy", "--temprature", "1"], /no flag --temprature\. Did you mean/]
  ])("%j says what to do", (args, message) => {
    const { status, stderr } = sample(args)
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/\n\s+at /)
    expect(status).toBe(2)
  })
})

it("a sampler's listener hears every token, and stops the sequence it wants to", () => {
  const options = { maxNewTokens: 8, temperature: 0, eosId: undefined, padId: tokenizer.padId }
  const heard: Array<Array<number>> = [[], []]
  const whole = generate(
    model(1),
    [
      [1, 5],
      [1, 6, 7]
    ],
    options
  )
  const cut = generate(
    model(1),
    [
      [1, 5],
      [1, 6, 7]
    ],
    {
      ...options,
      onToken: (sequence, token) => heard[sequence]!.push(token) === 3 && sequence === 0
    }
  )
  expect(cut[0]!.tokens).toEqual(whole[0]!.tokens.slice(0, 3))
  expect(cut[1]).toEqual(whole[1])
  expect(heard).toEqual(cut.map(({ tokens }) => tokens))
})
