/** The other families of the Llama line compared with transformers: logits, loss and every gradient, decoding with the cache; packed rows and padded prompts compared with each alone. */
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { clearGradients, crossEntropy, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { fromHuggingFace, toHuggingFace } from "../../models/config-file.ts"
import type { Llama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { initLora, linearLayers } from "../../models/lora.ts"
import { writeSafetensors } from "../../models/safetensors.ts"
import { generate } from "../../models/sampler.ts"
import { loadLlama, loadScalarModel } from "../../models/weights.ts"
import { languageModelLoss } from "../../stages/common/sequences.ts"
import { devices } from "../devices.ts"
import { float32 } from "../tolerances.ts"
import { largestDifference } from "./small.ts"
import { tensorsIn } from "./tensors.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-families-"))
afterAll(() => rmSync(root, { recursive: true }))
const run = Effect.runPromise

const golden = async (name: string) => {
  const folder = fileURLToPath(new URL(`../golden/families/${name}/`, import.meta.url))
  return { folder: join(folder, "model"), expected: await tensorsIn(join(folder, "expected.safetensors")) }
}

/** Rows of equal length. */
const rowsOf = (values: ReadonlyArray<number>, width: number): Array<Array<number>> =>
  Array.from({ length: values.length / width }, (_, row) => values.slice(row * width, (row + 1) * width))

