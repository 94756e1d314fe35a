/** The pipeline for your own data: as a graph, and run completely at the smallest sizes on pairs of the small world in PKU-SafeRLHF's shape. */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { answer, prompts } from "../../data/world/dialogues.ts"
import { publicQuality } from "../../data/world/manners.ts"
import { grade } from "../../data/world/oracle.ts"
import { read } from "../../data/world/tasks.ts"
import { Random } from "../../engine/random.ts"
import rlhf from "../../pipelines/rlhf.ts"
import { buildGraph, type StageNode } from "../../runtime/define/graph.ts"
import { caravan, removeFolder, runJson, workFolder } from "../cli/caravan.ts"

const graphOf = async (settings: Record<string, string>) => {
  const graph = await Effect.runPromise(buildGraph(rlhf, {}, { settings: { preferences: "pairs.jsonl", ...settings }, seed: 0 }))
  const node = (id: string) => graph.nodes.get(id) as StageNode
  /** Everything that a node depends on. */
  const before = (id: string, found = new Set<string>()): Set<string> => {
    for (const input of Object.values(node(id)?.inputs ?? {}).flat())
      if (input !== null && !found.has(input)) before(input, found.add(input))
    return found
  }
  return { graph, node, before }
}
const files = { demonstrations: "dialogues.jsonl", prompts: "prompts.jsonl" }
const trained = ["sft", "helpfulness-reward", "helpfulness-judge", "rejection-sampling", "ppo", "sft-as-many-steps", "random-of-k"]

describe("the pipeline for your own data", () => {
  it("has one reward model without safety labels, and two with them, each with a judge", async () => {
    const kinds = async (safety: string) =>
      [...(await graphOf({ safety })).graph.nodes.values()].flatMap((node) =>
        node.kind === "stage" && node.stage.name.endsWith("-reward-model") ? [node.id] : []
      )
    expect((await kinds("false")).sort()).toEqual(["helpfulness-judge", "helpfulness-reward"])
    expect((await kinds("true")).sort()).toEqual(["helpfulness-judge", "helpfulness-reward", "safety-judge", "safety-reward"])
    const { node } = await graphOf({ safety: "true" })
    expect([node("pairs").config, node("safety-pairs").config]).toMatchObject([
      { judgement: "helpfulness", labels: "required" },
      { judgement: "safety", labels: "required" }
    ])
  })
  it("trains on nothing held out: every model depends only on cleaned data", async () => {
    for (const settings of [{ safety: "true" }, { safety: "true", ...files }, files]) {
      const { before, node } = await graphOf(settings)
      const questions = ["held-out-questions", ...("safety" in settings ? ["safety-held-out-questions"] : [])]
      const cleaned = ["training-pairs", ...("safety" in settings ? ["safety-training-pairs"] : [])]
      if ("prompts" in settings) cleaned.push("demonstrations", "clean-prompts")
      for (const id of cleaned) expect(node(id)).toMatchObject({ inputs: { evaluation: questions }, config: { sharedWords: 0 } })
      for (const id of trained) {
        // Held-out data reaches a model only through the cleaning stages.
        const direct = [...before(id, new Set(cleaned))]
        expect([id, direct.filter((name) => /pairs-test|questions|evaluation/.test(name))]).toEqual([id, []])
        expect(before(id).has("evaluation-prompts")).toBe(false)
      }
    }
  })
  it("judges every version with reward models that were not used to select or tune anything", async () => {
    const { before, node } = await graphOf({ safety: "true" })
    for (const id of ["rejection-sampling", "ppo"]) {
      expect([...before(id)].filter((name) => name.includes("judge"))).toEqual([])
      expect(node(`judged-${id}`).inputs).toMatchObject({ helpfulness: "helpfulness-judge", safety: "safety-judge" })
    }
    expect(node("helpfulness-reward").inputs.pairs).toBe("reward-pairs")
    expect(node("helpfulness-judge").inputs.pairs).toBe("judge-pairs")
    expect([node("reward-pairs"), node("judge-pairs")].map(({ config, inputs }) => [inputs.rows, config.part])).toEqual([
      ["training-pairs", "train"],
      ["training-pairs", "test"]
    ])
    expect(node("best-of-k").inputs).toEqual({ selector: "best-of-k-scores", evaluator: "best-of-k-judged" })
  })
  it("gives SFT alone as many steps as tuning and PPO together, and the same number to a random answer as to the best", async () => {
    const { node } = await graphOf({ tuneSteps: "7", ppoIterations: "3", ppoBatch: "10" })
    // Ten answers in parts of three are four gradient steps.
    expect(node("ppo").config).toMatchObject({ iterations: 3, batchSize: 10, miniBatchSize: 3 })
    expect(node("sft-as-many-steps")).toMatchObject({ config: { steps: 7 + 3 * 4 }, inputs: { init: "sft" } })
    expect(node("rejection-sampling")).toMatchObject({ config: { steps: 7 }, inputs: { init: "sft", demonstrations: "best" } })
    expect(node("random-of-k")).toMatchObject({ config: { steps: 7 }, inputs: { init: "sft", demonstrations: "random" } })
    // Both are chosen from all scored answers, and from no others.
    expect([node("best").inputs.scored, node("random").inputs.completions]).toEqual([["scores"], ["scored-samples"]])
    expect(node("scored-samples")).toMatchObject({ config: { count: 8, unfinished: "keep" }, inputs: { scored: "scores" } })
  })
  it("uses the paper's learning rates for a given model, ten times as much for adapters, and then reads reward models as adapters", async () => {
    const rates = async (settings: Record<string, string>) => {
      const { node } = await graphOf(settings)
      return [...["sft", "helpfulness-reward", "ppo"].map((id) => node(id).config.learningRate), node("ppo").inputs.base]
    }
    expect(await rates({})).toEqual([5e-4, 3e-4, 5e-5, null])
    expect(await rates({ model: "m" })).toEqual([2e-5, 1e-5, 1e-6, null])
    expect(await rates({ model: "m", loraRank: "16" })).toEqual([2e-4, 1e-4, 1e-5, "sft"])
    expect(await rates({ model: "m", sftLearningRate: "0.5" })).toEqual([0.5, 1e-5, 1e-6, null])
  })
})

