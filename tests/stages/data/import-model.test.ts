/** Importing a model's folder: what is checked before anything is trained, and what its checkpoints contain. */
import { cpSync, existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { encodeDialogue } from "../../../models/chat.ts"
import { templates } from "../../../models/chat-templates/index.ts"
import { loadPolicyFrom, writeCheckpoint } from "../../../models/checkpoint.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { loadTokenizer } from "../../../models/tokenizer/files.ts"
import { External, type Role } from "../../../schemas/artifact.ts"
import { importHelpfulnessReward, importPolicy } from "../../../stages/data/import.ts"
import { hyperInfo } from "../../../schemas/hyper.ts"
import { runStage } from "../running.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-import-"))
afterAll(() => rmSync(root, { recursive: true }))
const golden = fileURLToPath(new URL("../../golden/chat/", import.meta.url))
const messages = [
  { role: "user" as const, content: "Who are you?" },
  { role: "assistant" as const, content: "A model." }
]

/** A folder with a small model and a tokenizer of the given kind, and changes to it. */
const folderOf = async (kind: string, change: (folder: string) => void = () => {}, role: Role = "policy"): Promise<string> => {
  const tokens = mkdtempSync(join(root, "tokenizer-"))
  cpSync(join(golden, kind), tokens, { recursive: true })
  // Without a template a model needs BOS.
  if (kind === "qwen2") writeFileSync(join(tokens, "chat_template.jinja"), templates["qwen2.5"])
  const tokenizer = await Effect.runPromise(loadTokenizer(tokens))
  const policy = initLlama(
    llamaConfig({ vocabSize: tokenizer.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 256 }),
    { seed: 1 }
  )
  const folder = mkdtempSync(join(root, "model-"))
  await writeCheckpoint(folder, { model: role === "policy" ? policy : initRewardModel(policy, { seed: 1 }), tokenizer, role })
  rmSync(join(folder, "caravan.json"))
  change(folder)
  return folder
}
const edit = (path: string, change: (json: Record<string, unknown>) => Record<string, unknown>) =>
  writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>)))
const ref = (path: string) => ({ folder: { path, type: External.name, digest: "", contentDigest: "" } })
const failure = async (stage: typeof importPolicy | typeof importHelpfulnessReward, folder: string, config: Record<string, unknown> = {}) =>
  runStage(stage, ref(folder), config).then(
    () => "no error",
    (cause: Error) => cause.message
  )

describe("a first check of a model's folder", () => {
  const look = (path: string) =>
    Effect.runPromise(importPolicy.stage.looks.folder!(path)).then(
      () => "nothing",
      (cause: Error) => cause.message
    )
  it("accepts only a config.json for planning, and reports an unknown family or a missing config.json", async () => {
    const folder = await folderOf("llama3")
    expect(await look(folder)).toBe("nothing")
    rmSync(join(folder, "model.safetensors"))
    expect(await look(folder)).toBe("nothing")
    edit(join(folder, "config.json"), (json) => ({ ...json, model_type: "gpt2" }))
    expect(await look(folder)).toMatch(/model_type.*gpt2/)
    // Only PyTorch's weights, and a file instead of a folder.
    writeFileSync(join(folder, "pytorch_model.bin"), "")
    expect(await look(folder)).toMatch(/which only PyTorch can read/)
    expect(await look(join(folder, "config.json"))).toMatch(/expected a folder with config\.json, found none/)
  })
})

describe("a model's folder", () => {
  it("with weights that contradict its config.json is rejected on import, by the user's name for it", async () => {
    const folder = await folderOf("llama3", (path) => edit(join(path, "config.json"), (json) => ({ ...json, intermediate_size: 32 })))
    expect(await failure(importPolicy, folder)).toContain(
      `Reading the weights in ${folder}: expected the tensors of its config.json, found of another shape: model.layers.0.mlp.gate_proj.weight (24, 16) instead of (32, 16)`
    )
  })
  it("with overlapping weights in their file is rejected on import", async () => {
    let [name, expected, found] = ["", 0, 0]
    const folder = await folderOf("llama3", (path) => {
      const file = join(path, "model.safetensors")
      const bytes = readFileSync(file)
      const length = Number(bytes.readBigUInt64LE(0))
      const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<
        string,
        { shape: Array<number>; data_offsets: [number, number] }
      >
      const tensors = Object.entries(header).filter(([key]) => key !== "__metadata__")
      const [last, entry] = tensors.toSorted(([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0]).at(-1)!
      ;[name, expected] = [last, 8 + length + entry.data_offsets[0]]
      entry.data_offsets = [entry.data_offsets[0] - 4, entry.data_offsets[1] - 4]
      found = expected - 4
      const changed = Buffer.from(JSON.stringify(header).padEnd(length))
      changed.copy(bytes, 8)
      writeFileSync(file, bytes.subarray(0, -4))
    })
    expect(await failure(importPolicy, folder)).toBe(
      `Reading ${join(folder, "model.safetensors")}: expected tensor ${name} at byte ${expected}, directly after the previous tensor, found byte ${found}. The file is truncated or not a safetensors file: download it or save it again.`
    )
  })
  it("of a language model is not a reward model, and vice versa", async () => {
    expect(await failure(importHelpfulnessReward, await folderOf("llama3"))).toContain(
      "found missing: score.weight; unknown: lm_head.weight"
    )
    expect(await failure(importPolicy, await folderOf("llama3", undefined, "helpfulness-reward"))).toContain(
      "found missing: lm_head.weight; unknown: score.weight"
    )
  })
  it("may consist of links, like Hugging Face's cache", async () => {
    const folder = await folderOf("llama3")
    const links = mkdtempSync(join(root, "links-"))
    for (const name of readdirSync(folder)) symlinkSync(join(folder, name), join(links, name))
    const output = await runStage(importPolicy, ref(links), {})
    expect(lstatSync(join(output.path, "model.safetensors")).isFile()).toBe(true)
    expect(readFileSync(join(output.path, "model.safetensors")).equals(readFileSync(join(folder, "model.safetensors")))).toBe(true)
  })
  it("with only pickles is rejected with a command that converts them", async () => {
    const folder = await folderOf("llama3", (path) => {
      rmSync(join(path, "model.safetensors"))
      for (const name of ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]) writeFileSync(join(path, name), "")
    })
    const message = await failure(importPolicy, folder)
    expect(message).toContain(
      `Reading the checkpoint ${folder}: expected weights in model.safetensors, found pytorch_model-00001-of-00002.bin and 1 more, which only PyTorch can read.`
    )
    expect(message).toContain('python3 -c "import glob, torch')
  })
  it("with a chat template that can't be trained on is rejected", async () => {
    const folder = await folderOf("llama3", (path) => writeFileSync(join(path, "chat_template.jinja"), "{{ raise_exception('no') }}"))
    expect(await failure(importPolicy, folder)).toContain(
      `Trying the chat template on a dialogue of two questions and answers (${folder}): expected`
    )
  })
  it("without a template and without BOS is rejected with a hint", async () => {
    const folder = await folderOf("qwen2", (path) => rmSync(join(path, "chat_template.jinja")))
    expect(await failure(importPolicy, folder)).toContain(
      "expected a chat template (chat_template.jinja), or a beginning-of-sequence token for Llama 2's format, found neither"
    )
  })
})

