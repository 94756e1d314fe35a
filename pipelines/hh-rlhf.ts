/**
 * A first real run: a file of preference pairs in HH-RLHF's format, through tokenizer, a small Llama pretrained on the dialogues, SFT on the chosen answers,
 * reward models, best of K and SFT on the best, to an evaluation. Start from any Llama in the Hugging Face layout with --set model=<folder>.
 *
 * The pairs are split in two halves by their first question. Each half tunes a chat model and, from it, a reward model, which is judged on the
 * other half: every pair is held out once (cross-validation), from the chat model too, since tuning on the chosen answer of a pair would give
 * away which one it was. Pretraining reads both answers alike. The best of K that one reward model chooses are judged by the other.
 */
import { fileAt } from "../runtime/define/node.ts"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { summary } from "../stages/evaluation/run-summary.ts"
import { preferencePrompts } from "../stages/data/derive.ts"
import { importPreferences } from "../stages/data/import-preferences.ts"
import { evaluateBestOfN, evaluatePolicy } from "../stages/evaluation/evaluate-policy.ts"
import { sample } from "../stages/rejection-sampling/sample.ts"
import { selectBest } from "../stages/rejection-sampling/select-best.ts"
import { evaluateReward } from "../stages/reward/evaluate-reward.ts"
import { score } from "../stages/reward/score.ts"
import { baseModel, chatModel, half, tune } from "./hh-rlhf/models.ts"
import { Params } from "./hh-rlhf/params.ts"

const hhRlhf = (params: Params) => {
  const pairs = importPreferences({ file: fileAt(params.data) }, { shape: "hh-rlhf" }).named("pairs")
  const base = baseModel(pairs, params)
  const chat = chatModel(base, pairs, params, "sft")
  const [selector, judge] = [half(0, base, pairs, params), half(1, base, pairs, params)]
  const accuracy = evaluateReward({ scores: [selector.scores, judge.scores] }).named("reward-accuracy")

  const prompts = preferencePrompts({ preferences: pairs }, { count: params.prompts, safety: true }).named("prompts")
  const drawn = { k: params.k, maxNewTokens: params.maxNewTokens, temperature: 1 }
  const sampled = sample({ policy: chat, prompts }, drawn).named("samples-sft")
  const chosen = score({ completions: sampled, reward: selector.reward }).named("scores-sft")
  const judged = score({ completions: sampled, reward: judge.reward }).named("judged-sft")
  const bestOfK = evaluateBestOfN({ selector: chosen, evaluator: judged }).named("best-of-k")

  const tuned = tune(chat, selectBest({ scored: [chosen] }, { unfinished: "keep" }), params, 2, "rejection-sampling")
  const resampled = sample({ policy: tuned, prompts }, drawn).named("samples-rejection-sampling")
  const after = score({ completions: resampled, reward: judge.reward }).named("judged-rejection-sampling")

  return {
    policy: tuned,
    reward: selector.reward,
    accuracy,
    bestOfK,
    summary: summary({
      accuracy,
      bestOfK,
      before: evaluatePolicy({ scored: judged }).named("rewards-sft"),
      after: evaluatePolicy({ scored: after }).named("rewards-rejection-sampling")
    })
  }
}

export default Pipeline.make(
  "hh-rlhf",
  { description: "SFT, reward models and rejection sampling on preference pairs", params: Params },
  hhRlhf
)
