/** Supervised fine-tuning (§3.1): the tokens that carry loss, the loss, and the stage with its two steps. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { weightsDigest } from "../../../models/weights-digest.ts"
import { loadPolicyFrom, saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Policy } from "../../../schemas/checkpoint.ts"
import { type Demonstration, Demonstrations } from "../../../schemas/rows.ts"
import { sft } from "../../../stages/training/sft.ts"
import { smallConfig, smallTokenizer } from "../../models/small.ts"
import { bfloat16, sameInFloat32 } from "../../tolerances.ts"
import { encodeDemonstrations } from "../encoded.ts"
import { artifact, failureOf, rowsArtifact, runStage } from "../running.ts"
import { assistant, user } from "../samples.ts"

const tokenizer = smallTokenizer()
const dialogue = [user("ab"), assistant("ba"), user("b"), assistant("abab"), user("aab"), assistant("a")]

// Pieces: 259 "ab", 260 "▁ab", 261 "a", 262 "b", 263 "▁"; every other character is its byte + 3. BOS 1, EOS 2.
const open = [1, 263, 94, 76, 81, 86, 87, 96] // <s>▁[INST]
const close = [263, 94, 50, 76, 81, 86, 87, 96] // ▁[/INST]
const turns = [
  { question: [...open, 260, ...close], answer: [263, 262, 261, 263, 2] },
  { question: [...open, 263, 262, ...close], answer: [260, 259, 263, 2] },
  { question: [...open, 263, 261, 259, ...close], answer: [263, 261, 263, 2] }
]
const tokens = turns.flatMap(({ question, answer }) => [...question, ...answer])
/** One entry per token: 17 + 5, 18 + 4 and 19 + 4 of them. */
const masks = {
  answers: `${"0".repeat(17)}11111${"0".repeat(18)}1111${"0".repeat(19)}1111`,
  "last-answer": `${"0".repeat(17 + 5 + 18 + 4 + 19)}1111`
}

describe("a dialogue of three turns, with its tokens and their loss written out by hand", () => {
  it.each(["answers", "last-answer"] as const)("carries loss on its %s and on the end of each, and on nothing else", (loss) => {
    const { examples } = encodeDemonstrations(tokenizer, [{ messages: dialogue, loss }], 67)
    expect(examples).toHaveLength(1)
    expect(examples[0]!.tokens).toEqual(tokens)
    expect(examples[0]!.lossMask.map(Number).join("")).toBe(masks[loss])
  })
  it("with a single turn has the same loss either way", () => {
    const of = (loss: Demonstration["loss"]) => encodeDemonstrations(tokenizer, [{ messages: dialogue.slice(0, 2), loss }], 67).examples
    expect(of("last-answer")).toEqual(of("answers"))
    expect(of("answers")[0]!.lossMask.map(Number).join("")).toBe(masks.answers.slice(0, 22))
  })
})

const base = () =>
  artifact(Policy, (slot) =>
    saveCheckpoint(slot, { model: initLlama(smallConfig({ vocabSize: 264, maxPositions: 80 }), { seed: 3 }), tokenizer })
  )
const rowsOf = (...losses: ReadonlyArray<Demonstration["loss"]>) =>
  rowsArtifact(
    Demonstrations,
    losses.map((loss, i) => ({ id: `${i}`, messages: dialogue, loss }))
  )

/** Minus the log-probability of the tokens in a mask of zeros and ones, from the model's logits, summed in float64. */
const lossByHand = async (policy: ArtifactRef<any>, mask: string): Promise<number> => {
  const { model } = await Effect.runPromise(loadPolicyFrom(policy.path))
  const logits = scoped(() => noGrad(() => model.forward(tensor([tokens], { dtype: "int64" })).toNumbers()))
  return tokens.reduce((sum, token, i) => {
    if (mask[i] !== "1") return sum
    const row = logits.slice((i - 1) * 264, i * 264)
    return sum + Math.log(row.reduce((z, x) => z + Math.exp(x), 0)) - row[token]!
  }, 0)
}
const config = { epochs: 1, learningRate: 1e-2, sequenceLength: 67, batchSize: 8 }
const weights = (ref: ArtifactRef<any>) => readFileSync(join(ref.path, "model.safetensors")).toString("base64")

