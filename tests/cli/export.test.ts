/** `caravan export`: it writes what was in the store, which loads again and has a card from the journal, and writes it completely or not at all. */
import { spawn, spawnSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { parquetRows } from "../../data/read/parquet.ts"
import { noGrad } from "../../engine/tensor.ts"
import { saveCheckpoint, writeCheckpoint } from "../../models/checkpoint.ts"
import { initLlama } from "../../models/llama.ts"
import { initLora } from "../../models/lora.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { openAnyRows } from "../../schemas/dataset-file.ts"
import { largestDifference, smallConfig, smallTokenizer } from "../models/small.ts"
import { float32 } from "../tolerances.ts"
import { command, removeFolder, runJson, workFolder } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))
const at = (...names: ReadonlyArray<string>) => join(folder, ...names)

// A stage with a result like that of a stage that trains with LoRA, and a report on it.
const pipeline = `
import { cpSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { fileAt, hyper, importPreferences, Pipeline, Policy, Preferences, report, Stage, writeReport } from "../../../index.ts"
import { External, written } from "../../../schemas/artifact.ts"
export const tune = Stage.make("tune", {
  config: Schema.Struct({ learningRate: hyper(0.125, "a rate") }),
  inputs: { folder: External, pairs: Preferences },
  output: Policy,
  run: ({ config, inputs, output, seed }) =>
    Effect.sync(() => {
      cpSync(inputs.folder.path, output.path, { recursive: true })
      return written(output, { loss: config.learningRate * 3 + 0 * seed + inputs.pairs.path.length * 0 })
    })
})
const Size = report(Schema.Struct({ bytes: Schema.Number }), "size/1")
export const weigh = Stage.make("weigh", {
  config: Schema.Struct({}),
  inputs: { model: Policy },
  output: Size,
  seeded: false,
  run: Effect.fn("weigh")(function* ({ inputs, output }) {
    const bytes = readFileSync(join(inputs.model.path, "model.safetensors")).length
    return yield* writeReport(output, { bytes })
  })
})
export default Pipeline.make("tuning", { params: Schema.Struct({}) }, () => {
  const pairs = importPreferences({ file: fileAt("pairs.jsonl") }, { shape: "prompt-chosen-rejected" })
  const tuned = tune({ folder: fileAt("trained"), pairs })
  return { pairs, tuned, weight: weigh({ model: tuned }) }
})
`
const pairs = Array.from({ length: 5 }, (_, i) => ({ prompt: `ab ${i}?`, chosen: `ba é ${i}`, rejected: "b" }))
const tokenizer = smallTokenizer()
const model = (seed: number) => initLlama(smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions: 64 }), { seed })
let stored: string

beforeAll(async () => {
  for (const name of ["base", "trained", "reward"]) mkdirSync(at(name))
  await writeCheckpoint(at("base"), { model: model(1), tokenizer, role: "policy" })
  await writeCheckpoint(at("reward"), { model: initRewardModel(model(2), { seed: 1 }), tokenizer, role: "helpfulness-reward" })
  const lora = initLora(model(1).config, { rank: 2, alpha: 4, rankStabilised: false, targets: ["q_proj", "down_proj"] }, { seed: 5 })
  noGrad(() => Object.values(lora.parameters).forEach((parameter) => parameter.normal_(0, 0.3)))
  const slot = { path: at("trained"), type: Policy }
  await Effect.runPromise(saveCheckpoint(slot, { model: model(1).withAdapter(lora), tokenizer, base: { path: at("base") } }))
  writeFileSync(at("pairs.jsonl"), pairs.map((row) => `${JSON.stringify(row)}\n`).join(""))
  writeFileSync(at("pipeline.ts"), pipeline)
  writeFileSync(at("ids.json"), JSON.stringify([[1, 5, 7, 260, 9]]))
  const run = runJson(folder, "pipeline.ts")
  if (run.status !== "succeeded") throw new Error(run.stderr)
  stored = run.outputs.tuned!.path
}, 300_000)

