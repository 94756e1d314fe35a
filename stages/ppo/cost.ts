/** The cost of PPO (docs/decisions/0007-cost-estimates.md): rollouts, their scores, the passes over them, the two updates; its four models. For RLOO and GRPO without the value model. */
import type { Estimate } from "../common/cost/estimator.ts"
import { promptLength, rowCount } from "../common/cost/size.ts"
import { generating, languageModel, reading, scalarModel, training, type Work } from "../common/cost/work.ts"
import { resumeBytes } from "../training/cost.ts"
import { fitOnGpu } from "../training/fit.ts"
import type { PpoConfig, ppoInputs } from "./config.ts"
import { ppoAdvice, ppoMemory, ppoStep } from "./memory.ts"
import { shapesOf } from "./shapes.ts"

/** The config fields that an estimate reads, of PPO or of a method without a value model. */
type UpdateConfig = Pick<
  PpoConfig,
  | ("batchSize" | "miniBatchSize" | "epochs" | "evaluateEvery" | "inferenceBatchSize" | "iterations" | "maxNewTokens" | "microBatchSize")
  | ("recompute" | "precision" | "loraRank" | "loraTargets" | "oldLogProbabilities")
> &
  Partial<Pick<PpoConfig, "valueInit">>

export const ppoEstimate: Estimate<UpdateConfig, typeof ppoInputs> = {
  size: ({ inputs }) => inputs.policy,
  cost: ({ config, deviceMemory, expected, inputs, spread }) => {
    const { batchSize, epochs, evaluateEvery, inferenceBatchSize, iterations, maxNewTokens, microBatchSize, precision } = config
    const start = languageModel(inputs.policy, "the policy")
    const given = [inputs.helpfulness, ...(inputs.safety === undefined ? [] : [inputs.safety])].filter(({ isScorer }) => !isScorer)
    const shapes = shapesOf(config, {
      policy: start,
      rewards: given.map((size) => ({
        ...scalarModel(size, "the reward models"),
        adapter: inputs.base === undefined ? undefined : size.adapter
      })),
      keepsBest: inputs.heldOut !== undefined
    })
    const { policy, rewards, value } = shapes
    const placed = { ...shapes, precision, spread }
    const prompt = promptLength(inputs.prompts, "PPO")
    const response = expected.responseTokens ?? maxNewTokens
    const length = prompt + response
    const rows = iterations * batchSize

    const longest = Math.min(
      policy.config.maxPositions,
      ...(value === undefined ? [] : [value.config.maxPositions]),
      ...rewards.map((model) => model.config.maxPositions - 2)
    )
    const settings = { microBatch: microBatchSize, recompute: config.recompute }
    const update = fitOnGpu(settings, deviceMemory, ppoStep(placed, config, longest))

    const evaluations = inputs.heldOut === undefined ? 0 : 1 + Math.ceil(iterations / evaluateEvery)
    const judged = inputs.heldOut === undefined ? 0 : evaluations * rowCount(inputs.heldOut, "held-out prompts")
    const answered = (rows: number, what: string): ReadonlyArray<Work> =>
      [
        // With merged weights, so an adapter costs nothing here.
        ...generating(start, precision, rows, inferenceBatchSize, { prompt, response }),
        ...rewards.map((model) => reading("score", model, precision, rows, length))
      ].map((work) => ({ ...work, what: `${what}: ${work.what}` }))
    const work = [
      ...answered(rows, "rollouts"),
      reading("reference", start, precision, rows, length),
      ...(config.oldLogProbabilities === "recomputed" ? [reading("old log-probabilities", policy, precision, rows, length)] : []),
      ...(value === undefined ? [] : [reading("values", value, precision, rows, length)]),
      training("update of the policy", policy, precision, epochs * rows, length, Math.min(update.recompute, policy.config.layers)),
      ...(value === undefined
        ? []
        : [
            training("update of the value model", value, precision, epochs * rows, length, Math.min(update.recompute, value.config.layers))
          ]),
      ...(judged === 0 ? [] : answered(judged, "held out"))
    ]

    return {
      work,
      memory: ppoMemory(placed, config, prompt, update.memory),
      step: { microBatch: update.microBatch, recompute: update.recompute, blocks: policy.config.layers },
      // The best policy is stored in the form of the output.
      resume: resumeBytes(policy, precision, inputs.heldOut !== undefined) + (value === undefined ? 0 : resumeBytes(value, precision)),
      advice: ppoAdvice
    }
  }
}
