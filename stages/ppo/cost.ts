/** What PPO costs (docs/decisions/0007-cost-estimates.md): rollouts, their scores, the passes over them, the two updates; its four models. */
import { activationBytes, bytesOf, forwardBytes, generationBytes } from "../../models/cost.ts"
import type { Estimate } from "../common/cost/estimator.ts"
import { promptLength, rowCount } from "../common/cost/size.ts"
import { generating, languageModel, reading, scalarModel, together, trained, training, type Work } from "../common/cost/work.ts"
import type { PpoConfig, ppoInputs } from "./config.ts"
import { heldWeights, shapesOf } from "./shapes.ts"

export const ppoEstimate: Estimate<PpoConfig, typeof ppoInputs> = {
  size: ({ inputs }) => inputs.policy,
  cost: ({ config, expected, inputs }) => {
    const { batchSize, epochs, evaluateEvery, inferenceBatchSize, iterations, maxNewTokens, microBatchSize, precision } = config
    const start = languageModel(inputs.policy, "the policy")
    const given = [inputs.helpfulness, ...(inputs.safety === undefined ? [] : [inputs.safety])]
    const shapes = shapesOf(config, {
      policy: start,
      rewards: given.map((size) => ({
        ...scalarModel(size, "the reward models"),
        adapter: inputs.base === undefined ? undefined : size.adapter
      })),
      keepsBest: inputs.heldOut !== undefined
    })
    const { policy, rewards, value } = shapes
    const prompt = promptLength(inputs.prompts, "PPO")
    const response = expected.responseTokens ?? maxNewTokens
    const length = prompt + response
    const rows = iterations * batchSize

    const evaluations = inputs.heldOut === undefined ? 0 : 1 + Math.ceil(iterations / evaluateEvery)
    const judged = inputs.heldOut === undefined ? 0 : evaluations * rowCount(inputs.heldOut, "held-out prompts")
    const answered = (rows: number, what: string): ReadonlyArray<Work> =>
      [
        // By merged weights: an adapter costs nothing there.
        ...generating(start, precision, rows, inferenceBatchSize, { prompt, response }),
        ...rewards.map((model) => reading("score", model, precision, rows, length))
      ].map((work) => ({ ...work, what: `${what}: ${work.what}` }))
    const work = [
      ...answered(rows, "rollouts"),
      reading("reference", start, precision, rows, length),
      ...(config.oldLogProbabilities === "recomputed" ? [reading("old log-probabilities", policy, precision, rows, length)] : []),
      reading("values", value, precision, rows, length),
      training("update of the policy", policy, precision, epochs * rows, length),
      training("update of the value model", value, precision, epochs * rows, length),
      ...(judged === 0 ? [] : answered(judged, "held out"))
    ]

    const longest = prompt + maxNewTokens
    const wide = (sequences: number) => 12 * sequences * maxNewTokens * policy.config.vocabSize
    const activations = Math.max(
      generationBytes(policy, precision, Math.min(inferenceBatchSize, batchSize), { prompt, response: maxNewTokens }),
      forwardBytes(policy, precision, inferenceBatchSize * longest) + wide(inferenceBatchSize),
      activationBytes(policy, precision, microBatchSize * longest, microBatchSize * maxNewTokens),
      activationBytes(value, precision, microBatchSize * longest, 0)
    )
    const weights = heldWeights(shapes) * bytesOf[precision]
    return { work, memory: { ...together([trained(policy, precision, 0), trained(value, precision, 0)], activations), weights } }
  }
}