const caravan = (...args: ReadonlyArray<string>) => inProcess(folder, ...args)
const exporting = async (name: string, to: string, ...flags: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = await caravan("export", name, "--to", at(to), "--json", ...flags)
  expect([status, stderr]).toEqual([0, ""])
  return JSON.parse(stdout) as {
    readonly kind: string
    readonly folder: string
    readonly rows: number | null
    readonly files: ReadonlyArray<{ readonly name: string; readonly bytes: number }>
    readonly leftOut: ReadonlyArray<string>
  }
}
const logprobs = async (...args: ReadonlyArray<string>): Promise<Array<number>> => {
  const { status, stderr, stdout } = await caravan("logprobs", ...args, "--ids", at("ids.json"), "--json")
  expect([status, stderr]).toEqual([0, ""])
  return (JSON.parse(stdout) as Array<Array<number>>).flat()
}
const read = (...names: ReadonlyArray<string>): string => readFileSync(at(...names), "utf8")
/** Temporary names that an export of this name leaves next to it: none. */
const remains = (to: string) => readdirSync(folder).filter((name) => name.startsWith(`.${to}.`))

describe("a checkpoint", () => {
  it("consists of the artifact's files, byte for byte and writable by their owner, without the store's own files", async () => {
    const { files, kind, leftOut } = await exporting("tuned", "whole")
    expect([kind, leftOut]).toEqual(["model", ["adapter"]])
    const names = readdirSync(stored).filter((name) => !["adapter", "artifact.json"].includes(name))
    expect(files.map(({ name }) => name)).toEqual([...names, "README.md"].sort())
    for (const { bytes, name } of files) {
      expect(statSync(at("whole", name)).size).toBe(bytes)
      expect(statSync(at("whole", name)).mode & 0o200).toBe(0o200)
    }
    for (const name of names) expect([name, readFileSync(at("whole", name)).equals(readFileSync(join(stored, name)))]).toEqual([name, true])
    expect(names).toEqual(
      expect.arrayContaining(["model.safetensors", "config.json", "generation_config.json", "chat_template.jinja", "tokenizer.model"])
    )
    expect(await logprobs(at("whole"))).toEqual(await logprobs("tuned"))
  })

  it("made from a user's model has the template and the stop tokens that Caravan uses, and no unrelated files", async () => {
    cpSync(at("base"), at("own"), { recursive: true })
    for (const name of ["chat_template.jinja", "generation_config.json"]) rmSync(at("own", name))
    writeFileSync(at("own", "optimizer.pt"), "x")
    writeFileSync(at("own", "LICENSE.txt"), "theirs")
    const { leftOut } = await exporting(at("own"), "own-out")
    expect(leftOut).toEqual(["optimizer.pt"])
    expect(read("own-out", "LICENSE.txt")).toBe("theirs")
    for (const name of ["chat_template.jinja", "generation_config.json"]) expect(read("own-out", name)).toBe(read("base", name))
    const card = read("own-out", "README.md")
    expect(card).toContain("How it was made is unknown")
    expect(card).not.toContain("## Recipe")
  })

  it("that is a reward model is described as such in its card, and has no generation config", async () => {
    const { files } = await exporting(at("reward"), "reward-out")
    expect(files.map(({ name }) => name)).not.toContain("generation_config.json")
    expect(read("reward-out", "README.md")).toMatch(/pipeline_tag: "text-classification"[^]*AutoModelForSequenceClassification/)
  })
})

