/**
 * Your own reward instead of a reward model: a small Llama, pretrained on sums that are mostly wrong, is trained with a checker (sums/checker.ts) as the reward, using GRPO and
 * PPO. It ends with the share of correct answers before and after, on the training sums and on other sums: minutes on two cores.
 */
import { fileURLToPath } from "node:url"
import * as Schema from "effect/Schema"
import { fileAt } from "../runtime/define/node.ts"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import { grpo } from "../stages/critic-free/grpo.ts"
import { evaluatePolicy } from "../stages/evaluation/evaluate-policy.ts"
import { ppo } from "../stages/ppo/ppo.ts"
import { sample } from "../stages/rejection-sampling/sample.ts"
import { score } from "../stages/reward/score.ts"
import { helpfulnessScorer } from "../stages/reward/scorers.ts"
import { pretrain } from "../stages/training/pretrain.ts"
import { tokenizer } from "../stages/training/tokenizer.ts"
import { sumPrompts, sumTexts } from "../stages/world/sums.ts"
import type { Policy, Rows } from "./nodes.ts"
import type { Prompt } from "../schemas/rows.ts"

const Params = Schema.Struct({
  largest: hyperInt(9, "largest summand; summands are integers from 0", { min: 1, max: 99 }),
  steps: hyperInt(1200, "number of optimiser steps of pretraining", { min: 1 }),
  iterations: hyperInt(80, "number of iterations of GRPO and of PPO", { min: 1 }),
  batchSize: hyperInt(96, "answers per iteration; for GRPO in groups of eight", { min: 8 }),
  learningRate: hyper(3e-4, "learning rate of GRPO and PPO, constant", { min: 0 }),
  beta: hyper(0.02, "weight of their KL penalties", { min: 0 })
})

export default Pipeline.make(
  "sums",
  { description: "trains a small model on sums with GRPO and PPO, using a checker instead of a reward model", params: Params },
  ({ batchSize, beta, iterations, largest, learningRate, steps }) => {
    const texts = sumTexts({}, { largest }).named("texts")
    const policy = pretrain(
      { tokenizer: tokenizer({ texts }, { vocabSize: 290 }), texts },
      {
        ...{ dim: 64, layers: 2, heads: 4, kvHeads: 4, ffn: 176, contextLength: 64, sequenceLength: 64 },
        ...{ steps, batchSize: 16, microBatchSize: 16, learningRate: 3e-3, warmupSteps: Math.ceil(steps / 25) }
      }
    ).named("base")
    const checker = helpfulnessScorer({ code: fileAt(fileURLToPath(new URL("sums/checker.ts", import.meta.url))) }).named("checker")
    const prompts = sumPrompts({}, { largest }).named("prompts")
    const heldOut = sumPrompts({}, { largest, split: "heldOut" }).named("held-out")

    const given = { policy, helpfulness: checker, prompts }
    const shared = { iterations, batchSize, learningRate, beta, maxNewTokens: 6 }
    const byGrpo = grpo(given, { ...shared, groupSize: 8, miniBatchSize: Math.ceil(batchSize / 4) }).named("grpo")
    const byPpo = ppo(given, {
      ...{ ...shared, miniBatchSize: Math.ceil(batchSize / 4), valueInit: "policy", valueLearningRate: 1e-3 }
    }).named("ppo")

    /** The share of correct answers, among four to each question. */
    const share = (of: Policy, asked: Rows<Prompt>, name: string) => {
      const completions = sample({ policy: of, prompts: asked }, { k: 4, temperature: 1, maxNewTokens: 6 }).named(`answers-${name}`)
      return evaluatePolicy({ scored: score({ completions, reward: checker }).named(`checked-${name}`) }).named(name)
    }
    return {
      grpo: byGrpo,
      ppo: byPpo,
      before: share(policy, prompts, "before"),
      afterGrpo: share(byGrpo, prompts, "after-grpo"),
      afterPpo: share(byPpo, prompts, "after-ppo"),
      heldOutBefore: share(policy, heldOut, "held-out-before"),
      heldOutAfterGrpo: share(byGrpo, heldOut, "held-out-after-grpo"),
      heldOutAfterPpo: share(byPpo, heldOut, "held-out-after-ppo")
    }
  }
)