describe("the stage", () => {
  it("starts at the mean of the loss by hand over the tokens that carry it: 13 of all answers, 4 of the last", async () => {
    const init = await base()
    const [all, last] = [await lossByHand(init, masks.answers), await lossByHand(init, masks["last-answer"])]
    const first = async (...losses: ReadonlyArray<Demonstration["loss"]>) =>
      (await runStage(sft, { init, demonstrations: await rowsOf(...losses) }, config)).metrics["firstLoss"] as number
    expect(Math.abs((await first("answers")) - all / 13)).toBeLessThanOrEqual(sameInFloat32)
    expect(Math.abs((await first("last-answer")) - last / 4)).toBeLessThanOrEqual(sameInFloat32)
    expect(Math.abs((await first("answers", "last-answer")) - (all + last) / 17)).toBeLessThanOrEqual(sameInFloat32)
    // They differ by far more than the tolerance, so that they can't be confused.
    expect(Math.abs(all / 13 - last / 4)).toBeGreaterThan(10 * sameInFloat32)
  })
  it("in two steps continues from where the first ended (bootstrap, then annotations)", async () => {
    const demonstrations = await rowsOf("answers")
    const bootstrap = await runStage(sft, { init: await base(), demonstrations }, { ...config, steps: 5 })
    const annotated = await runStage(sft, { init: bootstrap, demonstrations }, { ...config, steps: 5 })
    expect(bootstrap.metrics).toMatchObject({ steps: 5, examples: 1, tooLong: 0 })
    const between = (await lossByHand(bootstrap, masks.answers)) / 13
    expect(Math.abs((annotated.metrics["firstLoss"] as number) - between)).toBeLessThanOrEqual(sameInFloat32)
    expect(between).toBeLessThan(bootstrap.metrics["firstLoss"] as number)
  })
  it("gives the same weights again, bit for bit, and others with loss on other tokens", async () => {
    const init = await base()
    const run = async (loss: Demonstration["loss"]) =>
      weights(await runStage(sft, { init, demonstrations: await rowsOf(loss) }, { ...config, steps: 3 }))
    const once = await run("last-answer")
    expect(await run("last-answer")).toBe(once)
    expect(await run("answers")).not.toBe(once)
  })
  it("leaves out dialogues that are too long and would lose their first turn, and counts them", async () => {
    const init = await base()
    const demonstrations = await rowsOf("last-answer", "answers")
    const { metrics } = await runStage(sft, { init, demonstrations }, { ...config, sequenceLength: 66 })
    expect(metrics).toMatchObject({ examples: 1, tooLong: 1 })
    // The remaining one lost its first exchange.
    const short = encodeDemonstrations(tokenizer, [{ messages: dialogue, loss: "answers" }], 66).examples[0]!
    expect(short.lossMask.map(Number).join("")).toBe(masks.answers.slice(22))
    const message = await failureOf(sft, { init, demonstrations: await rowsOf("last-answer") }, { ...config, sequenceLength: 66 })
    expect(message).toBe(
      "Nothing to fine-tune on: got 1 demonstrations, 1 longer than 66 tokens. Raise sequenceLength (the model's context is 80)."
    )
  })
  it("does not count a dialogue with only one remaining exchange among those with several answers of which only the last is trained", async () => {
    const { metrics } = await runStage(
      sft,
      { init: await base(), demonstrations: await rowsOf("answers") },
      { ...config, sequenceLength: 23 }
    )
    expect(metrics).toMatchObject({ examples: 1, tooLong: 0 })
    expect(metrics["lastAlone"]).toBeUndefined()
  })
  it("counts dialogues that the chat format can't represent separately, and names the first if none is left", async () => {
    const init = await base()
    const tagged: Demonstration = { id: "tagged", messages: [user("ab"), assistant("see [INST]")], loss: "answers" }
    const fit: Demonstration = { id: "fit", messages: dialogue, loss: "answers" }
    const mixed = await runStage(sft, { init, demonstrations: await rowsArtifact(Demonstrations, [tagged, fit]) }, config)
    expect(mixed.metrics).toMatchObject({ examples: 1, tooLong: 0, format: 1 })
    expect(await failureOf(sft, { init, demonstrations: await rowsArtifact(Demonstrations, [tagged]) }, config)).toBe(
      "Nothing to fine-tune on: got 1 demonstrations, 1 that the chat format cannot represent. The first row that the format cannot represent is " +
        '"tagged": Message 2 (assistant) contains the tag [INST] of Llama 2\'s chat format. Remove the tag or the dialogue.'
    )
    const long: Demonstration = { id: "long", messages: [user("z".repeat(90)), assistant("a")], loss: "answers" }
    const both = { init, demonstrations: await rowsArtifact(Demonstrations, [tagged, long]) }
    expect(await failureOf(sft, both, { ...config, sequenceLength: 4096 })).toMatch(
      /got 2 demonstrations, 1 longer than 80 tokens and 1 that the chat format cannot represent\. Use a model with a longer context\. The first/
    )
    expect(await failureOf(sft, { init, demonstrations: await rowsOf() }, config)).toBe(
      "Nothing to fine-tune on: got 0 demonstrations. Check the output of the previous stage."
    )
  })
  it("in bfloat16 keeps its weights in bfloat16 and has nearly the same losses", async () => {
    const init = await base()
    const demonstrations = await rowsOf("answers", "last-answer")
    const run = (precision: string) => runStage(sft, { init, demonstrations }, { ...config, learningRate: 1e-3, steps: 8, precision })
    const [full, half] = [await run("float32"), await run("bfloat16")]
    expect(JSON.parse(readFileSync(join(half.path, "config.json"), "utf8"))).toMatchObject({ torch_dtype: "bfloat16" })
    expect(JSON.parse(readFileSync(join(full.path, "config.json"), "utf8"))).toMatchObject({ torch_dtype: "float32" })
    for (const metric of ["firstLoss", "lastLoss"])
      expect(Math.abs((half.metrics[metric] as number) - (full.metrics[metric] as number))).toBeLessThanOrEqual(bfloat16)
    expect(half.metrics["lastLoss"]).toBeLessThan((half.metrics["firstLoss"] as number) - 2 * bfloat16)
  })
  it("with LoRA trains only an adapter: its output is the base with it merged in, and the adapter next to it", async () => {
    const init = await base()
    const demonstrations = await rowsOf("answers", "last-answer")
    const options = { ...config, learningRate: 5e-2, steps: 8, loraRank: 3, loraAlpha: 6, loraTargets: "q_proj, down_proj" }
    const tuned = await runStage(sft, { init, demonstrations }, options)
    expect(tuned.metrics["lastLoss"]).toBeLessThan((tuned.metrics["firstLoss"] as number) - 0.05)
    const [before, after] = await Promise.all([init, tuned].map(({ path }) => Effect.runPromise(loadPolicyFrom(path))))
    const moved = Object.keys(before!.model.parameters).filter(
      (name) => Buffer.compare(before!.model.parameter(name).toBytes(), after!.model.parameter(name).toBytes()) !== 0
    )
    expect(moved).toEqual(
      [0, 1].flatMap((layer) => ["self_attn.q_proj", "mlp.down_proj"].map((name) => `model.layers.${layer}.${name}.weight`))
    )
    const adapter = join(tuned.path, "adapter")
    expect(JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8"))).toMatchObject({
      ...{ r: 3, lora_alpha: 6, use_rslora: false, target_modules: ["q_proj", "down_proj"] }
    })
    // It identifies its base weights, not their location.
    expect(JSON.parse(readFileSync(join(adapter, "base.json"), "utf8"))).toEqual({
      format: 1,
      weights: await Effect.runPromise(weightsDigest(init.path))
    })
    const { model: merged } = await Effect.runPromise(loadPolicyFrom(init.path, { adapter }))
    for (const name of moved) expect(merged.parameter(name).toBytes()).toEqual(after!.model.parameter(name).toBytes())
    // Another scale trains another adapter; rank 0 trains all weights, and leaves no adapter.
    expect(weights(await runStage(sft, { init, demonstrations }, { ...options, rsLora: true }))).not.toBe(weights(tuned))
    expect(weights(await runStage(sft, { init, demonstrations }, { ...options, loraAlpha: 1 }))).not.toBe(weights(tuned))
    const whole = await runStage(sft, { init, demonstrations }, { ...options, loraRank: 0, loraTargets: "all-linear" })
    expect(existsSync(join(whole.path, "adapter"))).toBe(false)
    expect(weights(whole)).toBe(weights(await runStage(sft, { init, demonstrations }, { ...config, learningRate: 5e-2, steps: 8 })))
  })
  it("rejects layers that do not support LoRA, by name", async () => {
    const inputs = { init: await base(), demonstrations: await rowsOf("answers") }
    expect(await failureOf(sft, inputs, { ...config, loraRank: 2, loraTargets: "q_proj,wq" })).toBe(
      'sft: field "loraTargets" must be a comma-separated list of all-linear, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; found "wq".'
    )
    expect(await failureOf(sft, inputs, { ...config, loraTargets: "q_proj" })).toContain(
      "loraTargets: q_proj has no effect with loraRank 0: set the adapter's rank"
    )
  })
})