describe("an adapter", () => {
  it("is PEFT's, with its base's name; on the base it gives the same values", async () => {
    const { files, kind } = await exporting("tuned/adapter", "peft", "--base", "owner/name")
    expect([kind, files.map(({ name }) => name)]).toEqual([
      "adapter",
      ["README.md", "adapter_config.json", "adapter_model.safetensors", "base.json"]
    ])
    const config = JSON.parse(read("peft", "adapter_config.json")) as Record<string, unknown>
    expect(config).toEqual({
      ...(JSON.parse(readFileSync(join(stored, "adapter/adapter_config.json"), "utf8")) as object),
      base_model_name_or_path: "owner/name"
    })
    expect(read("peft", "README.md")).toMatch(/library_name: "peft"[^]*base_model: "owner\/name"[^]*rank 2[^]*PeftModel/)
    expect(await logprobs(at("base"), "--adapter", at("peft"))).toEqual(await logprobs(at("base"), "--adapter", "tuned/adapter"))
    const base = await logprobs(at("base"))
    expect(largestDifference(base, await logprobs("tuned"))).toBeGreaterThan(0.01)
  })

  it("merged: the result that contains it, or merged into the given base", async () => {
    const inResult = await exporting("tuned/adapter", "merged", "--merge")
    expect([inResult.kind, readFileSync(at("merged/model.safetensors")).equals(readFileSync(join(stored, "model.safetensors")))]).toEqual([
      "model",
      true
    ])
    await exporting("tuned/adapter", "loose")
    expect((JSON.parse(read("loose/adapter_config.json")) as { base_model_name_or_path: unknown }).base_model_name_or_path).toBeNull()
    const into = await exporting(at("loose"), "merged-into", "--merge", "--base", at("base"))
    expect(into.files.map(({ name }) => name)).toEqual(inResult.files.map(({ name }) => name))
    expect(largestDifference(await logprobs(at("merged-into")), await logprobs("tuned"))).toBeLessThanOrEqual(float32)
  })

  it.each<[string, () => ReadonlyArray<string>, RegExp]>([
    ["merged without a base", () => [at("peft"), "--merge"], /its base is unknown\. Add --base/],
    ["merged into another base", () => [at("peft"), "--merge", "--base", at("own")], /./],
    ["on a base with different weights", () => ["tuned/adapter", "--base", at("whole")], /expected the weights that it was trained on/],
    ["merge of a dataset", () => ["pairs", "--merge"], /--merge is only for adapters, and this is not an adapter/],
    ["a base for a report", () => ["weight", "--base", "x"], /--base is only for adapters and models/]
  ])("rejects: %s", async (what, args, message) => {
    // Another base: the same files with other weights.
    if (what === "merged into another base") await writeCheckpoint(at("own"), { model: model(7), tokenizer, role: "policy" })
    const { status, stderr, stdout } = await caravan("export", ...args(), "--to", at("refused"))
    expect([status, stdout]).toEqual([2, ""])
    expect(stderr).toMatch(what === "merged into another base" ? /expected the weights that it was trained on/ : message)
    expect(stderr).not.toMatch(/\n\s+at /)
    expect([existsSync(at("refused")), remains("refused")]).toEqual([false, []])
  })
})

describe("a dataset", () => {
  it("is Parquet with the same rows", async () => {
    const { files, kind, rows } = await exporting("pairs", "parquet")
    expect([kind, rows, files.map(({ name }) => name)]).toEqual(["dataset", 5, ["README.md", "data.parquet"]])
    const { stdout } = await caravan("rows", "pairs", "--json")
    const wanted = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown)
    const found = []
    for await (const row of parquetRows(at("parquet/data.parquet"))) found.push(JSON.parse(JSON.stringify(row)) as unknown)
    expect(found).toEqual(wanted)
    expect(read("parquet", "README.md")).toMatch(/data_files":"data\.parquet"[^]*A dataset of 5 rows/)
  })

  it("with several batches, or without rows, is read back completely", async () => {
    const { writeParquet } = await import("../../data/write-parquet.ts")
    const { writeRows } = await import("../../schemas/dataset-file.ts")
    const { Prompts } = await import("../../schemas/rows.ts")
    for (const rows of [0, 9000]) {
      const place = at(`rows-${rows}`)
      mkdirSync(place)
      const given = Array.from({ length: rows }, (_, i) => ({
        id: `${i}`,
        messages: [{ role: "user" as const, content: `é${i}` }],
        safety: i % 2 === 0,
        category: i % 3 === 0 ? null : "c",
        followUps: Array.from({ length: i % 3 }, (_, j) => `then ${j}`)
      }))
      await writeRows(place, Prompts, given)
      const opened = await Effect.runPromise(openAnyRows(join(place, "data.arrow")))
      expect(opened.batches).toBeGreaterThan(rows === 0 ? 0 : 1)
      await writeParquet(opened, join(place, "data.parquet"))
      await opened.close()
      const found: Array<unknown> = []
      for await (const row of parquetRows(join(place, "data.parquet"))) found.push(row)
      expect(JSON.parse(JSON.stringify(found))).toEqual(given)
    }
  })
})

