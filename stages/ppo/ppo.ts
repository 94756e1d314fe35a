/**
 * Proximal policy optimisation (Llama 2 §3.2.3), starting from the last rejection-sampling checkpoint:
 *
 *     maximise E[ R~_c(g|p) - beta KL(pi(g|p) || pi_0(g|p)) ],      R~_c = whiten(logit(R_c))                    (eq. 3 and 4)
 *     R_c = R_s  if is_safety(p) or R_s < 0.15,  else R_h
 *
 * Log-probabilities are those of logits / temperature everywhere: in sampling, in the reference and in the update.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { RewardModel } from "../../models/reward-model.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { costOf } from "../common/cost/estimator.ts"
import { chooseFit, ownSpread } from "../training/fit.ts"
import { PpoConfig, ppoInputs, defaultResponses } from "./config.ts"
import { ppoEstimate } from "./cost.ts"
import { ppoDiagnosticsFile, PpoIteration } from "./diagnostics.ts"
import { checkTokenizerFolders, isModel, loadModels, type PpoModels, smallestContext } from "./loading.ts"
import { checkKeepsBest, readPromptSets, runMethod } from "./loop.ts"
import { ppoAdvice, ppoStep } from "./memory.ts"
import { type ResponseReward, scoredRollouts } from "./rollouts.ts"
import { shapesOf } from "./shapes.ts"
import { PpoTrainer } from "./trainer.ts"

/** How the updates of these models fit the device, assuming responses as long as the smallest context. */
const fitUpdates = (
  models: PpoModels,
  config: PpoConfig,
  { device, keepsBest }: { readonly device: "cpu" | "cuda"; readonly keepsBest: boolean }
) => {
  const { helpfulness, reference, safety } = models
  const costed = ({ adapter, config }: RewardModel) => ({ config, scalarHead: true, adapter: adapter?.config })
  const rewards = [helpfulness, safety].filter(isModel).map(({ model }) => costed(model))
  const shapes = shapesOf(config, { policy: { config: reference.config, scalarHead: false }, rewards, keepsBest })
  const step = ppoStep({ ...shapes, precision: config.precision, spread: ownSpread() }, config, smallestContext(models))
  const settings = { microBatch: config.microBatchSize, recompute: config.recompute }
  return chooseFit(settings, { device, rowsOnCpu: defaultResponses }, step, () => ppoAdvice)
}

/** Reports the first iteration in which all responses have the same reward, which whitening makes 0. */
const checkRewards = () => {
  let isReported = false
  return (_: object, { iteration, rewards }: { readonly iteration: number; readonly rewards: ReadonlyArray<ResponseReward> }) => {
    const [first, ...rest] = rewards.map(({ reward }) => reward)
    if (isReported || rest.length === 0 || rest.some((reward) => reward !== first)) return Effect.undefined
    isReported = true
    return Effect.succeed(
      `in iteration ${iteration} all ${rewards.length} responses have the same reward (${first}), so PPO does not learn from it; check the reward models or scorers`
    )
  }
}

/** The trainer's numbers in a checkpoint (PpoTrainer.numbers). */
const numbers = Schema.Struct({ beta: Schema.Finite, iteration: Schema.Finite, steps: Schema.Finite })

export const ppo = Stage.make("ppo", {
  description: "§3.2.3 proximal policy optimisation (PPO) against the combined reward, with a KL penalty to the initial policy",
  config: PpoConfig,
  inputs: ppoInputs,
  output: Policy,
  inherits: { tokenizer: "policy" },
  agrees: [{ trait: "tokenizer", ports: ["policy", "helpfulness", "safety"], check: checkTokenizerFolders }],
  resources: { tensors: true, ranks: true },
  run: Effect.fn("ppo")(function* (context) {
    const { config, device, inputs, seed } = context
    yield* checkKeepsBest(context)
    const models = yield* loadModels(inputs, { config, device, seed })
    const found = { context: smallestContext(models), models: "policy, value and reward models", name: "PPO" }
    const prompts = yield* readPromptSets(context, models, found)
    const fit = yield* fitUpdates(models, config, { device, keepsBest: inputs.heldOut !== undefined })
    const trainer = new PpoTrainer({ ...models, config, padId: models.tokenizer.padId, seed })
    return yield* runMethod(context, {
      ...{ models, prompts, write: ppoDiagnosticsFile.write },
      method: {
        ...{ name: "PPO", rates: "learningRate or valueLearningRate", purpose: "ppo", groupSize: 1 },
        ...{ fit, trainer, value: models.value, schemas: { iteration: PpoIteration, numbers } },
        scored: (responses, rewards) => scoredRollouts(responses, rewards, config),
        check: checkRewards()
      },
      lastMetrics: ({ beta, kl }) => ({ lastKl: kl, lastBeta: beta })
    })
  }, Effect.scoped)
})

export const ppoCost = costOf(ppo, ppoEstimate)