/** Pairs of answers to questions of the small world, half of which must be refused, in PKU-SafeRLHF's format: both judgements and the labels from the oracle. */
const pku = (count: number): ReadonlyArray<Record<string, unknown>> => {
  const draw = new Random(5, "pairs with labels")
  const asked = (kind: "plain" | "adversarial") => [...prompts(draw, { count, kind, split: "train", followUps: 0, name: kind })]
  const rows = [...asked("plain"), ...asked("adversarial")].flatMap(({ messages }) => {
    const question = read(messages[0]!.content)!
    const answers = [0, 1].map(() => answer(draw, question, { ...publicQuality, comply: 0.5 }))
    const [a, b] = answers.map((text) => grade(messages, text))
    if (answers[0] === answers[1]) return []
    const row = { prompt: messages[0]!.content, response_0: answers[0], response_1: answers[1] }
    const labels = { is_response_0_safe: !a!.violation, is_response_1_safe: !b!.violation }
    return [{ ...row, ...labels, better_response_id: +(b!.helpfulness > a!.helpfulness), safer_response_id: +(b!.safety > a!.safety) }]
  })
  return draw.shuffle(rows)
}

describe("XSTest in it", () => {
  const xstest = "xstest.csv"
  it("is answered greedily by every version and control, the last version is compared with all, and nothing is trained on it", async () => {
    const { before, node } = await graphOf({ xstest, safety: "true", ...files })
    const names = ["sft", "rejection-sampling", "sft-as-many-steps", "random-of-k", "ppo"]
    expect(node("xstest")).toMatchObject({ config: { names }, inputs: { completions: names.map((name) => `xstest-${name}`) } })
    expect(node("xstest-ppo")).toMatchObject({ config: { k: 1, temperature: 0 }, inputs: { policy: "ppo", prompts: "xstest-prompts" } })
    expect(node("report").inputs.xsTest).toBe("xstest")
    const cleaned = ["training-pairs", "safety-training-pairs", "demonstrations", "clean-prompts"]
    for (const id of cleaned) expect(node(id).inputs.evaluation).toContain("xstest-prompts")
    for (const id of trained) expect([id, [...before(id, new Set(cleaned))].includes("xstest-prompts")]).toEqual([id, false])
    expect((await graphOf({})).node("report").inputs.xsTest).toBeNull()
  })
})

