/** Reward models' adapters in PEFT's format, and the identity of their base weights. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { checkBase, loadAdapter, loadRewardAdapter, writeAdapter, writeBase } from "../../models/adapter-files.ts"
import { loadMerged } from "../../models/checkpoint.ts"
import { writeSafetensors } from "../../models/safetensors.ts"
import { loadBackbone, loadLlama } from "../../models/weights.ts"
import { weightsDigest } from "../../models/weights-digest.ts"
import { float32 } from "../tolerances.ts"
import { largestDifference } from "./small.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-adapters-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const folder = () => mkdtempSync(join(root, "a-"))
const golden = (path: string) => new URL(`../golden/${path}`, import.meta.url).pathname
const run = <A, E>(effect: Effect.Effect<A, E>): Promise<A> => Effect.runPromise(effect)
const refusal = async <A>(effect: Effect.Effect<A, { readonly message: string }>) => (await run(Effect.flip(effect))).message

const base = golden("llama-gqa/model")
const causal = golden("lora-all-linear/adapter")
const reward = golden("ppo-lora/value")
const { responses } = JSON.parse(readFileSync(golden("ppo-lora/expected.json"), "utf8")) as {
  readonly responses: ReadonlyArray<{
    readonly prompt: ReadonlyArray<number>
    readonly response: ReadonlyArray<number>
    readonly valuesNow: ReadonlyArray<number>
  }>
}

describe("a reward model's adapter made by PEFT", () => {
  it("gives PEFT's scores together with its head", async () => {
    const model = await run(Effect.flatMap(loadBackbone(base), (on) => loadRewardAdapter(reward, on)))
    for (const { prompt, response, valuesNow } of responses) {
      const scores = scoped(() => noGrad(() => model.scores(tensor([[...prompt, ...response]], { dtype: "int64" })).toNumbers()))
      const wanted = scores.slice(prompt.length - 1, -1)
      expect(largestDifference(wanted, valuesNow)).toBeLessThanOrEqual(float32)
    }
    expect(model.adapter!.config).toEqual({
      ...{ rank: 3, alpha: 6, rankStabilised: true },
      targets: expect.arrayContaining(["q_proj", "v_proj", "up_proj", "down_proj"])
    })
  })

  it("is written as it was read: with the same tensors", async () => {
    const model = await run(Effect.flatMap(loadBackbone(base), (on) => loadRewardAdapter(reward, on)))
    const out = folder()
    await writeAdapter(out, model)
    const again = await run(Effect.flatMap(loadBackbone(base), (on) => loadRewardAdapter(out, on)))
    expect(again.head.toBytes()).toEqual(model.head.toBytes())
    for (const [name, value] of Object.entries(model.adapter!.parameters))
      expect(again.adapter!.parameters[name]!.toBytes()).toEqual(value.toBytes())
  })

  const changed = (fields: Record<string, unknown>): string => {
    const out = folder()
    cpSync(reward, out, { recursive: true })
    const path = join(out, "adapter_config.json")
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...fields }))
    return out
  }
  it("is rejected in place of a language model's adapter and vice versa, as are other modules and another base", async () => {
    const onBackbone = (path: string) => refusal(Effect.flatMap(loadBackbone(base), (on) => loadRewardAdapter(path, on)))
    expect(await refusal(Effect.flatMap(loadLlama(base), (on) => loadAdapter(reward, on)))).toContain(
      "expected the task_type CAUSAL_LM, found SEQ_CLS"
    )
    expect(await onBackbone(causal)).toContain("expected the task_type SEQ_CLS, found CAUSAL_LM")
    expect(await onBackbone(changed({ modules_to_save: ["classifier"] }))).toContain(
      'expected modules_to_save ["score"], found ["classifier"]'
    )
    expect(await onBackbone(changed({ modules_to_save: ["score", "embed_tokens"] }))).toContain("embed_tokens")
    expect(await onBackbone(changed({ modules_to_save: null }))).toContain('expected modules_to_save ["score"]')
    expect(await onBackbone(changed({ target_modules: ["q_proj"] }))).toContain("unknown: base_model.model.model.layers.0.mlp.down_proj")
    expect(await onBackbone(base)).toContain("found a complete model")
    const other = golden("llama-mha-tied/model")
    expect(await refusal(Effect.flatMap(loadBackbone(other), (on) => loadRewardAdapter(reward, on)))).toContain(
      "The adapter belongs to another base"
    )
  })
})

describe("the digest of a checkpoint's weights", () => {
  const copy = (): string => {
    const out = folder()
    cpSync(base, out, { recursive: true })
    return out
  }
  it("is the same for any location and number of files", async () => {
    const [wanted, out] = [await run(weightsDigest(base)), copy()]
    expect(wanted).toMatch(/^[0-9a-f]{64}$/)
    expect(await run(weightsDigest(out))).toBe(wanted)
    const model = await run(loadLlama(out))
    const names = Object.keys(model.parameters)
    rmSync(join(out, "model.safetensors"))
    const shards = [names.slice(0, 3), names.slice(3)].map((part, i) => [`${i}.safetensors`, part] as const)
    for (const [file, part] of shards) await writeSafetensors(join(out, file), Object.fromEntries(part.map((n) => [n, model.parameter(n)])))
    const map = Object.fromEntries(shards.flatMap(([file, part]) => part.map((name) => [name, file])))
    writeFileSync(join(out, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }))
    expect(await run(weightsDigest(out))).toBe(wanted)
  })
  it("changes with one bit of one weight, and with the precision", async () => {
    const wanted = await run(weightsDigest(base))
    const [bit, half] = [copy(), copy()]
    const path = join(bit, "model.safetensors")
    const bytes = readFileSync(path)
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(path, bytes)
    const model = await run(loadLlama(base, { dtype: "bfloat16" }))
    await writeSafetensors(join(half, "model.safetensors"), model.parameters)
    const found = [await run(weightsDigest(bit)), await run(weightsDigest(half))]
    expect(new Set([wanted, ...found]).size).toBe(3)
  })
})

describe("an adapter that names its base weights", () => {
  const told = async (weights: string): Promise<string> => {
    const out = folder()
    cpSync(causal, out, { recursive: true })
    await writeBase(out, weights)
    return out
  }
  it("is merged into those weights, and rejected for others of the same shapes", async () => {
    const adapter = await told(await run(weightsDigest(base)))
    const [merged, plain] = [await run(loadMerged(base, adapter)), await run(loadMerged(base, causal))]
    for (const [name, weight] of Object.entries(plain.parameters)) expect(merged.parameter(name).toBytes()).toEqual(weight.toBytes())
    const other = join(folder(), "other")
    mkdirSync(other)
    cpSync(base, other, { recursive: true })
    const model = await run(loadLlama(base))
    scoped(() => noGrad(() => void model.parameter("model.norm.weight").mul_(2)))
    await writeSafetensors(join(other, "model.safetensors"), model.parameters)
    expect(await refusal(loadMerged(other, adapter))).toMatch(
      /^Applying the adapter .* to .*other: expected the weights that it was trained on \(sha256 [0-9a-f]{12}\), found other weights \([0-9a-f]{12}\)\. Pass the base/
    )
  })
  it("is rejected if the name is required but missing or malformed", async () => {
    const weights = await run(weightsDigest(base))
    expect(await refusal(checkBase(causal, { path: base, weights }))).toContain(
      "expected base.json, which identifies its base weights, found none"
    )
    const damaged = await told(weights)
    writeFileSync(join(damaged, "base.json"), '{"format": 2}')
    expect(await refusal(checkBase(damaged, { path: base, weights }))).toContain("expected a valid base.json")
    await run(checkBase(await told(weights), { path: base, weights }))
  })
})
