/**
 * Up-sampling of factual sources (Llama 2 §2.1): base models trained on the same number of texts, with an increasing share of a small reference work. The reference
 * work states rare facts; all other texts are dialogues, which do not mention them. Evaluated by how many facts a model recalls, and by its loss on held-out
 * dialogues, over several seeds, each with new facts, texts, order and weights.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { mixSources } from "../../stages/data/mix-sources.ts"
import { factRecall } from "../../stages/evaluation/fact-recall.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { tokenizer } from "../../stages/training/tokenizer.ts"
import { worldTexts } from "../../stages/world/data.ts"
import { worldFactQuestions, worldFactTexts } from "../../stages/world/facts.ts"

const Params = Schema.Struct({
  shares: Schema.Array(Schema.Number.check(Schema.isGreaterThan(0), Schema.isLessThan(1)))
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed([0.01, 0.03, 0.1, 0.2, 0.4])))
    .annotate({ description: "list of the reference work's shares of the texts, one set of models each; default [0.01,0.03,0.1,0.2,0.4]" }),
  seeds: hyperInt(3, "number of models per share, with seeds 1, 2, ...", { min: 1 }),
  factTexts: hyperInt(40, "number of texts in the reference work, with five statements each", { min: 1 }),
  texts: hyperInt(6000, "total number of training texts per model", { min: 100 }),
  heldOut: hyperInt(200, "number of held-out dialogues", { min: 1 }),
  vocabSize: hyperInt(600, "size of the tokenizer's vocabulary", { min: 300 }),
  dim: hyperInt(64, "width of the models, a multiple of 8", { min: 8 }),
  layers: hyperInt(2, "number of their transformer blocks", { min: 1 }),
  steps: hyperInt(600, "number of optimiser steps, with 8 sequences of 128 tokens each", { min: 1 }),
  learningRate: hyper(3e-3, "peak", { min: 0 })
})

export default Pipeline.make(
  "factual-sources",
  {
    description: "base models on mixtures with an increasing share of a factual source, evaluated by the facts they recall",
    params: Params
  },
  (params) => {
    const { dim, factTexts: count, shares } = params
    return Object.fromEntries(
      Array.from({ length: params.seeds }, (_, i) => i + 1).flatMap((seed) => {
        const reference = worldFactTexts({}, { count, seed }).named(`reference-${seed}`)
        const dialogues = worldTexts({}, { count: params.texts, seed }).named(`dialogues-${seed}`)
        const questions = worldFactQuestions({}, { seed }).named(`questions-${seed}`)
        const heldOut = worldTexts({}, { count: params.heldOut, seed: 1000 + seed }).named(`held-out-${seed}`)
        const mixture = (share: number, name: string) =>
          mixSources(
            { sources: [dialogues, reference] },
            { names: ["dialogues", "reference"], shares: [1 - share, share], rows: params.texts, seed }
          ).named(name)
        const pieces = tokenizer({ texts: mixture(0.5, `tokenizer-texts-${seed}`) }, { vocabSize: params.vocabSize }).named(
          `tokenizer-${seed}`
        )
        return shares.map((share) => {
          const name = `${100 * share}%-${seed}`
          const base = pretrain(
            { tokenizer: pieces, texts: mixture(share, `texts-${name}`) },
            {
              ...{ dim, layers: params.layers, heads: 4, kvHeads: 4, ffn: Math.ceil((dim * 8) / 3 / 16) * 16 },
              ...{ contextLength: 384, sequenceLength: 128, steps: params.steps, batchSize: 8, microBatchSize: 8 },
              ...{ learningRate: params.learningRate, warmupSteps: Math.ceil(params.steps / 25), seed }
            }
          ).named(`base-${name}`)
          return [name, factRecall({ policy: base, questions, texts: heldOut }).named(`recall-${name}`)]
        })
      })
    )
  }
)
