/** Checkpoints from and to Hugging Face's layout. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { liveTensors, tensor, type Tensor } from "../../engine/tensor.ts"
import { loadPolicyFrom, loadReward, saveCheckpoint, writeCheckpoint } from "../../models/checkpoint.ts"
import { parameterShapes } from "../../models/config.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { openSafetensors, TensorSnapshot, writeSafetensors } from "../../models/safetensors.ts"
import { loadConfig, loadLlama, loadScalarModel } from "../../models/weights.ts"
import { ArtifactError, type ArtifactRef, type ArtifactType, type Checkpoint } from "../../schemas/artifact.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { devices } from "../devices.ts"
import { smallConfig, smallTokenizer } from "./small.ts"
import { tensorsIn } from "./tensors.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-weights-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const folder = () => mkdtempSync(join(root, "w-"))
const run = <A, E>(effect: Effect.Effect<A, E>): Promise<A> => Effect.runPromise(effect)
const failure = async <A>(effect: Effect.Effect<A, ArtifactError>): Promise<ArtifactError> => run(Effect.flip(effect))
const golden = (name: string) => fileURLToPath(new URL(`../golden/${name}/model`, import.meta.url))

const tokenizer = smallTokenizer()
const config = smallConfig({ vocabSize: tokenizer.vocabSize })
const policy = initLlama(config, { seed: 1 })

/** A copy of a model's folder with its weights changed. */
const changed = async (change: (tensors: Record<string, Tensor>) => Record<string, Tensor>, name = "llama-gqa"): Promise<string> => {
  const directory = folder()
  cpSync(golden(name), directory, { recursive: true })
  await writeSafetensors(join(directory, "model.safetensors"), change(await tensorsIn(join(golden(name), "model.safetensors"))))
  return directory
}