const judge = { url: "http://127.0.0.1:9/v1", judge: "m" }
describe("an LLM judge in it", () => {
  it("labels pairs of the chat model's answers to training prompts, which train the reward models and their judges, split with the others by question", async () => {
    const { before, node } = await graphOf({ annotator: "judge", safety: "true", ...judge })
    expect(node("collected").inputs).toEqual({ first: "sft", second: "sft", prompts: "prompts" })
    for (const [kind, prefix] of [
      ["helpfulness", ""],
      ["safety", "safety-"]
    ]) {
      expect(node(`${kind}-verdicts`)).toMatchObject({
        config: { annotator: "judge", kind, url: judge.url, model: "m" },
        inputs: { pairs: "collected" }
      })
      expect(node(`${prefix}all-pairs`).inputs.datasets).toEqual([`${prefix}training-pairs`, `${kind}-verdicts`])
      for (const part of ["reward", "judge"]) expect(node(`${prefix}${part}-pairs`).inputs.rows).toBe(`${prefix}all-pairs`)
    }
    expect(before("helpfulness-reward").has("evaluation-prompts")).toBe(false)
    expect((await graphOf({})).graph.nodes.has("collected")).toBe(false)
  })
  it("grades every version's two answers to MT-Bench and compares the last one with SFT; nothing is trained on the questions", async () => {
    const { before, node } = await graphOf({ mtBench: "question.jsonl", ...judge })
    const names = ["sft", "rejection-sampling", "sft-as-many-steps", "random-of-k", "ppo"]
    expect(node("mt-bench")).toMatchObject({
      config: { names, over: "sft" },
      inputs: { grades: names.map((name) => `mt-bench-grades-${name}`), wins: "mt-bench-wins" }
    })
    expect(node("mt-bench-next-ppo").inputs).toEqual({ prompts: "mt-bench-prompts", completions: "mt-bench-ppo" })
    expect(node("mt-bench-second-ppo")).toMatchObject({
      inputs: { policy: "ppo", prompts: "mt-bench-next-ppo" },
      config: { temperature: 0 }
    })
    expect(node("mt-bench-wins").inputs).toMatchObject({
      first: "mt-bench-ppo",
      second: "mt-bench-second-ppo",
      opponentFirst: "mt-bench-sft"
    })
    expect(node("training-pairs").inputs.evaluation).toContain("mt-bench-prompts")
    for (const id of trained) expect([id, [...before(id, new Set(["training-pairs"]))].includes("mt-bench-prompts")]).toEqual([id, false])
  })
  it.each([
    [{ annotator: "judge" }, /expected both, since annotator=judge uses a judge, found url "" and judge ""/],
    [
      { mtBench: "question.jsonl", url: judge.url },
      /expected both, since mtBench uses a judge, found url "http:\/\/127\.0\.0\.1:9\/v1" and judge ""/
    ]
  ])("without its address and name is rejected: %j", async (settings, message) => {
    await expect(graphOf(settings)).rejects.toThrow(message)
  })
})

describe("an invalid model", () => {
  it.each(["plan", "run"])("is reported by caravan %s before its terabyte is read", { timeout: 60_000 }, (command) => {
    const folder = workFolder()
    try {
      mkdirSync(join(folder, "videos"))
      writeFileSync(join(folder, "videos/film.bin"), "")
      // Without a block on the disk; reading it would take a quarter of an hour.
      truncateSync(join(folder, "videos/film.bin"), 2 ** 40)
      writeFileSync(join(folder, "pairs.jsonl"), "")
      const pipeline = new URL("../../pipelines/rlhf.ts", import.meta.url).pathname
      const { status, stderr, stdout } = caravan(folder, command, pipeline, "--set", "preferences=pairs.jsonl", "--set", "model=videos")
      expect([status === 0, stderr + stdout]).toEqual([
        false,
        expect.stringMatching(
          /Node "base" \(stage import-policy\): Reading the checkpoint .*videos: expected a folder with config\.json, found none\. Pass/
        )
      ])
    } finally {
      removeFolder(folder)
    }
  })
})

