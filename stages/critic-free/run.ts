/** Runs RLOO and GRPO: PPO's loop (stages/ppo/loop.ts) without a value model, on groups of responses. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stage from "../../runtime/define/stage.ts"
import type { Checkpoint } from "../../schemas/artifact.ts"
import { defaultResponses } from "../ppo/config.ts"
import { isModel, loadPolicyModels, type PolicyModels, smallestContext } from "../ppo/loading.ts"
import { checkKeepsBest, readPromptSets, runMethod, UpdateSetupError } from "../ppo/loop.ts"
import { ppoAdvice, ppoStep } from "../ppo/memory.ts"
import { scoredRollouts } from "../ppo/rollouts.ts"
import { shapesOf } from "../ppo/shapes.ts"
import { chooseFit, ownSpread } from "../training/fit.ts"
import type { CriticFreeConfig, criticFreeInputs } from "./config.ts"
import { CriticFreeIteration, criticFreeDiagnosticsFile } from "./diagnostics.ts"
import { CriticFreeTrainer, type ExperienceStatistics, type Method } from "./trainer.ts"

const numbers = Schema.Struct({ iteration: Schema.Finite, steps: Schema.Finite })

/** How the updates of these models fit the device, assuming responses as long as the smallest context. */
const fitUpdates = (
  models: PolicyModels,
  config: CriticFreeConfig,
  { device, keepsBest }: { readonly device: "cpu" | "cuda"; readonly keepsBest: boolean }
) => {
  const { helpfulness, reference, safety } = models
  const rewards = [helpfulness, safety]
    .filter(isModel)
    .map(({ model }) => ({ config: model.config, scalarHead: true, adapter: model.adapter?.config }))
  const shapes = shapesOf(config, { policy: { config: reference.config, scalarHead: false }, rewards, keepsBest })
  const step = ppoStep({ ...shapes, precision: config.precision, spread: ownSpread() }, config, smallestContext(models))
  return chooseFit(
    { microBatch: config.microBatchSize, recompute: config.recompute },
    { device, rowsOnCpu: defaultResponses },
    step,
    () => ppoAdvice
  )
}

/** Reports groups without a learning signal: all their responses have the same score. Fails if this holds for all groups of the first iteration. */
const checkGroups = (name: string, { batchSize, groupSize, iterations }: CriticFreeConfig) => {
  /** The largest share reported so far: the first one, and the first time that all groups are constant. */
  let reported = 0
  return (
    { constantGroups }: Pick<ExperienceStatistics, "constantGroups">,
    { iteration, rewards }: { readonly iteration: number; readonly rewards: ReadonlyArray<{ readonly reward: number }> }
  ): Effect.Effect<string | undefined, UpdateSetupError> => {
    const groups = batchSize / groupSize
    if (iteration === 1 && constantGroups === 1)
      return Effect.fail(
        new UpdateSetupError({
          message: `${name} has nothing to learn from in iteration 1 of ${iterations}: in each of its ${groups} groups of ${groupSize} responses all have the same reward (${rewards[0]!.reward} in the first), so that every advantage is 0. Use a reward that distinguishes the policy's responses, easier prompts, or larger groups (groupSize) or batches (batchSize).`
        })
      )
    const isNew = reported === 0 ? constantGroups > 0 : reported < 1 && constantGroups === 1
    if (!isNew) return Effect.succeed(undefined)
    reported = constantGroups
    return Effect.succeed(
      `in iteration ${iteration} all responses of ${Math.round(constantGroups * groups)} of ${groups} groups have the same reward and give no learning signal (constantGroups in the curves)`
    )
  }
}

/** Runs a stage with its method. */
export const runCriticFree = Effect.fn("runCriticFree")(function* (
  context: Omit<Stage.Context<any, typeof criticFreeInputs, Checkpoint<"policy">>, "config"> & { readonly config: CriticFreeConfig },
  { isWhitened, method, name }: { readonly name: string; readonly method: Method; readonly isWhitened: boolean }
) {
  const { config, device, inputs, seed } = context
  yield* checkKeepsBest(context)
  const models = yield* loadPolicyModels(inputs, { config, device, seed })
  const prompts = yield* readPromptSets(context, models, { context: smallestContext(models), models: "policy and reward models", name })
  const fit = yield* fitUpdates(models, config, { device, keepsBest: inputs.heldOut !== undefined })
  const trainer = new CriticFreeTrainer({ ...models, config, method, padId: models.tokenizer.padId, seed })
  return yield* runMethod(context, {
    ...{ models, prompts, write: criticFreeDiagnosticsFile.write },
    method: {
      ...{ name, rates: "learningRate", purpose: "critic-free", groupSize: config.groupSize },
      ...{ fit, trainer, schemas: { iteration: CriticFreeIteration, numbers } },
      scored: (responses, rewards) => scoredRollouts(responses, rewards, config, isWhitened),
      check: checkGroups(name, config)
    },
    lastMetrics: ({ kl }) => ({ lastKl: kl })
  })
}, Effect.scoped)
