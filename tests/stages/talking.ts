/** A tiny policy that talks, for stages that sample. */
import * as Effect from "effect/Effect"
import { noGrad, scoped } from "../../engine/tensor.ts"
import { saveCheckpoint } from "../../models/checkpoint.ts"
import { llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { type GeneralReward, type HelpfulnessReward, Policy, type SafetyReward } from "../../schemas/checkpoint.ts"
import type { Message } from "../../schemas/rows.ts"
import { packedBatches } from "../../stages/training/sft.ts"
import { languageModelLoss } from "../../stages/common/sequences.ts"
import { train } from "../../stages/training/train.ts"
import { smallConfig, smallTokenizer } from "../models/small.ts"
import { sharpen } from "../models/tensors.ts"
import { encodeDemonstrations, packExamples } from "./encoded.ts"
import { artifact } from "./running.ts"

export const tokenizer = smallTokenizer()

/** A policy with one small block and context 160, trained briefly on dialogues if there are any; otherwise its answers are random. */
export const talkingPolicy = async (seed: number, dialogues: ReadonlyArray<ReadonlyArray<Message>> = []) => {
  const model = initLlama(
    llamaConfig({ vocabSize: tokenizer.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 160 }),
    { seed }
  )
  if (dialogues.length === 0) sharpen(model, 8)
  else {
    const { examples } = encodeDemonstrations(
      tokenizer,
      dialogues.map((messages) => ({ messages, loss: "answers" as const })),
      128
    )
    const rows = packExamples(examples, { length: 128, padId: tokenizer.padId })
    await Effect.runPromise(
      train({
        ...{ parameters: model.parameters, fit: { microBatch: { rows: rows.length }, recompute: 0 } },
        batches: packedBatches(
          () => rows,
          { batchSize: rows.length },
          (part) => languageModelLoss(model, part, { device: "cpu", isolate: true })
        ),
        steps: 60,
        schedule: () => 0.02,
        maxNorm: 1,
        weightDecay: 0,
        progress: () => Effect.void
      })
    )
  }
  return artifact(Policy, (slot) => saveCheckpoint(slot, { model, tokenizer }))
}

/** A new reward model; a larger `factor` makes its scores differ more. */
export const newReward = (
  type: typeof HelpfulnessReward | typeof SafetyReward | typeof GeneralReward,
  seed: number,
  { factor = 1, maxPositions = 160 }: { readonly factor?: number; readonly maxPositions?: number } = {}
) => {
  const model = initRewardModel(initLlama(smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions }), { seed }), { seed })
  scoped(() => noGrad(() => void model.head.mul_(factor)))
  return artifact<any>(type, (slot) => saveCheckpoint(slot, { model, tokenizer }))
}
