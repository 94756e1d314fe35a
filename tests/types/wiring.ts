/** Wiring that must not compile. Each @ts-expect-error is itself an error if the line below it compiles: then the types have become weaker. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { fileAt, type Node } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { runEvents } from "../../runtime/run/event-stream.ts"
import type { RunEvent } from "../../runtime/run/events.ts"
import type { RunOptions } from "../../runtime/run/options.ts"
import { run } from "../../runtime/run/run.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { sweep } from "../../runtime/run/sweep.ts"
import type { Checkpoint, Dataset, Report } from "../../schemas/artifact.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import type { Demonstration, Preference, Prompt, ScoredCompletion } from "../../schemas/rows.ts"
import { bestHelpfulnessReward, bestSafetyReward } from "../../stages/reward/best-reward.ts"
import { evaluateReward, type RewardAccuracy, safetyRecall } from "../../stages/reward/evaluate-reward.ts"
import { mixPreferences } from "../../stages/data/mix.ts"
import { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { helpfulnessMixture, safetyMixture } from "../../stages/reward/reward-mixture.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { score } from "../../stages/reward/score.ts"
import { helpfulnessScorer, safetyScorer } from "../../stages/reward/scorers.ts"
import { grpo } from "../../stages/critic-free/grpo.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { selectBest } from "../../stages/rejection-sampling/select-best.ts"
import { sft } from "../../stages/training/sft.ts"

declare const policy: Node<Checkpoint<"policy">>
declare const helpfulness: Node<Checkpoint<"helpfulness-reward">>
declare const safety: Node<Checkpoint<"safety-reward">>
declare const demonstrations: Node<Dataset<Demonstration>>
declare const pairs: Node<Dataset<Preference>>
declare const prompts: Node<Dataset<Prompt>>
declare const scored: Node<Dataset<ScoredCompletion>>

// Code that must compile.
const tuned: Node<Checkpoint<"policy">> = sft({ init: policy, demonstrations }, { learningRate: 1e-4, seed: 2 })
const trained: Node<Checkpoint<"helpfulness-reward">> = helpfulnessRewardModel({ init: tuned, pairs }, { margin: "large" })
const completions = sample({ policy: tuned, prompts })
score({ completions, reward: trained })
score({ completions, reward: safety })
selectBest({ scored: [scored, scored] }).named("best")

// A stage over shards is applied like the stage itself.
const sampleInParts = Stage.map(sample, { over: "prompts", rows: 1000 })
const inParts: typeof completions = sampleInParts({ policy: tuned, prompts }, { seed: 3 })

// Over a missing input, over an input that is not a dataset, or a stage whose output is not one.
// @ts-expect-error
Stage.map(sample, { over: "prompt", rows: 1000 })
// @ts-expect-error
Stage.map(sample, { over: "policy", rows: 1000 })
// @ts-expect-error
Stage.map(sft, { over: "demonstrations", rows: 1000 })
// @ts-expect-error
sampleInParts({ policy: helpfulness, prompts })

// A reward model is not a policy.
// @ts-expect-error
sft({ init: helpfulness, demonstrations })
// @ts-expect-error
sample({ policy: safety, prompts })
// A policy is not a reward model.
// @ts-expect-error
score({ completions, reward: policy })

// The two reward models can't be swapped.
// @ts-expect-error
const swapped: Node<Checkpoint<"safety-reward">> = helpfulnessRewardModel({ init: policy, pairs })
// @ts-expect-error
const alsoSwapped: Node<Checkpoint<"helpfulness-reward">> = safety

// Datasets with other rows.
// @ts-expect-error
sft({ init: policy, demonstrations: pairs })
// @ts-expect-error
helpfulnessRewardModel({ init: policy, pairs: demonstrations })

// A missing input, an extra input, a list instead of one input, one input instead of a list.
// @ts-expect-error
sft({ init: policy })
// @ts-expect-error
sft({ init: policy, demonstrations, reward: helpfulness })
// @ts-expect-error
sft({ init: [policy], demonstrations })
// @ts-expect-error
selectBest({ scored })

// Unknown, misspelt and mistyped hyperparameters; a required one that is missing.
// @ts-expect-error
sft({ init: policy, demonstrations }, { learningrate: 1e-4 })
// @ts-expect-error
sft({ init: policy, demonstrations }, { epochs: "2" })
// @ts-expect-error
helpfulnessRewardModel({ init: policy, pairs }, { margin: "medium" })
// @ts-expect-error
mixPreferences({ datasets: [pairs, pairs] })
// @ts-expect-error
evaluateReward({ scores: [helpfulness] })

// A pipeline run from a program: its parameters and outputs are known.
declare const options: RunOptions
const Params = Schema.Struct({ data: Schema.String, k: hyperInt(4, "completions a prompt") })
const pipeline = Pipeline.make("typed", { params: Params }, () => ({ tuned, trained }))
const ran = Effect.map(run(pipeline, { data: "pairs.jsonl", k: 2 }, options), ({ outputs }) => [
  outputs.tuned?.path,
  outputs.trained?.digest
])
// @ts-expect-error
run(pipeline, {}, options)
// @ts-expect-error
run(pipeline, { data: "pairs.jsonl", K: 2 }, options)
// @ts-expect-error
Effect.map(run(pipeline, { data: "pairs.jsonl" }, options), ({ outputs }) => outputs.tuend)
// @ts-expect-error
Pipeline.make("typed", { params: Params }, ({ date }) => ({ tuned, date }))

// A sweep over parameters, fields of nodes and seeds; its results are typed like those of one run.
const swept = sweep(pipeline, { data: "pairs.jsonl" }, { k: [1, 2], "sft.epochs": [1, 2], seed: [0, 1] }, options)
Effect.map(swept, (points) => points.map(({ result }) => result?.outputs.tuned?.path))
// @ts-expect-error
Effect.map(swept, (points) => points.map(({ result }) => result?.outputs.tuend))
// @ts-expect-error
sweep(pipeline, { data: "pairs.jsonl" }, { kk: [1, 2] }, options)
// @ts-expect-error
sweep(pipeline, { data: "pairs.jsonl" }, { k: ["one"] }, options)

// A run's events.
const seen = runEvents(pipeline, { data: "pairs.jsonl" }, options).pipe(Stream.filter((event: RunEvent) => event.type === "progress"))
// @ts-expect-error
runEvents(pipeline, {}, options)
// @ts-expect-error
const wrongEvents: Stream.Stream<string> = seen

// Rewards by two models: each in its position; the safety model may be omitted.
declare const accuracies: ReadonlyArray<Node<Report<RewardAccuracy>>>
scoreCombined({ completions, helpfulness, safety }, { threshold: 0.2, scope: "threshold only" })
scoreCombined({ completions, helpfulness })
const best: Node<Checkpoint<"safety-reward">> = bestSafetyReward({ candidates: [safety], scores: accuracies })
score({
  completions,
  reward: generalRewardModel({ init: policy, pairs: safetyMixture({ safety: [pairs], harmless: [], helpfulness: [], openSource: [] }) })
})
safetyRewardModel({ init: policy, pairs }, { safetyLossWeight: 0.5, precision: "bfloat16" })
// @ts-expect-error
scoreCombined({ completions, helpfulness: safety, safety: helpfulness })
// @ts-expect-error
scoreCombined({ completions, helpfulness: safety })
// @ts-expect-error
scoreCombined({ completions, helpfulness: generalRewardModel({ init: policy, pairs }) })
// @ts-expect-error
scoreCombined({ completions, safety })
// @ts-expect-error
bestHelpfulnessReward({ candidates: [helpfulness, safety], scores: accuracies })
// @ts-expect-error
const bestSwapped: Node<Checkpoint<"helpfulness-reward">> = bestSafetyReward({ candidates: [safety], scores: accuracies })
// @ts-expect-error
safetyRecall({ reward: helpfulness, pairs })
// @ts-expect-error
helpfulnessRewardModel({ init: policy, pairs }, { safetyLossWeight: 0.5 })
// @ts-expect-error
helpfulnessMixture({ helpfulness: pairs, safety: [], openSource: [] })

// Your own rewards: typed by role, valid in a reward model's position and nowhere else.
const checker = helpfulnessScorer({ code: fileAt("check.ts") }, { timeout: 2 })
score({ completions, reward: checker })
scoreCombined({ completions, helpfulness: checker, safety: safetyScorer({}, { kind: "judge" }) })
ppo({ policy, helpfulness: checker, prompts }, { valueInit: "policy" })
const byGroups: Node<Checkpoint<"policy">> = grpo({ policy, helpfulness: checker, safety, prompts }, { klGradient: "unbiased" })
rloo({ policy: byGroups, helpfulness, prompts }, { whitenRewards: false })
dpo({ policy: byGroups, pairs }, { beta: 0.5 })
// @ts-expect-error
grpo({ policy, helpfulness: safetyScorer({ code: fileAt("check.ts") }), prompts })
// @ts-expect-error
sft({ init: checker, demonstrations })
// @ts-expect-error
rloo({ policy: checker, helpfulness, prompts })
// @ts-expect-error
dpo({ policy, pairs: demonstrations })
// @ts-expect-error
rloo({ policy, helpfulness, prompts }, { klGradient: "k3" })

export { alsoSwapped, best, inParts, wrongEvents, bestSwapped, ran, swapped }
