/**
 * The work of TRL's benchmark as a pipeline, for bench/trl/main.ts: SFT, a reward model with its held-out accuracy, and PPO, on the output of bench/peers/trl/make_model.py.
 * The settings are those of bench/peers/trl/trl_bench.py.
 */
import * as Schema from "effect/Schema"
import { fileAt } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { preferenceDemonstrations, preferencePrompts } from "../../stages/data/derive.ts"
import { importHelpfulnessReward, importPolicy } from "../../stages/data/import.ts"
import { importPreferences } from "../../stages/data/import-preferences.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { evaluateReward, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { sft } from "../../stages/training/sft.ts"

const Params = Schema.Struct({
  model: Schema.String.annotate({ description: "folder written by make_model.py; <model>-reward and <model>-data are next to it" }),
  precision: hyper("bfloat16", "of all stages", ["float32", "bfloat16"]),
  length: hyperInt(1024, "tokens of a packed sequence of SFT", { min: 16 }),
  steps: hyperInt(60, "steps of SFT, of 16 sequences each", { min: 1 }),
  microPairs: hyperInt(32, "pairs per micro-batch of the reward model; a step has 32", { min: 1 }),
  iterations: hyperInt(12, "iterations of PPO, of 64 responses each", { min: 1 }),
  maxNewTokens: hyperInt(64, "maximum tokens of a response", { min: 1 })
})

export default Pipeline.make(
  "trl",
  { description: "the same work as TRL's benchmark", params: Params },
  ({ iterations, length, maxNewTokens, microPairs, model, precision, steps }) => {
    const policy = importPolicy({ folder: fileAt(model) }).named("policy")
    const pairs = (name: string) =>
      importPreferences({ file: fileAt(`${model}-data/${name}.jsonl`) }, { shape: "hh-rlhf" }).named(`${name}-pairs`)
    const train = pairs("train")
    const reward = helpfulnessRewardModel(
      { init: policy, pairs: train },
      { margin: "none", batchPairs: 32, microBatchPairs: microPairs, epochs: 1, learningRate: 1e-5, precision }
    ).named("reward")
    return {
      sft: sft(
        { init: policy, demonstrations: preferenceDemonstrations({ preferences: train }) },
        { sequenceLength: length, batchSize: 16, microBatchSize: 16, steps, learningRate: 2e-5, precision }
      ).named("sft"),
      reward,
      accuracy: evaluateReward({ scores: [scorePairs({ reward, pairs: pairs("heldout") }, { precision })] }).named("accuracy"),
      ppo: ppo(
        {
          policy,
          helpfulness: importHelpfulnessReward({ folder: fileAt(`${model}-reward`) }).named("fresh-reward"),
          prompts: preferencePrompts({ preferences: pairs("ppo") })
        },
        {
          ...{ iterations, batchSize: 64, miniBatchSize: 16, microBatchSize: 16, inferenceBatchSize: 64, epochs: 1, learningRate: 1e-6 },
          ...{ maxNewTokens, temperature: 1, beta: 0.01, valueInit: "reward", precision }
        }
      ).named("ppo")
    }
  }
)