describe("a run of it on PKU-SafeRLHF's shape", () => {
  const folder = workFolder()
  const server = spawn(process.execPath, [new URL("judge.ts", import.meta.url).pathname], { stdio: ["pipe", "pipe", "inherit"] })
  const judgeAddress = once(server.stdout, "data").then(([address]) => String(address).trim())
  afterAll(() => {
    server.stdin.end()
    removeFolder(folder)
  })
  const write = (name: string, rows: ReadonlyArray<unknown>) =>
    writeFileSync(join(folder, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""))
  const sizes = {
    ...{ dim: 16, layers: 1, heads: 2, vocabSize: 400, contextLength: 128, pretrainSteps: 4, promptCount: 12, k: 2, maxNewTokens: 6 },
    ...{ tuneSteps: 1, ppoIterations: 1, ppoBatch: 4, evaluationPrompts: 6 }
  }
  const small = Object.entries(sizes).flatMap(([name, value]) => ["--set", `${name}=${value}`])
  const pipeline = new URL("../../pipelines/rlhf.ts", import.meta.url).pathname
  beforeAll(() => {
    const rows = pku(80)
    write("pairs.jsonl", rows)
    write(
      "unlabelled.jsonl",
      rows.map((row) => ({ ...row, is_response_0_safe: undefined, is_response_1_safe: undefined }))
    )
  })

  it("ends with a report on both reward models and all versions, and trains on no held-out question", { timeout: 600_000 }, async () => {
    // In XSTest's published format, written by us.
    const kinds = ["safe,homonyms", "unsafe,contrast_homonyms"].map((kind) => kind.split(","))
    const lines = kinds.flatMap(([label, type], i) =>
      [0, 1].map((n) => `${2 * i + n + 1},"How do I kill ${type}, ${n}?",${type},${label},kill,none`)
    )
    writeFileSync(join(folder, "xstest.csv"), ["id,prompt,type,label,focus,note", ...lines, ""].join("\n"))
    const turns = ["Write about a hill.", "Now in rhyme."]
    write("question.jsonl", [
      { question_id: 81, category: "writing", turns },
      { question_id: 111, category: "math", turns, reference: ["A", "B"] }
    ])
    const given = {
      ...{ preferences: "pairs.jsonl", safety: true, xstest: "xstest.csv", mtBench: "question.jsonl" },
      ...{ annotator: "judge", url: await judgeAddress, judge: "by length" }
    }
    const ran = runJson(folder, pipeline, ...Object.entries(given).flatMap(([name, value]) => ["--set", `${name}=${value}`]), ...small)
    expect(ran.status).toBe("succeeded")
    const report = ran.outputs.report!.path
    const summary = JSON.parse(readFileSync(join(report, "report.json"), "utf8")) as Record<string, any>
    const content = summary.content ?? summary
    expect(content.versions.map(({ name }: { name: string }) => name)).toEqual(["sft", "rejection-sampling", "ppo"])
    expect(content.gain.map(({ over }: { over: string }) => over)).toEqual([
      "sft",
      "rejection-sampling",
      "sft-as-many-steps",
      "random-of-k"
    ])
    expect(content.rewardModels.safety.pairs).toBeGreaterThan(5)
    expect(content.safetyRecall.unsafe).toBeGreaterThan(0)
    expect(content.xsTest.prompts).toEqual({ safe: 2, unsafe: 2 })
    expect(content.xsTest.versions).toHaveLength(5)
    expect(content.mtBench.versions.map(({ questions }: { questions: number }) => questions)).toEqual([2, 2, 2, 2, 2])
    expect(content.mtBench.wins).toMatchObject({ over: "sft", judge: "by length" })
    expect(content.conclusions.length).toBeGreaterThan(10)
    const page = readFileSync(join(report, "report.html"), "utf8")
    for (const part of [
      "Each version according to the judges",
      "PPO by iteration",
      "The gain from choosing the best of N",
      "random-of-k",
      "XSTest by type of prompt",
      "What holds, and what does not"
    ])
      expect(page).toContain(part)

    const questions = (name: string) => {
      const { status, stdout } = caravan(folder, "rows", name, "--json")
      expect([name, status]).toEqual([name, 0])
      const rows = stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Record<string, any>)
      return rows.map((row) => (row.prompt ?? row.messages)[0].content as string)
    }
    const heldOut = new Set([...questions("held-out-questions"), ...questions("safety-held-out-questions")])
    expect(heldOut.size).toBeGreaterThan(10)
    for (const name of [
      "reward-pairs",
      "judge-pairs",
      "safety-reward-pairs",
      "safety-judge-pairs",
      "demonstrations",
      "prompts",
      "stopping-prompts"
    ])
      expect([name, questions(name).filter((question) => heldOut.has(question))]).toEqual([name, []])
    const judging = new Set(questions("judge-pairs"))
    expect(questions("reward-pairs").filter((question) => judging.has(question))).toEqual([])
  })
  it("with safety=true and pairs without labels fails before anything is trained, and says what to do", { timeout: 120_000 }, () => {
    const { status, stderr } = caravan(folder, "run", pipeline, "--set", "preferences=unlabelled.jsonl", "--set", "safety=true", ...small)
    expect(status).toBe(1)
    expect(stderr).toMatch(
      /Importing the pairs of .*unlabelled\.jsonl: expected safety labels.*found \d+ pairs without any safety label.*--set safety=false/s
    )
  })
})
