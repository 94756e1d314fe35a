/**
 * A few steps of every part of the recipe on one large model, with the files of bench/fits/make.ts: does it fit, and how long does each part take?
 *
 *     caravan run bench/fits/pipeline.ts --set folder=<folder> --device cuda --until sft
 *     caravan run bench/fits/pipeline.ts --set folder=<folder> --device cuda --until ppo        # or dpo, rloo, grpo
 *
 * SFT trains all weights on sequences of 4096 tokens. Reward models, fine-tuning on the best of K, PPO, DPO, RLOO and GRPO train adapters.
 */
import { join } from "node:path"
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { fileAt } from "../../runtime/define/node.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { importDemonstrations } from "../../stages/data/import-demonstrations.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { importPrompts } from "../../stages/data/import-prompts.ts"
import { grpo } from "../../stages/critic-free/grpo.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { selectBest } from "../../stages/rejection-sampling/select-best.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { sft } from "../../stages/training/sft.ts"

const Params = Schema.Struct({
  folder: Schema.String.annotate({ description: "the folder made by bench/fits/make.ts" }),
  sequenceLength: hyperInt(4096, "tokens per SFT sequence", { min: 16 }),
  sftSteps: hyperInt(2, "steps of SFT with all weights, 16 sequences each", { min: 1 }),
  loraRank: hyperInt(16, "rank of every adapter", { min: 1 }),
  k: hyperInt(4, "answers per prompt", { min: 1 }),
  ppoIterations: hyperInt(2, "PPO iterations", { min: 1 }),
  ppoBatch: hyperInt(512, "answers per PPO iteration", { min: 1 }),
  maxNewTokens: hyperInt(234, "tokens per answer", { min: 1 })
})

export default Pipeline.make(
  "fits",
  { description: "a few steps of every part of the recipe, to see whether it fits", params: Params },
  ({ folder, k, loraRank, maxNewTokens, ppoBatch, ppoIterations, sequenceLength, sftSteps }) => {
    const file = (name: string) => fileAt(join(folder, name))
    const precision = "bfloat16"
    const base = importPolicy({ folder: file("model") }).named("base")
    const pairs = importPreferences({ file: file("preferences.jsonl") }, { shape: "prompt-chosen-rejected" })
      .named("pairs")
      .expecting({ rows: 256, promptTokens: 92, responseTokens: 182 })
    const prompts = importPrompts({ file: file("prompts.jsonl") })
      .named("prompts")
      .expecting({ rows: 1024, promptTokens: 104 })
    const asked = importPrompts({ file: file("prompts-best-of-k.jsonl") })
      .named("prompts-best-of-k")
      .expecting({ rows: 32, promptTokens: 104 })
    const demonstrations = importDemonstrations({ file: file("demonstrations.jsonl") }).named("demonstrations")
    const tuned = sft({ init: base, demonstrations }, { sequenceLength, batchSize: 16, steps: sftSteps, precision }).named("sft")

    const lora = { loraRank, precision } as const
    const reward = { ...lora, batchPairs: 64 }
    const helpfulness = helpfulnessRewardModel({ init: base, pairs }, reward).named("helpfulness")
    const safety = safetyRewardModel({ init: base, pairs }, reward).named("safety")
    const completions = sample({ policy: base, prompts: asked }, { k, maxNewTokens, precision, batchSize: 64 })
      .named("samples")
      .expecting({ responseTokens: maxNewTokens })
    const scored = scoreCombined({ completions, helpfulness, safety }, { precision }).named("scores")
    const best = selectBest({ scored: [scored] }, { unfinished: "keep" }).named("best")
    const policy = sft({ init: base, demonstrations: best }, { ...lora, sequenceLength, batchSize: 4, steps: 2 }).named("best-of-k")
    const rollouts = { iterations: ppoIterations, batchSize: ppoBatch, maxNewTokens, inferenceBatchSize: 64 }
    return {
      sft: tuned,
      ppo: ppo({ policy, helpfulness, safety, prompts, base }, { ...lora, ...rollouts }),
      dpo: dpo({ policy: base, pairs }, { ...lora, batchPairs: 64 }),
      rloo: rloo({ policy, helpfulness, safety, prompts, base }, { ...lora, ...rollouts, groupSize: 4 }),
      grpo: grpo({ policy, helpfulness, safety, prompts, base }, { ...lora, ...rollouts, groupSize: 64 })
    }
  }
)