describe("the card", () => {
  it("has every stage of the lineage with its settings, the inputs with digests and rows, metrics, seed and versions", async () => {
    const card = read("whole", "README.md")
    const lineage = JSON.parse((await caravan("lineage", "tuned", "--json")).stdout) as {
      readonly made: ReadonlyArray<{
        readonly seed: number
        readonly code: string
        readonly inputs: ReadonlyArray<{ readonly input: { readonly contentDigest: string } }>
      }>
    }
    const made = lineage.made[0]!
    const stages = card
      .slice(card.indexOf("## Recipe"), card.indexOf("Settings:"))
      .split("\n")
      .filter((line) => line.startsWith("| "))
      .slice(2)
    expect(stages.map((row) => row.split(" | ")[0])).toEqual(["| import-preferences", "| tune"])
    expect(stages[1]).toContain(`| folder: trained; pairs: import-preferences | ${made.seed} |`)
    expect(stages[1]).toContain(`| ${made.code.slice(0, 12)} |`)
    expect(card).toContain('"learningRate": 0.125')
    expect(card).toContain('"shape": "prompt-chosen-rejected"')
    for (const { input } of made.inputs) expect(card).toContain(input.contentDigest)
    expect(card).toMatch(/\| pairs\.jsonl \| given \| {2}\| [0-9a-f]{64} \|/)
    expect(card).toMatch(/\| import-preferences \| dataset:preference\/\d+ \| 5 \| [0-9a-f]{64} \|/)
    expect(card).toContain("| tune | loss | 0.375 |")
    expect(card).toContain(`| weigh (a report on this result) | bytes | ${statSync(join(stored, "model.safetensors")).size} |`)
    expect(card).toMatch(/\| Node \| v?\d+\./)
    expect(card).toMatch(/## Limits\n\n- /)
    // The location of the user's files must not appear.
    expect(card).not.toContain(folder)
  })

  it("computes carbon like the paper's table 2, only for stages on a GPU", async () => {
    const { computeOf } = await import("../../cli/export/history.ts")
    const step = (hours: number, numerics: Record<string, string> | null) => ({ milliseconds: hours * 3_600_000, numerics })
    const gpu = { device: "cuda", gpu: "NVIDIA H200", gpuMemory: "139 GiB" }
    const found = computeOf([
      step(2, gpu),
      step(1, { device: "cpu" }),
      step(0.5, null),
      step(1, { ...gpu, gpu: "NVIDIA A100-SXM4-80GB", gpuMemory: "79 GiB" })
    ])
    expect(found).toMatchObject({ gpuHours: 3, otherHours: 1.5 })
    expect(found.energyKwh).toBeCloseTo(2 * 0.7 + 0.4, 10)
    expect(found.carbonKg).toBeCloseTo(1.8 * 0.4235, 10)
  })

  it("escapes a user's texts in Markdown", async () => {
    const { cardOf } = await import("../../cli/export/card.ts")
    const card = cardOf({ kind: "report", leftOut: [], facts: {}, write: () => Promise.resolve() }, undefined, {
      title: "a|b\n# <img>\u202e",
      base: 'x"\n---'
    })
    expect(card).toContain("# a\\|b # \\<img\\>")
    expect(card).not.toContain("\u202e")
    expect(card).toContain('base_model: "x\\"\\n---"')
  })
})

describe("a report", () => {
  it("is unchanged", async () => {
    await exporting("weight", "report")
    const wanted = runJson(folder, "pipeline.ts").outputs.weight!.path
    expect(read("report/report.json")).toBe(readFileSync(join(wanted, "report.json"), "utf8"))
    expect(readdirSync(at("report"))).toEqual(["README.md", "report.json"])
  })
})

describe("the folder", () => {
  const refused = async (to: string, ...flags: ReadonlyArray<string>): Promise<string> => {
    const { status, stderr, stdout } = await caravan("export", "weight", "--to", to, ...flags)
    expect([status, stdout]).toEqual([2, ""])
    expect(stderr).not.toMatch(/\n\s+at /)
    return stderr
  }

  it("may exist if it is empty; otherwise only --force replaces it, completely; links are followed", async () => {
    mkdirSync(at("there/deep"), { recursive: true })
    writeFileSync(at("there/deep/old"), "old")
    symlinkSync(at("there"), at("link"))
    expect(await refused(at("there"))).toMatch(/the folder is not empty\. Choose a new folder, or replace its content with --force/)
    expect(read("there/deep/old")).toBe("old")
    await exporting("weight", "link", "--force")
    expect(readdirSync(at("there"))).toEqual(["README.md", "report.json"])
    mkdirSync(at("empty"))
    await exporting("weight", "empty")
    await exporting("weight", "new/below")
    expect(["there", "link", "empty"].flatMap(remains)).toEqual([])
  })

  it("must not be a file, the store, the source, or anything that contains them or this command", async () => {
    expect(await refused(at("pairs.jsonl"), "--force")).toContain("it is a file")
    const below = await caravan("export", "weight", "--to", at("pairs.jsonl/x"))
    expect([below.status, below.stderr]).toEqual([
      1,
      expect.stringMatching(/^Exporting to .*pairs\.jsonl\/x: .*\. Choose another folder\. What was written was/)
    ])
    expect(await refused(at("home/objects/x"))).toContain("which must not change")
    expect(await refused(folder, "--force")).toMatch(/it contains .*, which would be deleted/)
    expect(await refused(process.cwd(), "--force")).toMatch(/it contains .*, which would be deleted/)
    expect((await caravan("export", "weight")).stderr).toContain("caravan export needs --to <folder>")
    expect((await caravan("export", at("base"), "--to", at("base/out"))).stderr).toContain("which must not change")
    expect((await caravan("export", "weihgt", "--to", at("x"))).stderr).toContain('Did you mean "weight"?')
    expect((await caravan("export", at("pairs.jsonl"), "--to", at("x"))).stderr).toContain("found a file")
    mkdirSync(at("nothing"))
    expect((await caravan("export", at("nothing"), "--to", at("x"))).stderr).toContain("found an empty folder")
    expect(existsSync(at("x"))).toBe(false)
  })
})

const place = at("disk")
mkdirSync(place)
const mount = (options: string) => spawnSync("mount", ["-t", "tmpfs", "-o", options, "none", place]).status === 0
const unmount = () => spawnSync("umount", ["-l", place])
const isAllowed = mount("size=64k")
unmount()

describe("a disk", () => {
  it.skipIf(!isAllowed)(
    `that is full, or read-only, is reported; nothing is left there${isAllowed ? "" : " (skipped: mounting is not allowed here)"}`,
    async () => {
      for (const [options, message] of [
        ["size=16k", /no space left[^]*Free some space, or choose a folder on another disk/],
        ["size=64k,ro", /read-only file system[^]*choose a folder on another disk/]
      ] as const) {
        expect(mount(options)).toBe(true)
        try {
          const { status, stderr } = await caravan("export", "tuned", "--to", join(place, "out"))
          expect([status, stderr]).toEqual([1, expect.stringMatching(message)])
          expect(stderr).not.toMatch(/\n\s+at /)
          expect(readdirSync(place)).toEqual([])
        } finally {
          unmount()
        }
      }
    }
  )
})

describe("an interrupted export", () => {
  it("leaves no folder, and nothing next to it", async () => {
    cpSync(at("base"), at("large"), { recursive: true })
    const hook = at("slow.mjs")
    writeFileSync(
      hook,
      `import fs from "node:fs/promises"
import { syncBuiltinESMExports } from "node:module"
const { copyFile } = fs
fs.copyFile = async (...args) => { await copyFile(...args); process.stderr.write("copied\\n"); await new Promise((done) => setTimeout(done, 60_000)) }
syncBuiltinESMExports()`
    )
    const child = spawn(process.execPath, ["--import", hook, command, "export", at("large"), "--to", at("cut")], {
      cwd: folder,
      env: { ...process.env, CARAVAN_HOME: at("home"), NODE_OPTIONS: "" },
      stdio: ["ignore", "ignore", "pipe"]
    })
    const ended = new Promise<number | null>((done) => child.once("exit", done))
    await new Promise<void>((done) => child.stderr.on("data", (text) => String(text).includes("copied") && done()))
    expect(remains("cut")).toHaveLength(1)
    child.kill("SIGINT")
    expect(await ended).toBe(130)
    expect([existsSync(at("cut")), remains("cut")]).toEqual([false, []])
  })
})