describe("an imported model's checkpoints contain", () => {
  it("the tokenizer's files, the named template, the date and the stop tokens, and so do models trained from it", async () => {
    const folder = await folderOf("llama3", (path) =>
      edit(join(path, "generation_config.json"), (json) => ({ ...json, eos_token_id: [601, 606], temperature: 0.6, top_p: 0.9 }))
    )
    const imported = await runStage(importPolicy, ref(folder), { chatTemplate: "llama3.1", chatDate: "2026-05-04" })
    expect(readFileSync(join(imported.path, "chat_template.jinja"), "utf8")).toBe(templates["llama3.1"])
    const loaded = await Effect.runPromise(loadPolicyFrom(imported.path))
    const again = mkdtempSync(join(root, "trained-"))
    await writeCheckpoint(again, { ...loaded, role: "policy" })
    for (const path of [imported.path, again]) {
      const { tokenizer } = await Effect.runPromise(loadPolicyFrom(path))
      expect(tokenizer.decode(encodeDialogue(tokenizer, messages).tokens)).toContain("Today Date: 04 May 2026")
      for (const name of ["tokenizer.json", "tokenizer_config.json"])
        expect(readFileSync(join(path, name))).toEqual(readFileSync(join(folder, name)))
    }
    expect(JSON.parse(readFileSync(join(again, "generation_config.json"), "utf8"))).toEqual({
      ...{ bos_token_id: 600, eos_token_id: [606, 601], pad_token_id: 600 },
      ...{ temperature: 0.6, top_p: 0.9 }
    })
    expect(JSON.parse(readFileSync(join(again, "config.json"), "utf8"))).toMatchObject({ bos_token_id: 600, eos_token_id: [606, 601] })
  })
  it("its own template if none is named", async () => {
    const folder = await folderOf("qwen2")
    const imported = await runStage(importPolicy, ref(folder))
    expect(readFileSync(join(imported.path, "chat_template.jinja"), "utf8")).toBe(templates["qwen2.5"])
    const { tokenizer } = await Effect.runPromise(loadPolicyFrom(imported.path))
    expect(tokenizer.decode(encodeDialogue(tokenizer, messages).tokens)).toContain("You are Qwen")
  })
  it("Llama 2's format if it has no template, and a template of it for transformers", async () => {
    const imported = await runStage(importPolicy, ref(await folderOf("llama3", (path) => rmSync(join(path, "chat_template.jinja")))))
    expect(existsSync(join(imported.path, "chat_template.jinja"))).toBe(false)
    const loaded = await Effect.runPromise(loadPolicyFrom(imported.path))
    const again = mkdtempSync(join(root, "trained-"))
    await writeCheckpoint(again, { ...loaded, role: "policy" })
    expect(readFileSync(join(again, "chat_template.jinja"), "utf8")).toBe(templates.llama2)
    for (const path of [imported.path, again]) {
      const { tokenizer } = await Effect.runPromise(loadPolicyFrom(path))
      expect(tokenizer.chat).toBeUndefined()
      expect(tokenizer.decode(encodeDialogue(tokenizer, messages).tokens)).toBe("[INST] Who are you? [/INST] A model. ")
    }
  })
  it("only a day as the date", () => {
    const refuse = hyperInfo(importPolicy.stage.config.fields.chatDate)!.refuse!
    expect(["2024-02-29", "2023-02-29", "26 Jul 2024", "2024-7-1"].map((day) => refuse(day) === undefined)).toEqual([
      true,
      false,
      false,
      false
    ])
  })
})
