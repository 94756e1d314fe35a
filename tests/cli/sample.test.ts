/** `caravan sample`: prompts from a file, a dialogue from a pipe, scores, and rejected inputs. */
import { spawn, spawnSync } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { noGrad } from "../../engine/tensor.ts"
import { writeAdapter } from "../../models/adapter-files.ts"
import { writeCheckpoint } from "../../models/checkpoint.ts"
import { initLlama } from "../../models/llama.ts"
import { initLora } from "../../models/lora.ts"
import { initRewardModel } from "../../models/reward-model.ts"
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
const settings = { rank: 2, alpha: 2, rankStabilised: false, targets: ["v_proj", "up_proj"] } as const
const short = ["--max-new-tokens", "6"]

describe("a file of prompts", () => {
  it("is answered row by row, reproducibly, with scores in (0, 1) if a reward model is given", () => {
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
  it("is answered by a checkpoint with an adapter like by the two merged", async () => {
    const file = prompts("ab\nba\n")
    const lora = initLora(smallConfig({ vocabSize: tokenizer.vocabSize }), settings, { seed: 1 })
    noGrad(() => Object.values(lora.parameters).forEach((weight) => weight.normal_(0, 0.5)))
    const merged = join(folder, "merged")
    const adapter = join(merged, "adapter")
    mkdirSync(adapter, { recursive: true })
    await writeAdapter(adapter, model(1).withAdapter(lora))
    await writeCheckpoint(merged, { model: model(1).withAdapter(lora).merge(), tokenizer, role: "policy" })
    const answers = (...args: ReadonlyArray<string>) => sample([...args, "--prompts", file, ...short, "--temperature", "0"])
    const [plain, adapted, whole] = [answers(policy), answers(policy, "--adapter", adapter), answers(merged)]
    expect([adapted.status, adapted.stderr]).toEqual([0, ""])
    expect(adapted.stdout).toBe(whole.stdout)
    // A checkpoint trained with LoRA is accepted as its adapter.
    expect(answers(policy, "--adapter", merged)).toEqual(adapted)
    expect(adapted.stdout).not.toBe(plain.stdout)
  })
  it.each([
    ["a row that is not JSON", '{"prompt": ', /line 1: it starts like JSON but is not valid JSON/],
    ["a row without a prompt", '{"text": "a"}', /line 1: the object has neither prompt nor messages/],
    [
      "a dialogue that ends with an answer",
      '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
      /does not end with a user message/
    ],
    ["tags of the chat format", "a [INST] b", /contains the tag \[INST\] of Llama 2's chat format/],
    ["a prompt longer than the context", "ab ".repeat(200), /tokens; with 6 new tokens that exceeds the model's context of 160/]
  ])("with %s is rejected before anything is answered", (_, text, message) => {
    const { status, stdout, stderr } = sample([policy, "--prompts", prompts(`ab\n${text}\n`.replace(/^ab\n(?=\{)/, "")), ...short])
    expect(stderr).toMatch(message)
    expect([status, stdout]).toEqual([2, ""])
  })
})

it("a file without a prompt is rejected", () => {
  const { status, stdout, stderr } = sample([policy, "--prompts", prompts("\n \n"), ...short])
  expect([status, stdout, stderr]).toEqual([2, "", expect.stringMatching(/^Reading the prompts .*prompts\.txt: the file has no prompts\./)])
})

it("a model without a recorded role, such as Hugging Face's, is used as given", async () => {
  const path = join(folder, "foreign")
  mkdirSync(path)
  await writeCheckpoint(path, { model: model(1), tokenizer, role: "policy" })
  rmSync(join(path, "caravan.json"))
  const { status, stdout } = sample([path, "--prompts", prompts("ab\n"), ...short])
  expect([status, stdout.startsWith("> ab\n")]).toEqual([0, true])
})

describe("a dialogue", () => {
  it("answers line by line and continues after invalid input", () => {
    const { status, stderr, stdout } = sample(
      [policy, ...short, "--helpfulness", reward],
      "ab\n/nonsense\n[INST]\n/system be\n/reset\nba\n/quit\nnever\n"
    )
    expect(status).toBe(0)
    expect(stderr).toMatch(/^Chat with .*policy: a Llama model with .* parameters[\s\S]*\/reset starts over/)
    expect(stdout).toContain("Unknown command /nonsense. Use /reset, /system <text> or /quit.")
    expect(stdout).toContain("The chat format can't represent that")
    expect(stdout.match(/\(helpfulness /g)!.length).toBeGreaterThan(0)
  })

  // Greedy and untrained, it repeats the same letters until the context is full: a second or two.
  it("continues after Ctrl-C, which stops the answer; at the prompt Ctrl-C exits", { timeout: 30_000 }, async () => {
    const path = join(folder, "endless")
    mkdirSync(path)
    const config = smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions: 20_000 })
    await writeCheckpoint(path, { model: initLlama(config, { seed: 1 }), tokenizer, role: "policy" })
    const child = spawn(process.execPath, [command, "sample", path, "--temperature", "0", "--max-new-tokens", "19000"], {
      ...{ cwd: folder, stdio: ["pipe", "pipe", "inherit"] },
      env: { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" }
    })
    let heard = ""
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve))
    const until = (holds: () => boolean) =>
      new Promise<void>((resolve, reject) => {
        const look = () => {
          if (holds()) resolve()
        }
        child.stdout.on("data", look)
        void ended.then((code) => reject(new Error(`ended with ${code} after ${heard.length} letters`)))
        look()
      })
    child.stdout.setEncoding("utf8").on("data", (text: string) => (heard += text))
    child.stdin.write("ab\n")
    await until(() => heard.length > 20)
    child.kill("SIGINT")
    await until(() => heard.includes(" …\n"))
    const cut = heard.length
    // The partial answer stays in the dialogue, and the next question is answered.
    child.stdin.write("ba\n")
    await until(() => heard.length > cut + 20)
    child.kill("SIGINT")
    await until(() => heard.split(" …\n").length === 3)
    child.kill("SIGINT")
    expect(await ended).toBe(0)
    expect(heard.length).toBeLessThan(19_000)
  })
})

describe("a request that can't be sampled", () => {
  it.each([
    [["nowhere"], /no run, node, output or digest has that name|there is no store at/],
    [["policy", "--temperature=-1"], /--temperature must be a number from 0, got "-1"/],
    [["policy", "--top-p", "2"], /--top-p must be a number from 0 to 1/],
    [["policy", "--json"], /--json needs --prompts/],
    [
      ["reward"],
      /Reading the policy, reward: expected a checkpoint for policy, found a checkpoint for "helpfulness-reward"\. Pass it with --helpfulness\./
    ],
    [
      ["policy", "--safety", "reward"],
      /Reading the reward model of --safety, reward: expected a checkpoint for safety-reward, found a checkpoint for "helpfulness-reward"\. Pass it with --helpfulness\./
    ],
    [
      ["policy", "--helpfulness", "policy"],
      /expected a checkpoint for helpfulness-reward, found a checkpoint for "policy"\. Pass it as the checkpoint/
    ],
    [["policy", "--prompts", "none.txt"], /Reading the prompts none\.txt: no such file/],
    [["policy", "--temprature", "1"], /no flag --temprature\. Did you mean/]
  ])("%j says what to do", (args, message) => {
    const { status, stderr } = sample(args)
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/\n\s+at /)
    expect(status).toBe(2)
  })
})
