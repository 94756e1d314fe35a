/** PPO on the small world (§3.2.3), starting from a version from rejection sampling. */
import { ppo } from "../../stages/ppo/ppo.ts"
import type { Policy } from "../nodes.ts"
import type { WorldParams } from "./params.ts"
import type { PromptSets } from "./prompts.ts"
import type { Scorers } from "./reward-models.ts"

export const tunedByPpo = (policy: Policy, models: Scorers, { pool, ppoHeldOut }: PromptSets, params: WorldParams, name: string): Policy =>
  ppo(
    { policy, ...models, prompts: pool, heldOut: ppoHeldOut },
    {
      iterations: params.ppoIterations,
      batchSize: params.ppoBatch,
      miniBatchSize: Math.ceil(params.ppoBatch / 4),
      microBatchSize: Math.ceil(params.ppoBatch / 4),
      learningRate: params.ppoLearningRate,
      valueLearningRate: params.valueLearningRate,
      beta: params.beta,
      maxNewTokens: params.maxNewTokens,
      inferenceBatchSize: params.inferenceBatch,
      evaluateEvery: 5,
      precision: params.precision,
      oldLogProbabilities: params.precision === "bfloat16" ? "recomputed" : "recorded"
    }
  ).named(name)
