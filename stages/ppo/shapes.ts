/** PPO's models as they are reckoned with, and the weights that are in memory for them: each base once, as loading.ts has it. */
import { type CostedModel, costedParameters, trainedParameterCount } from "../../models/memory.ts"
import { adaptedBy } from "../training/lora.ts"
import type { PpoConfig } from "./config.ts"

export interface PpoShapes {
  /** As they are trained: with all weights, or an adapter of each. */
  readonly policy: CostedModel
  /** None by RLOO and GRPO. */
  readonly value: CostedModel | undefined
  /** The helpfulness model first; with adapters where they are read as such. */
  readonly rewards: ReadonlyArray<CostedModel>
  /** Whether held-out prompts choose the best policy so far, of which a copy is kept. */
  readonly keepsBest: boolean
}

/** The models that policy and reward models, as they are loaded, make under a config; without `valueInit` there is no value model; where the value model starts from an adapted one it has a copy of that adapter. */
export const shapesOf = (
  config: Pick<PpoConfig, "loraRank" | "loraTargets"> & Partial<Pick<PpoConfig, "valueInit">>,
  { keepsBest, policy, rewards }: Omit<PpoShapes, "value">
): PpoShapes => {
  if (config.valueInit === undefined) return { policy: adaptedBy(config, policy), value: undefined, rewards, keepsBest }
  // Where a scorer is in the reward model's place, the value model can only start from the policy.
  const start = config.valueInit === "policy" ? policy : (rewards[0] ?? policy)
  const isAdapted = start.adapter !== undefined && config.loraRank > 0
  const value = isAdapted ? start : adaptedBy(config, { config: start.config, scalarHead: true })
  return { policy: adaptedBy(config, policy), value, rewards, keepsBest }
}

/**
 * How many weights are in memory: the reference (which is the policy's base where that has an adapter), what is trained, the best policy so far, and reward models, with one base
 * for those that are adapters. Where that base is the policy's too, it is counted twice: no plan knows.
 */
export const heldWeights = ({ keepsBest, policy, rewards, value }: PpoShapes): number => {
  const onBase = rewards.find(({ adapter }) => adapter !== undefined)
  const base = onBase === undefined ? 0 : costedParameters(onBase) - onBase.config.dim
  /** Of a model with an adapter without its base. */
  const sum = (models: ReadonlyArray<CostedModel>) => models.reduce((total, model) => total + trainedParameterCount(model), 0)
  return (
    costedParameters(policy) + base + sum([policy, ...(keepsBest ? [policy] : []), ...(value === undefined ? [] : [value]), ...rewards])
  )
}