describe("safetensors", () => {
  it("are read back in every dtype of weights, including empty and zero-dimensional ones", async () => {
    const path = join(folder(), "x.safetensors")
    const tensors: Record<string, Tensor> = {
      empty: tensor(new Float32Array(0), { shape: [0, 3] }),
      number: tensor(new Float32Array([7]), { shape: [] })
    }
    for (const dtype of ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8"] as const)
      tensors[dtype] = tensor(
        [
          [1, 2, 3],
          [4, 5, 6]
        ],
        { dtype }
      )
    tensors.bool = tensor([true, false, true])
    await writeSafetensors(path, tensors)
    const back = await tensorsIn(path)
    expect(Object.keys(back)).toEqual(Object.keys(tensors).sort())
    for (const [name, wanted] of Object.entries(tensors)) {
      expect([name, back[name]!.dtype, back[name]!.shape]).toEqual([name, wanted.dtype, wanted.shape])
      expect(back[name]!.toBytes()).toEqual(wanted.toBytes())
    }
  })

  it("are written in the format's layout: length, header sorted by name, data without gaps, aligned to 8 bytes", async () => {
    const path = join(folder(), "x.safetensors")
    await writeSafetensors(path, { b: tensor([1.5]), a: tensor([[1, -2]], { dtype: "bfloat16" }) })
    const bytes = readFileSync(path)
    const length = Number(bytes.readBigUInt64LE(0))
    expect(length % 8).toBe(0)
    const text = bytes.subarray(8, 8 + length).toString()
    expect(text.trimEnd()).toBe(
      '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    )
    // 1 and -2 in bfloat16, 1.5 in float32, little endian.
    expect([...bytes.subarray(8 + length)]).toEqual([0x80, 0x3f, 0x00, 0xc0, 0x00, 0x00, 0xc0, 0x3f])
  })

  it("written by PyTorch's library are unchanged when written again", async () => {
    const original = join(golden("llama-gqa"), "model.safetensors")
    const again = join(folder(), "again.safetensors")
    await writeSafetensors(again, await tensorsIn(original))
    const [a, b] = [await tensorsIn(original), await tensorsIn(again)]
    expect(Object.keys(b)).toEqual(Object.keys(a))
    for (const name of Object.keys(a)) expect(b[name]!.toBytes()).toEqual(a[name]!.toBytes())
  })
})

describe("a safetensors file", () => {
  /** More than the bytes read or written at a time, and not a multiple of them. */
  const long = tensor(Float32Array.from({ length: 1_200_001 }, (_, i) => Math.fround(Math.sin(i) * 10 ** ((i % 9) - 4))))

  it("is converted while reading like libtorch converts a complete tensor", async () => {
    const path = join(folder(), "x.safetensors")
    const all = Object.fromEntries((["float64", "float32", "float16", "bfloat16"] as const).map((dtype) => [dtype, long.to({ dtype })]))
    await writeSafetensors(path, all)
    const file = await run(openSafetensors(path))
    for (const [name, whole] of Object.entries(all))
      for (const dtype of ["float64", "float32", "float16", "bfloat16"] as const)
        expect(Buffer.compare((await run(file.read(name, { dtype }))).toBytes(), whole.to({ dtype }).toBytes())).toBe(0)
    await file.close()
  })

  it("has a tensor's elements in row-major order, whatever its memory layout, also with more than one piece", async () => {
    const path = join(folder(), "x.safetensors")
    const turned = long.slice(0, 0, 1_200_000).reshape(1000, 1200).transpose(0, 1)
    await writeSafetensors(path, { long, turned })
    const back = await tensorsIn(path)
    expect(Buffer.compare(back.long!.toBytes(), long.toBytes())).toBe(0)
    expect(back.turned!.shape).toEqual([1200, 1000])
    expect(Buffer.compare(back.turned!.toBytes(), turned.contiguous().toBytes())).toBe(0)
  })

  it("that is truncated after it was opened is an error, and leaves no tensor behind", async () => {
    const path = join(folder(), "x.safetensors")
    await writeSafetensors(path, { long })
    const file = await run(openSafetensors(path))
    const { start } = file.entries.get("long")!
    truncateSync(path, start + 2_000_000)
    const before = liveTensors()
    for (const dtype of ["float32", "bfloat16"] as const) {
      const { message } = await failure(file.read("long", { dtype }))
      expect(message).toContain(`expected 4800004 bytes of tensor long, found 2000000: the file was truncated after it was opened`)
    }
    expect(liveTensors()).toBe(before)
    await file.close()
  })

  it("that is replaced by another is read to its end", async () => {
    const [path, other] = [join(folder(), "x.safetensors"), join(folder(), "y.safetensors")]
    await writeSafetensors(path, { a: tensor([1, 2]) })
    await writeSafetensors(other, { b: tensor([3]) })
    const file = await run(openSafetensors(path))
    renameSync(other, path)
    expect((await run(file.read("a"))).toNumbers()).toEqual([1, 2])
    await file.close()
  })

  it("that is a folder, is missing or can't be read gives one message", async () => {
    const [directory, secret] = [folder(), join(folder(), "x.safetensors")]
    expect((await failure(openSafetensors(directory))).message).toMatch(/expected a file, found EISDIR/)
    expect((await failure(openSafetensors(join(directory, "none")))).message).toMatch(/expected a safetensors file, found none/)
    expect((await failure(openSafetensors(join(secret, "below")))).message).toMatch(/expected a safetensors file, found none/)
    await writeSafetensors(secret, { a: tensor([1]) })
    expect((await failure(openSafetensors(join(secret, "below")))).message).toMatch(/expected a safetensors file, found ENOTDIR/)
  })
})

describe("a snapshot", () => {
  it("equals the file that is written directly, from the tensors as they were when it was taken", async () => {
    const directory = folder()
    const tensors = {
      b: tensor([[1, 2, 3]]),
      a: tensor([1.5], { dtype: "bfloat16" }),
      none: tensor(new Float32Array(0), { shape: [0, 3] })
    }
    const path = join(directory, "x.safetensors")
    await writeSafetensors(path, tensors)
    const held: Array<{ readonly path: string; readonly bytes: Uint8Array }> = []
    const snapshot = new TensorSnapshot()
    const write = snapshot.writer(directory, (file) => held.push(file))
    await write(path, tensors)
    tensors.b.add_(1)
    expect(held.map((file) => file.path)).toEqual([path])
    expect(Buffer.compare(held[0]!.bytes, readFileSync(path))).toBe(0)
  })

  it("reuses its memory for the same file of the next checkpoint, and for no other file", async () => {
    const held: Array<{ readonly path: string; readonly bytes: Uint8Array<SharedArrayBuffer> }> = []
    const snapshot = new TensorSnapshot()
    const size = async (directory: string, name: string, length: number) => {
      const write = snapshot.writer(directory, (file) => held.push(file))
      await write(join(directory, name), { a: tensor(new Float32Array(length)) })
    }
    for (const directory of ["/one", "/two"]) for (const name of ["a", "in/b"]) await size(directory, name, 10)
    await size("/three", "a", 11)
    const [a, b, again, bAgain, longer] = held.map(({ bytes }) => bytes.buffer)
    expect(again).toBe(a)
    expect(bAgain).toBe(b)
    expect(a).not.toBe(b)
    expect(longer).not.toBe(a)
  })
})

describe("a model's folder", () => {
  it("may have its weights in float16 or bfloat16: they load as float32, or as requested", async () => {
    for (const dtype of ["float16", "bfloat16"] as const) {
      const directory = await changed((tensors) =>
        Object.fromEntries(Object.entries(tensors).map(([name, weight]) => [name, weight.to({ dtype })]))
      )
      const [wide, narrow] = [await run(loadLlama(directory)), await run(loadLlama(directory, { dtype: "bfloat16" }))]
      expect([wide.dtype, narrow.dtype]).toEqual(["float32", "bfloat16"])
      const name = "model.layers.1.mlp.down_proj.weight"
      const original = (await tensorsIn(join(golden("llama-gqa"), "model.safetensors")))[name]!
      expect(wide.parameter(name).toNumbers()).toEqual(original.to({ dtype }).toNumbers())
    }
  })

  it("may have its weights in shards", async () => {
    const directory = folder()
    cpSync(golden("llama-gqa"), directory, { recursive: true })
    const tensors = await tensorsIn(join(directory, "model.safetensors"))
    rmSync(join(directory, "model.safetensors"))
    const names = Object.keys(tensors)
    const shards = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    const shardOf = (i: number) => shards[i % 3]!
    for (const shard of shards)
      await writeSafetensors(
        join(directory, shard),
        Object.fromEntries(names.flatMap((name, i) => (shardOf(i) === shard ? [[name, tensors[name]!]] : [])))
      )
    writeFileSync(
      join(directory, "model.safetensors.index.json"),
      JSON.stringify({ metadata: {}, weight_map: Object.fromEntries(names.map((name, i) => [name, shardOf(i)])) })
    )
    const model = await run(loadLlama(directory))
    for (const name of names) expect(model.parameter(name).toBytes()).toEqual(tensors[name]!.toBytes())

    // A tensor in two shards: ambiguous.
    await writeSafetensors(
      join(directory, shards[0]!),
      Object.fromEntries(names.flatMap((name, i) => (i % 3 === 0 || i === 1 ? [[name, tensors[name]!]] : [])))
    )
    expect((await failure(loadLlama(directory))).found).toBe(`in several files: ${names[1]}`)
  })

  it("reports all missing, unknown, misshapen and integer tensors by name, together", async () => {
    const directory = await changed(({ "model.norm.weight": norm, "model.layers.0.mlp.up_proj.weight": _left, ...tensors }) => ({
      ...tensors,
      "model.norm.weight": norm!.slice(0, 0, 8).contiguous(),
      "model.layers.0.self_attn.q_proj.bias": norm!,
      toString: norm!,
      "model.layers.1.input_layernorm.weight": tensors["model.layers.1.input_layernorm.weight"]!.to({ dtype: "int64" })
    }))
    const { message, found, hint } = await failure(loadLlama(directory))
    expect(found).toContain("missing: model.layers.0.mlp.up_proj.weight;")
    expect(found).toContain("unknown: model.layers.0.self_attn.q_proj.bias, toString;")
    expect(found).toContain("of another shape: model.norm.weight (8) instead of (32);")
    expect(found).toContain("not floating point: model.layers.1.input_layernorm.weight I64")
    expect(message).toContain(directory)
    expect(hint).not.toBe("")
  })

  it("may repeat a tied output layer and contain old exports' rotary tables, which follow from the config", async () => {
    const directory = await changed(
      (tensors) => ({
        ...tensors,
        "lm_head.weight": tensors["model.embed_tokens.weight"]!,
        "model.layers.0.self_attn.rotary_emb.inv_freq": tensor([1, 0.1])
      }),
      "llama-mha-tied"
    )
    const model = await run(loadLlama(directory))
    expect(Object.keys(model.parameters)).toEqual(Object.keys(parameterShapes(model.config)))
    const untied = await changed((tensors) => ({ ...tensors, "score.weight": tensors["model.norm.weight"]! }))
    expect((await failure(loadLlama(untied))).found).toBe("unknown: score.weight")
  })

  it("that is not one, or is damaged, gives one message", async () => {
    expect((await failure(loadLlama(join(root, "nowhere")))).message).toMatch(/a folder with config\.json, found none/)
    expect((await failure(loadLlama(folder()))).message).toMatch(/a folder with config\.json, found none/)
    const truncated = folder()
    cpSync(golden("llama-gqa"), truncated, { recursive: true })
    const path = join(truncated, "model.safetensors")
    writeFileSync(path, readFileSync(path).subarray(0, -100))
    expect((await failure(loadLlama(truncated))).message).toMatch(/the file is truncated/)
    const claims = Buffer.from(readFileSync(path))
    claims.writeBigUInt64LE(1n << 40n)
    writeFileSync(path, claims)
    expect((await failure(loadLlama(truncated))).message).toMatch(/claims 1099511627776 bytes/)
  })

  it("that can't be loaded leaves no tensor behind", async () => {
    const directory = await changed(({ "model.norm.weight": _left, ...tensors }) => tensors)
    const before = liveTensors()
    await failure(loadLlama(directory))
    expect(liveTensors()).toBe(before)
  })
})

type RewardRole = "helpfulness-reward" | "safety-reward"
const ref = (path: string, type: ArtifactType<Checkpoint<RewardRole>>): ArtifactRef<Checkpoint<RewardRole>> => ({
  path,
  type: type.name,
  digest: "",
  contentDigest: ""
})
const reading = ({ "config.json": a, "caravan.json": b, "generation_config.json": c }: Record<string, string>) =>
  [a, b, c].map((text) => (text === undefined ? undefined : JSON.parse(text)))
const files = (directory: string) =>
  Object.fromEntries(readdirSync(directory).map((name) => [name, readFileSync(join(directory, name), "latin1")]))

describe("a checkpoint", () => {
  it("of a policy is read back as it was, with its tokenizer, and records its kind", async () => {
    const slot = { path: folder(), type: Policy }
    const { metrics } = await run(saveCheckpoint(slot, { model: policy, tokenizer, metrics: { loss: 2 } }))
    expect(metrics).toEqual({ loss: 2 })
    await run(Policy.validate(slot.path))
    const loaded = await run(loadPolicyFrom(slot.path))
    expect(loaded.model.config).toEqual(config)
    expect(loaded.tokenizer.encode("abba ab")).toEqual(tokenizer.encode("abba ab"))
    for (const [name, weight] of Object.entries(policy.parameters)) expect(loaded.model.parameter(name).toBytes()).toEqual(weight.toBytes())
    expect(reading(files(slot.path))).toMatchObject([
      { architectures: ["LlamaForCausalLM"], torch_dtype: "float32", bos_token_id: 1, eos_token_id: 2 },
      { format: 1, role: "policy" },
      { bos_token_id: 1, eos_token_id: 2 }
    ])
  })

  it("of a reward model is transformers' sequence classifier of one label", async () => {
    for (const type of [HelpfulnessReward, SafetyReward]) {
      const slot = { path: folder(), type }
      const model = initRewardModel(policy, { seed: 2 })
      await run(saveCheckpoint(slot, { model, tokenizer }))
      await run(type.validate(slot.path))
      const loaded = await run(loadReward(ref(slot.path, type)))
      expect(Object.keys(loaded.model.parameters).sort()).toEqual(Object.keys(model.parameters).sort())
      expect(loaded.model.head.toBytes()).toEqual(model.head.toBytes())
      expect(reading(files(slot.path))).toMatchObject([
        { architectures: ["LlamaForSequenceClassification"], num_labels: 1 },
        { role: type.name.replace("checkpoint:", "") },
        undefined
      ])
      const names = Object.keys(await tensorsIn(join(slot.path, "model.safetensors")))
      expect(names).toContain("score.weight")
      expect(names).not.toContain("lm_head.weight")
    }
  })

  it("has the same bytes whenever it is written, from memory and from its own checkpoint", async () => {
    const [first, second, third] = [folder(), folder(), folder()]
    await writeCheckpoint(first, { model: policy, tokenizer, role: "policy" })
    const reversed = Object.fromEntries(Object.entries(policy.parameters).toReversed())
    await writeCheckpoint(second, { model: new Llama(config, reversed), tokenizer, role: "policy" })
    await writeCheckpoint(third, { ...(await run(loadPolicyFrom(first))), role: "policy" })
    expect(files(second)).toEqual(files(first))
    expect(files(third)).toEqual(files(first))
  })

  it("keeps its model's dtype", async () => {
    const directory = folder()
    const model = initLlama(config, { seed: 1, dtype: "bfloat16" })
    await writeCheckpoint(directory, { model, tokenizer, role: "policy" })
    const file = await run(openSafetensors(join(directory, "model.safetensors")))
    await file.close()
    expect(new Set([...file.entries.values()].map(({ dtype }) => dtype))).toEqual(new Set(["BF16"]))
    expect(JSON.parse(files(directory)["config.json"]!).torch_dtype).toBe("bfloat16")
  })

  it("of one kind does not load as the other: the differing tensors are reported", async () => {
    const [language, reward] = [folder(), folder()]
    await writeCheckpoint(language, { model: policy, tokenizer, role: "policy" })
    await writeCheckpoint(reward, { model: initRewardModel(policy, { seed: 2 }), tokenizer, role: "safety-reward" })
    expect((await failure(loadLlama(reward))).found).toBe("missing: lm_head.weight; unknown: score.weight")
    expect((await failure(loadScalarModel(language))).found).toBe("missing: score.weight; unknown: lm_head.weight")
  })

  it("with a tokenizer of another vocabulary is rejected, but an embedding table padded to a round number is not", async () => {
    const save = async (vocabSize: number) => {
      const directory = folder()
      await writeCheckpoint(directory, { model: initLlama(smallConfig({ vocabSize }), { seed: 1 }), tokenizer, role: "policy" })
      return directory
    }
    expect((await run(loadPolicyFrom(await save(320)))).tokenizer.vocabSize).toBe(264)
    for (const vocabSize of [100, 263, 2000]) {
      expect((await failure(loadPolicyFrom(await save(vocabSize)))).message).toMatch(
        new RegExp(`a tokenizer with the model's ${vocabSize} tokens, found a tokenizer with 264\\. The tokenizer belongs to another model`)
      )
    }
  })

  it("that can't be written is an error, not a stack trace", async () => {
    const error = await failure(saveCheckpoint({ path: join(root, "no", "such", "folder"), type: Policy }, { model: policy, tokenizer }))
    expect(error).toBeInstanceOf(ArtifactError)
    expect(error.message).toMatch(/^Writing a checkpoint to .*ENOENT/)
  })
})

for (const { device, skip } of devices) {
  it.skipIf(skip)(`a checkpoint moves to ${device} and back unchanged`, async () => {
    const model = await run(loadLlama(golden("llama-gqa"), { device }))
    expect(model.device).toBe(device)
    const path = join(folder(), "model.safetensors")
    await writeSafetensors(path, model.parameters)
    const [a, b] = [await tensorsIn(path), await tensorsIn(join(golden("llama-gqa"), "model.safetensors"))]
    for (const name of Object.keys(b)) expect(a[name]!.toBytes()).toEqual(b[name]!.toBytes())
    expect(await run(loadConfig(golden("llama-gqa")))).toEqual(model.config)
  })
}