for (const { device, skip } of devices) {
  for (const name of ["llama3-rope", "mistral-window", "qwen2-bias", "qwen3-qknorm"]) {
    describe.skipIf(skip)(`${name} on ${device}`, async () => {
      const { folder, expected } = await golden(name)
      const load = () => run(loadLlama(folder, { device }))
      const place = (ids: Tensor) => (skip ? ids : ids.to({ device }))
      const ids = place(expected.input_ids!)
      const [batch, length] = ids.shape as [number, number]
      const rows = rowsOf(expected.input_ids!.toNumbers(), length)
      const away = (actual: Tensor, key: string) => largestDifference(actual.detach().toNumbers(), expected[key]!.toNumbers())
      /** Log-probabilities (T - 1,) of a sequence's tokens after the first, by a full forward pass. */
      const ofSequence = (model: Llama, tokens: ReadonlyArray<number>): Array<number> =>
        scoped(() =>
          noGrad(() =>
            model
              .forward(tensor([tokens], { dtype: "int64", device }))
              .slice(1, 0, tokens.length - 1)
              .logSoftmax(-1)
              .gather(2, tensor([tokens.slice(1).map((id) => [id])], { dtype: "int64", device }))
              .toNumbers()
          )
        )

      it("logits equal transformers'", async () => {
        const model = await load()
        expect(scoped(() => noGrad(() => away(model.forward(ids), "logits")))).toBeLessThanOrEqual(float32)
      })

      it("logits of a left-padded batch equal transformers' except at padding", async () => {
        const model = await load()
        const mask = expected.leftpad_attention_mask!
        const actual = scoped(() =>
          noGrad(() => model.forward(place(expected.leftpad_input_ids!), { attentionMask: place(mask) }).toNumbers())
        )
        const on = mask.toNumbers()
        const counted = (values: Array<number>) => values.filter((_, i) => on[Math.floor(i / model.config.vocabSize)] === 1)
        expect(largestDifference(counted(actual), counted(expected.leftpad_logits!.toNumbers()))).toBeLessThanOrEqual(float32)
      })

      it("loss and every gradient equal PyTorch's", async () => {
        const model = await load()
        scoped(() => {
          const targets = rows.flatMap((row) => row.map((id, i) => (i < 5 ? -100 : id)).slice(1))
          const logits = model.forward(ids).slice(1, 0, length - 1)
          const value = crossEntropy(
            logits.reshape(-1, model.config.vocabSize),
            tensor(Int32Array.from(targets), { dtype: "int64", device })
          )
          expect(away(value, "sft_loss")).toBeLessThanOrEqual(float32)
          value.backward()
        })
        const far = Object.entries(model.parameters).filter(([parameter, value]) =>
          scoped(() => !(away(value.grad()!, `grad.${parameter}`) <= float32))
        )
        expect(far.map(([parameter]) => parameter)).toEqual([])
        expect(Object.keys(expected).filter((key) => key.startsWith("grad.")).length).toBe(Object.keys(model.parameters).length)
        clearGradients(Object.values(model.parameters))
      })

      it("greedy decoding with the cache gives transformers' tokens and log-probabilities", async () => {
        const model = await load()
        const width = expected.greedy_ids!.size(1)
        const wanted = rowsOf(expected.greedy_ids!.toNumbers(), width)
        const generated = generate(
          model,
          wanted.map((row) => row.slice(0, 6)),
          { maxNewTokens: width - 6, temperature: 0, eosId: undefined, padId: 0 }
        )
        expect(generated.map(({ tokens }) => tokens)).toEqual(wanted.map((row) => row.slice(6)))
        const logProbabilities = rowsOf(expected.greedy_logprobs!.toNumbers(), width - 1).flatMap((row) => row.slice(5))
        const found = generated.flatMap((row) => row.logProbabilities)
        expect(largestDifference(found, logProbabilities)).toBeLessThanOrEqual(float32)
      })

      it("decoding prompts of different lengths with the cache gives the log-probabilities of the full forward pass", async () => {
        const model = await load()
        // Some longer than Mistral's window of 16 here, some shorter; one ends early, so that the batch shrinks.
        const prompts = [rows[0]!.slice(0, 22), rows[1]!.slice(0, 3), rows[0]!.slice(2, 12), rows[1]!.slice(4, 21)]
        const options = { maxNewTokens: 24, temperature: 0, padId: 0 }
        const free = generate(model, prompts, { ...options, eosId: undefined })
        const generated = generate(model, prompts, { ...options, eosId: free[1]!.tokens[4]! })
        expect(generated[1]!.tokens.length).toBeLessThan(24)
        generated.forEach(({ logProbabilities, tokens }, i) => {
          const whole = ofSequence(model, [...prompts[i]!, ...tokens]).slice(prompts[i]!.length - 1)
          expect(largestDifference(logProbabilities, whole)).toBeLessThanOrEqual(float32)
        })
      })

      it("a packed row gives the loss and the gradients of its examples computed separately", async () => {
        const model = await load()
        const examples = [rows[0]!.slice(0, 20), rows[1]!.slice(0, 3)]
        const rowOf = (parts: ReadonlyArray<ReadonlyArray<number>>) => ({
          tokens: Int32Array.from(parts.flat()),
          lossMask: Uint8Array.from(parts.flatMap((part) => part.map((_, i) => (i > 0 ? 1 : 0)))),
          segments: Int32Array.from(parts.flatMap((part, segment) => part.map(() => segment)))
        })
        const of = (packed: ReadonlyArray<ReturnType<typeof rowOf>>) => {
          const losses = packed.map((row) =>
            scoped(() => {
              const loss = languageModelLoss(model, [row], { device, isolate: true })
              loss.backward()
              return loss.item()
            })
          )
          const gradients = Object.values(model.parameters).map((parameter) => scoped(() => parameter.grad()!.toNumbers()))
          clearGradients(Object.values(model.parameters))
          return { loss: losses.reduce((a, b) => a + b, 0), gradients }
        }
        const [together, apart] = [of([rowOf(examples)]), of(examples.map((example) => rowOf([example])))]
        expect(Math.abs(together.loss - apart.loss)).toBeLessThanOrEqual(float32)
        together.gradients.forEach((gradient, i) => expect(largestDifference(gradient, apart.gradients[i]!)).toBeLessThanOrEqual(float32))
      })

      it("an adapter on all linear layers starts without effect and is merged into them; a reward model has a score at each token", async () => {
        const base = await load()
        const before = scoped(() => noGrad(() => base.forward(ids).toNumbers()))
        const lora = initLora(base.config, { rank: 2, alpha: 4, rankStabilised: false, targets: linearLayers }, { seed: 1, device })
        const model = base.withAdapter(lora)
        expect(
          largestDifference(
            scoped(() => noGrad(() => model.forward(ids).toNumbers())),
            before
          )
        ).toBe(0)
        for (const [parameter, value] of Object.entries(lora.parameters)) if (parameter.includes("lora_B")) noGrad(() => value.add_(0.1))
        const adapted = scoped(() => noGrad(() => model.forward(ids).toNumbers()))
        expect(largestDifference(adapted, before)).toBeGreaterThan(0.01)
        expect(
          largestDifference(
            scoped(() => noGrad(() => model.merge().forward(ids).toNumbers())),
            adapted
          )
        ).toBeLessThanOrEqual(float32)

        const reward = initRewardModel(await load(), { seed: 1 })
        const path = join(root, `${name}-${device}`)
        cpSync(folder, path, { recursive: true })
        await noGrad(() => writeSafetensors(join(path, "model.safetensors"), reward.parameters))
        const loaded = await run(loadScalarModel(path, { device }))
        const scores = scoped(() => noGrad(() => loaded.scores(ids).toNumbers()))
        expect(scores.length).toBe(batch * length)
        expect(
          largestDifference(
            scores,
            scoped(() => noGrad(() => reward.scores(ids).toNumbers()))
          )
        ).toBe(0)
      })
    })
  }
}

describe("config.json", () => {
  const fields = [
    "model_type",
    "architectures",
    "head_dim",
    "sliding_window",
    "rope_parameters",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "num_key_value_heads"
  ]
  it.each(["llama3-rope", "mistral-window", "qwen2-bias", "qwen3-qknorm"])(
    "of %s is written as transformers wrote it, and read back equal",
    async (name) => {
      const path = fileURLToPath(new URL(`../golden/families/${name}/model/config.json`, import.meta.url))
      const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>
      const config = await run(fromHuggingFace(json, path))
      const written = toHuggingFace(config, { scalarHead: false, dtype: "float32", bosId: 1, eosId: 2, padId: 0 })
      for (const field of fields.filter((name) => json[name] !== undefined && json[name] !== null))
        expect([field, written[field]]).toEqual([field, json[field]])
      expect(await run(fromHuggingFace(written, path))).toEqual(config)
      const reward = toHuggingFace(config, { scalarHead: true, dtype: "float32", bosId: 1, eosId: 2, padId: 0 })
      expect(reward["architectures"]).toEqual([
        (json["architectures"] as ReadonlyArray<string>)[0]!.replace("CausalLM", "SequenceClassification")
      ])
    }
  )
})
