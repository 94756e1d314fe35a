/** The shapes of PPO's models for estimates, and the weights held in memory for them: each base once, as in loading.ts. */
import { type CostedModel, costedParameters, trainedParameterCount } from "../../models/memory.ts"
import { adaptedBy } from "../training/lora.ts"
import type { PpoConfig } from "./config.ts"

export interface PpoShapes {
  /** As trained: all weights, or an adapter. */
  readonly policy: CostedModel
  /** undefined for RLOO and GRPO. */
  readonly value: CostedModel | undefined
  /** The helpfulness model first; with adapters if they are loaded as adapters. */
  readonly rewards: ReadonlyArray<CostedModel>
  /** Whether a copy of the best policy on held-out prompts is kept. */
  readonly keepsBest: boolean
}

/** The shapes that result from the loaded policy and reward models with a config. Without `valueInit` there is no value model; if it starts from an adapted model, it has a copy of that adapter. */
export const shapesOf = (
  config: Pick<PpoConfig, "loraRank" | "loraTargets"> & Partial<Pick<PpoConfig, "valueInit">>,
  { keepsBest, policy, rewards }: Omit<PpoShapes, "value">
): PpoShapes => {
  if (config.valueInit === undefined) return { policy: adaptedBy(config, policy), value: undefined, rewards, keepsBest }
  // If a scorer replaces the reward model, the value model can only start from the policy.
  const start = config.valueInit === "policy" ? policy : (rewards[0] ?? policy)
  const isAdapted = start.adapter !== undefined && config.loraRank > 0
  const value = isAdapted ? start : adaptedBy(config, { config: start.config, scalarHead: true })
  return { policy: adaptedBy(config, policy), value, rewards, keepsBest }
}

/**
 * The number of weights in memory: the reference (which is the policy's base if that has an adapter), the trained weights, the best policy so far, and the reward models, with one base
 * for all adapters. If that base is also the policy's, it is counted twice, since a plan cannot know this.
 */
export const heldWeights = ({ keepsBest, policy, rewards, value }: PpoShapes): number => {
  const onBase = rewards.find(({ adapter }) => adapter !== undefined)
  const base = onBase === undefined ? 0 : costedParameters(onBase) - onBase.config.dim
  /** For a model with an adapter, without its base. */
  const sum = (models: ReadonlyArray<CostedModel>) => models.reduce((total, model) => total + trainedParameterCount(model), 0)
  return (
    costedParameters(policy) + base + sum([policy, ...(keepsBest ? [policy] : []), ...(value === undefined ? [] : [value]), ...rewards])
  )
}
