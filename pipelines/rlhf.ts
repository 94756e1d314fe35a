/**
 * The recipe on your own data: preference pairs and, optionally, demonstrations, prompts and a model. It consists of SFT, reward models (also for safety if
 * the pairs have safety labels), rejection sampling, PPO, and their evaluation on held-out pairs and prompts, compared with controls. See docs/own-data.md.
 *
 * The reward models' selections, and the models tuned to them, are evaluated by other reward models ("judges"), which were trained on other pairs and
 * therefore do not share their errors.
 */
import * as Pipeline from "../runtime/define/pipeline.ts"
import { evaluateBestOfN } from "../stages/evaluation/evaluate-policy.ts"
import { ppoDiagnostics } from "../stages/ppo/diagnostics.ts"
import { ppo } from "../stages/ppo/ppo.ts"
import { keepBest } from "../stages/rejection-sampling/keep-best.ts"
import { sample } from "../stages/rejection-sampling/sample.ts"
import { selectBest, selectRandom } from "../stages/rejection-sampling/select-best.ts"
import { runReport } from "../stages/report/run-report.ts"
import type { Policy } from "./nodes.ts"
import { collected } from "./rlhf/collected.ts"
import { dataOf } from "./rlhf/data.ts"
import { baseModel, rewardModels, rewardPairs, rewardQuality, scoredBy, tune } from "./rlhf/models.ts"
import { publishedSets } from "./rlhf/published-sets.ts"
import { checkParams, Params, ppoSteps, ppoTraining, sampling } from "./rlhf/params.ts"

const rlhf = (params: Params) => {
  checkParams(params)
  const data = dataOf(params)
  const chat = tune(baseModel(data, params), data.demonstrations, params, { epochs: params.sftEpochs }, "sft")
  const pairs = rewardPairs(data, collected(chat, data, params), params)
  const rewards = rewardModels(chat, pairs, "training", params)
  const judges = rewardModels(chat, pairs, "judging", params)

  const { k, tuneSteps: steps } = params
  const unfinished = { unfinished: "keep" as const }
  const drawn = sample({ policy: chat, prompts: data.prompts }, { ...sampling(params), k }).named("samples")
  const scored = scoredBy(rewards, drawn, params, "scores")
  const best = selectBest({ scored: [scored] }, unfinished).named("best")
  // The random control draws from the same answers as `best`: those with a score (not empty, without tags of the chat format).
  const candidates = keepBest({ scored }, { count: k, ...unfinished }).named("scored-samples")
  const random = selectRandom({ completions: [candidates] }, unfinished).named("random")
  const tuned = tune(chat, best, params, { steps }, "rejection-sampling")
  const { prompts, stopping: heldOut } = data
  const policy = ppo(
    { policy: tuned, ...rewards, prompts, heldOut, ...(params.loraRank > 0 ? { base: chat } : {}) },
    ppoTraining(params)
  ).named("ppo")

  const answersOf = (name: string, of: Policy, answers: number) =>
    sample({ policy: of, prompts: data.evaluation }, { ...sampling(params), k: answers }).named(`answers-${name}`)
  const judged = (name: string, of: Policy) => scoredBy(judges, answersOf(name, of, 1), params, `judged-${name}`)
  const several = answersOf("of-sft", chat, k)
  const bestOfK = evaluateBestOfN({
    selector: scoredBy(rewards, several, params, "best-of-k-scores"),
    evaluator: scoredBy(judges, several, params, "best-of-k-judged")
  }).named("best-of-k")
  const longer = tune(chat, data.demonstrations, params, { steps: steps + ppoSteps(params) }, "sft-as-many-steps")
  const versions = { sft: chat, "rejection-sampling": tuned, ppo: policy }
  const controls = { "sft-as-many-steps": longer, "random-of-k": tune(chat, random, params, { steps }, "random-of-k") }
  const published = publishedSets({ sft: chat, "rejection-sampling": tuned, ...controls, ppo: policy }, data, params)
  const judgedAll = (of: Readonly<Record<string, Policy>>) => Object.entries(of).map(([name, one]) => judged(name, one))

  const report = runReport(
    {
      ...{ versions: judgedAll(versions), controls: judgedAll(controls), bestOfK },
      ...{ ppo: ppoDiagnostics({ policy }), ...rewardQuality(rewards, judges, data, pairs, params) },
      ...published
    },
    { versions: Object.keys(versions), controls: Object.keys(controls) }
  ).named("report")
  return { policy, sft: chat, ...rewards, report }
}

export default Pipeline.make(
  "rlhf",
  { description: "SFT, reward models, rejection sampling and PPO on your own preference pairs", params: Params },
  rlhf
)
