/** The Llama compared with transformers: logits, loss, every gradient, three optimiser steps, for grouped-query and for tied models. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { clipGradientNorm, gradientNorm } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { cosineSchedule } from "../../engine/schedule.ts"
import { clearGradients, crossEntropy, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { generate } from "../../models/sampler.ts"
import { loadLlama } from "../../models/weights.ts"
import { devices } from "../devices.ts"
import { float32 } from "../tolerances.ts"
import { largestDifference } from "./small.ts"
import { tensorsIn } from "./tensors.ts"

const golden = async (name: string) => {
  const folder = new URL(`../golden/${name}/`, import.meta.url).pathname
  return { folder: `${folder}model`, expected: await tensorsIn(`${folder}expected.safetensors`) }
}

for (const { device, skip } of devices) {
  for (const name of ["llama-gqa", "llama-mha-tied"]) {
    describe.skipIf(skip)(`${name} on ${device}`, async () => {
      const { folder, expected } = await golden(name)
      const load = () => Effect.runPromise(loadLlama(folder, { device }))
      const ids = skip ? expected.input_ids! : expected.input_ids!.to({ device })
      /** Distance of a tensor from the reference tensor of the same name. */
      const away = (actual: Tensor, key: string) => largestDifference(actual.detach().toNumbers(), expected[key]!.toNumbers())
      /** Loss over the tokens after the first five, as in the reference. */
      const loss = (model: Awaited<ReturnType<typeof load>>) => {
        const [batch, length] = ids.shape as [number, number]
        const targets = expected.input_ids!.toNumbers().map((id, i) => (i % length < 5 ? -100 : id))
        const next = Int32Array.from(
          { length: batch * (length - 1) },
          (_, i) => targets[Math.floor(i / (length - 1)) * length + (i % (length - 1)) + 1]!
        )
        const logits = model.forward(ids).slice(1, 0, length - 1)
        return crossEntropy(logits.reshape(-1, model.config.vocabSize), tensor(next, { dtype: "int64", device }))
      }

      it("logits equal transformers'", async () => {
        const model = await load()
        const actual = scoped(() => noGrad(() => away(model.forward(ids), "logits")))
        expect(actual).toBeLessThanOrEqual(float32)
      })

      it("logits of a left-padded batch equal transformers' except at padding", async () => {
        const model = await load()
        const mask = expected.leftpad_attention_mask!
        const actual = scoped(() =>
          noGrad(() => model.forward(expected.leftpad_input_ids!.to({ device }), { attentionMask: mask.to({ device }) }).toNumbers())
        )
        const wanted = expected.leftpad_logits!.toNumbers()
        const on = mask.toNumbers()
        const vocab = model.config.vocabSize
        const counted = (values: Array<number>) => values.filter((_, i) => on[Math.floor(i / vocab)] === 1)
        expect(largestDifference(counted(actual), counted(wanted))).toBeLessThanOrEqual(float32)
      })

      it("loss, every gradient and their norm equal PyTorch's", async () => {
        const model = await load()
        scoped(() => {
          const value = loss(model)
          expect(away(value, "sft_loss")).toBeLessThanOrEqual(float32)
          value.backward()
        })
        const far = Object.entries(model.parameters).filter(([parameter, value]) =>
          scoped(() => !(away(value.grad()!, `grad.${parameter}`) <= float32))
        )
        expect(far.map(([parameter]) => parameter)).toEqual([])
        expect(Math.abs(gradientNorm(model.parameters) - expected.sft_grad_norm!.item())).toBeLessThanOrEqual(float32)
        expect(Object.keys(expected).filter((key) => key.startsWith("grad.")).length).toBe(Object.keys(model.parameters).length)
        clearGradients(Object.values(model.parameters))
      })

      it("three steps of AdamW with clipping and the cosine schedule give PyTorch's weights", async () => {
        const model = await load()
        const optimizer = new AdamW({ parameters: model.parameters })
        const at = cosineSchedule({ peak: 1e-3, steps: 3, warmup: 1 })
        const rates: Array<number> = []
        const losses: Array<number> = []
        for (let step = 0; step < 3; step++) {
          rates.push(at(step))
          losses.push(
            scoped(() => {
              const value = loss(model)
              value.backward()
              clipGradientNorm(model.parameters, 1)
              return value.item()
            })
          )
          optimizer.step(at(step))
        }
        expect(largestDifference(rates, expected.after3_lrs!.toNumbers())).toBeLessThanOrEqual(1e-12)
        expect(largestDifference(losses, expected.after3_losses!.toNumbers())).toBeLessThanOrEqual(float32)
        const far = Object.entries(model.parameters).filter(([parameter, value]) => !(away(value, `after3.${parameter}`) <= float32))
        expect(far.map(([parameter]) => parameter)).toEqual([])
      })

      it("greedy decoding with the cache gives transformers' tokens and log-probabilities", async () => {
        const model = await load()
        const wanted = expected.greedy_ids!.toNumbers()
        const [batch, length] = expected.greedy_ids!.shape as [number, number]
        const rows = (values: Array<number>, width: number) =>
          Array.from({ length: batch }, (_, row) => values.slice(row * width, (row + 1) * width))
        const generated = generate(
          model,
          rows(wanted, length).map((row) => row.slice(0, 6)),
          { maxNewTokens: length - 6, temperature: 0, eosId: undefined, padId: 0 }
        )
        expect(generated.map(({ tokens }) => tokens)).toEqual(rows(wanted, length).map((row) => row.slice(6)))
        const logProbabilities = rows(expected.greedy_logprobs!.toNumbers(), length - 1).flatMap((row) => row.slice(5))
        expect(
          largestDifference(
            generated.flatMap((row) => row.logProbabilities),
            logProbabilities
          )
        ).toBeLessThanOrEqual(float32)
      })

      it("log-probabilities and entropy of the greedy continuation equal transformers'", async () => {
        const model = await load()
        const greedy = expected.greedy_ids!.to({ device })
        const length = greedy.size(1)
        scoped(() =>
          noGrad(() => {
            const logProbabilities = model
              .forward(greedy)
              .slice(1, 0, length - 1)
              .logSoftmax(-1)
            const chosen = logProbabilities.gather(2, greedy.slice(1, 1, length).unsqueeze(-1)).squeeze(-1)
            expect(away(chosen, "greedy_logprobs")).toBeLessThanOrEqual(float32)
            expect(away(logProbabilities.exp().mul(logProbabilities).sum(-1).neg(), "greedy_entropy")).toBeLessThanOrEqual(float32)
          })
        )
      })
    })
  }
}
