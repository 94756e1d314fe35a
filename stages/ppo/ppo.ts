/**
 * Proximal policy optimisation (Llama 2 §3.2.3), on top of the last rejection-sampling checkpoint:
 *
 *     maximise E[ R~_c(g|p) - beta KL(pi(g|p) || pi_0(g|p)) ],      R~_c = whiten(logit(R_c))                    (eq. 3 and 4)
 *     R_c = R_s  if is_safety(p) or R_s < 0.15,  else R_h
 *
 * Log-probabilities are of logits / temperature everywhere: while sampling, in the reference and in the update.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows } from "../../data/dataset.ts"
import { gpuMemory, isOutOfMemory } from "../../engine/device.ts"
import { deriveSeed } from "../../engine/random.ts"
import { scoped } from "../../engine/tensor.ts"
import { saveCheckpoint } from "../../models/checkpoint.ts"
import { TensorSnapshot } from "../../models/safetensors.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import type { ResumePoint } from "../../runtime/define/resume-points.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { fitPrompts } from "../common/unfit.ts"
import { chooseFit, type Fit, type PlannedFit } from "../training/fit.ts"
import { trainedParameters } from "../training/lora.ts"
import { Cutting, microBatches, OutOfMemoryError } from "../training/cutting.ts"
import { fitMetrics, tellFit } from "../training/train.ts"
import { PpoConfig, ppoInputs, usualResponses } from "./config.ts"
import { ppoEstimate } from "./cost.ts"
import { describeIteration, describeResponses, type PpoDiagnostics, writeDiagnostics } from "./diagnostics.ts"
import { PpoHistory, resumeRun, saveRun } from "./history.ts"
import { checkTokenizerFolders, loadModels, type PpoModels, smallestContext } from "./loading.ts"
import { ppoAdvice, ppoStep } from "./memory.ts"
import { byLength, sequenceLength } from "./models.ts"
import { shapesOf } from "./shapes.ts"
import { type EncodedPrompt, nextPrompts, reward, rollout, scoredRollouts } from "./rollouts.ts"
import { type Experience, PpoTrainer, type StepStatistics } from "./trainer.ts"

/** State shared by all steps of a PPO run. */
interface Run extends PpoModels {
  readonly config: PpoConfig
  readonly seed: number
  readonly progress: Stage.Context["progress"]
  readonly prompts: ReadonlyArray<EncodedPrompt>
  readonly heldOut: ReadonlyArray<EncodedPrompt>
  readonly trainer: PpoTrainer
  readonly history: PpoHistory
  /** How updates are computed, and their micro-batch as the run goes on. */
  readonly fit: Fit | PlannedFit
  readonly cutting: Cutting
}

/** A step of each model on a mini-batch; where the memory does not hold it, with half of the micro-batch, from there on. */
const takeStep = Effect.fnUntraced(function* (
  { cutting, fit, policy, progress, trainer, value }: Run,
  miniBatch: ReadonlyArray<Experience>
) {
  const number = trainer.numbers.steps + 1
  const step = yield* Effect.try({
    try: () =>
      scoped(() => {
        const losses = cutting.step(
          number,
          [policy, value].map(trainedParameters),
          (microBatch) => microBatches(byLength(miniBatch), microBatch, sequenceLength).length,
          (microBatch) => trainer.loss(miniBatch, { ...fit, microBatch })
        )
        return trainer.step(losses)
      }),
    catch: (cause) => {
      if (cause instanceof OutOfMemoryError) return cause
      if (isOutOfMemory(cause)) return OutOfMemoryError.during(`Taking step ${number}`, cause)
      throw cause
    }
  })
  for (const note of cutting.notes()) yield* progress({ note })
  return step
})

/** One iteration, counted from 1: rollouts of a batch of prompts, their rewards and advantages, then losses and a step for each mini-batch. */
const iterate = Effect.fn("ppo.iterate")(function* (run: Run, iteration: number) {
  const { config, seed, trainer, history, progress } = run
  history.beginIteration()
  const prompts = nextPrompts(run.prompts, { size: config.batchSize, iteration, seed })
  const seeds = prompts.map((_, i) => deriveSeed(seed, "ppo", "rollout", iteration, i))

  const responses = yield* rollout(run, prompts, seeds)
  history.spent("generation")
  const rewards = yield* reward(run, responses)
  history.spent("scoring")
  const rollouts = scoredRollouts(responses, rewards, config)
  const { experience, statistics } = trainer.advantages(rollouts)
  const steps: Array<StepStatistics> = []
  for (const miniBatch of trainer.miniBatches(experience)) {
    const step = yield* takeStep(run, miniBatch)
    steps.push(step)
    if (step.diverged) {
      // The end of the curve.
      const { diverged: _, policyLoss: loss, ...numbers } = step
      yield* progress({ loss, ...numbers, learningRate: config.learningRate })
      return yield* divergence(run, iteration, lossesAndNorms(steps))
    }
    yield* progress({ message: "updating" })
  }
  trainer.finish(statistics, responses.length)
  history.spent("update")

  const done = describeIteration({ iteration, responses, rewards, statistics, steps, sampleTexts: config.sampleTexts })
  history.iterations.push(done)
  const { generation, scoring, update } = history.seconds
  const { iteration: _, samples: __, reward: meanReward, kl, policyLoss: loss, helpfulness, safety, ...numbers } = done
  yield* progress({
    ...{ reward: meanReward, kl, loss, learningRate: config.learningRate },
    ...{ generationSeconds: generation, scoringSeconds: scoring, updateSeconds: update },
    ...{ helpfulness: helpfulness ?? undefined, safety: safety ?? undefined, ...numbers, ...gpuMemory() }
  })
})

/** Evaluates the policy on the held-out prompts, with the same random numbers each time. Says whether to stop. */
const evaluate = Effect.fn("ppo.evaluate")(function* (run: Run, iteration: number) {
  const { config, seed, heldOut, history, progress } = run
  const seeds = heldOut.map((_, i) => deriveSeed(seed, "ppo", "held-out", i))
  const responses = yield* rollout(run, heldOut, seeds)
  history.spent("generation")
  const rewards = yield* reward(run, responses)
  history.spent("scoring")
  const evaluation = { iteration, ...describeResponses(responses, rewards) }
  yield* progress({ heldOutReward: evaluation.reward })
  return history.evaluated(evaluation, run, config.patience)
})

/** An iteration, and an evaluation where one is due; number 0 is the evaluation before the first. Says whether to stop. */
const advance = Effect.fn("ppo.advance")(function* (run: Run, iteration: number) {
  const { config, heldOut } = run
  if (iteration > 0) yield* iterate(run, iteration)
  const due = iteration % config.evaluateEvery === 0 || iteration === config.iterations
  return heldOut.length > 0 && due ? yield* evaluate(run, iteration) : false
})

/** Runs the remaining iterations, saving after each. Returns why it stopped. */
const advanceToEnd = Effect.fn("ppo.advanceToEnd")(function* (run: Run, save: Effect.Effect<void>) {
  const { config, heldOut, history } = run
  const first = heldOut.length > 0 && history.heldOut.length === 0 ? 0 : history.iterations.length + 1
  for (let iteration = first; iteration <= config.iterations; iteration++) {
    const stop = yield* advance(run, iteration).pipe(
      Effect.catchTag("NotFiniteLogitsError", ({ message }) => divergence(run, iteration, message))
    )
    if (stop) return iteration === config.iterations ? "iterations" : "early-stopping"
    yield* save
  }
  return "iterations"
})

/** How the updates of these models fit the device: of responses as long as the smallest context. */
const fitUpdates = (
  models: PpoModels,
  config: PpoConfig,
  { device, keepsBest }: { readonly device: "cpu" | "cuda"; readonly keepsBest: boolean }
) => {
  const { helpfulness, reference, safety } = models
  const costed = ({ adapter, config }: RewardModel) => ({ config, scalarHead: true, adapter: adapter?.config })
  const rewards = [helpfulness, ...(safety === undefined ? [] : [safety])].map(({ model }) => costed(model))
  const shapes = shapesOf(config, { policy: { config: reference.config, scalarHead: false }, rewards, keepsBest })
  const step = ppoStep({ ...shapes, precision: config.precision }, config, smallestContext(models))
  const asked = { microBatch: config.microBatchSize, recompute: config.recompute }
  return chooseFit(asked, { device, usual: usualResponses }, step, () => ppoAdvice)
}

export const ppo = Stage.make("ppo", {
  description: "§3.2.3 proximal policy optimisation against the combined reward, with a KL penalty to the policy it starts from",
  config: PpoConfig,
  inputs: ppoInputs,
  output: Policy,
  inherits: { tokenizer: "policy" },
  agrees: [{ trait: "tokenizer", ports: ["policy", "helpfulness", "safety"], check: checkTokenizerFolders }],
  resources: { tensors: true },
  run: Effect.fn("ppo")(function* ({ config, inputs, output, seed, device, progress, checkpoints, skipped, recorded }) {
    if (config.onDivergence === "keep-best" && inputs.heldOut === undefined)
      return yield* new PpoSetupError({
        message: `onDivergence "keep-best" needs held-out prompts to tell the best policy: wire "heldOut", or set onDivergence to "fail".`
      })
    const models = yield* loadModels(inputs, { config, device, seed })
    const room = smallestContext(models) - config.maxNewTokens
    if (room < 1)
      return yield* new PpoSetupError({
        message: `maxNewTokens ${config.maxNewTokens} leaves no room for a prompt: the smallest context of policy, value and reward models holds ${smallestContext(models)} tokens.`
      })
    const rows = yield* readRows(inputs.prompts, Prompts)
    const heldOutRows = inputs.heldOut === undefined ? [] : yield* readRows(inputs.heldOut, Prompts)
    const prompts = fitPrompts(models.tokenizer, rows, room, skipped)
    const heldOut = fitPrompts(models.tokenizer, heldOutRows, room, skipped, "held-out prompts")
    const nothingFits = (all: ReadonlyArray<unknown>, name: string) =>
      EmptyDatasetError.of("run PPO on", `${all.length} ${name}, none of which fits ${room} tokens`)
    if (prompts.length === 0) return yield* nothingFits(rows, "prompts")
    if (heldOut.length === 0 && inputs.heldOut !== undefined) return yield* nothingFits(heldOutRows, "held-out prompts")
    yield* skipped.check("prompts", rows.length)
    yield* skipped.check("held-out prompts", heldOutRows.length)
    const promptsTooLong = rows.length + heldOutRows.length - prompts.length - heldOut.length

    const { policy, tokenizer, safety } = models
    const fit = yield* fitUpdates(models, config, { device, keepsBest: inputs.heldOut !== undefined })
    yield* tellFit({ fit, progress })
    const trainer = new PpoTrainer({ ...models, config, padId: tokenizer.padId, seed })
    const history = new PpoHistory()
    const run: Run = {
      ...models,
      ...{ config, seed, prompts, heldOut, trainer, history, fit, cutting: new Cutting(fit.microBatch, recorded) },
      progress: (said) => progress({ step: history.iterations.length, total: config.iterations, ...said })
    }
    const found = yield* checkpoints.latest
    if (found !== undefined) {
      yield* resumeRun(found, run)
      yield* progress({ note: `resumes after iteration ${found.step} of ${config.iterations}, from a checkpoint` })
    }
    const snapshot = new TensorSnapshot()
    const saveIfDue = Effect.suspend(() => (checkpoints.due() ? saveRun(checkpoints, snapshot, run) : Effect.void))
    const ended: Pick<PpoDiagnostics, "stopped" | "divergence"> = yield* advanceToEnd(run, saveIfDue).pipe(
      Effect.map((stopped) => ({ stopped, divergence: null })),
      Effect.catchTag("PpoDivergedError", (error) =>
        config.onDivergence === "keep-best" && history.best !== undefined
          ? Effect.as(progress({ message: error.message }), { stopped: "diverged" as const, divergence: error.message })
          : Effect.flatMap(
              Effect.orElseSucceed(checkpoints.latest, () => undefined),
              (last) => error.withLast(last)
            )
      ),
      Effect.ensuring(Effect.sync(() => trainer.free()))
    )

    const { iterations, best, kept, allSeconds } = history
    yield* writeDiagnostics(output.path, {
      ...{ iterations, heldOut: history.heldOut, kept, ...ended },
      ...{ promptsTooLong, helpfulnessOnly: safety === undefined }
    })
    const [first, last] = [iterations[0], iterations.at(-1)]
    return yield* saveCheckpoint(output, {
      model: best ?? policy,
      tokenizer,
      base: inputs.policy,
      metrics: {
        ...{ iterations: iterations.length, kept, promptsTooLong, ...fitMetrics(fit), ...run.cutting.metrics },
        ...{ generationSeconds: allSeconds.generation, scoringSeconds: allSeconds.scoring, updateSeconds: allSeconds.update },
        ...(first === undefined || last === undefined
          ? {}
          : { firstReward: first.reward, lastReward: last.reward, lastKl: last.kl, lastBeta: last.beta })
      }
    })
  })
})

export const ppoCost = costOf(ppo, ppoEstimate)

/** Settings that contradict one another or the inputs. */
export class PpoSetupError extends Schema.TaggedError<PpoSetupError>()("PpoSetupError", { message: Schema.String }) {
  readonly isRetryable = false
}

/** PPO can't go on: a loss, a gradient or a logit is not a number. */
export class PpoDivergedError extends Schema.TaggedError<PpoDivergedError>()("PpoDivergedError", {
  iteration: Schema.Number,
  what: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
  /** `steps` are the gradient steps taken until then; iteration 0 is the evaluation before the first. */
  static of(at: { readonly iteration: number; readonly of: number; readonly steps: number; readonly what: string }): PpoDivergedError {
    const { iteration, of, steps, what } = at
    const where = iteration === 0 ? `before the first of ${of} iterations` : `in iteration ${iteration} of ${of}`
    const fewer = iteration > 1 ? `iterations to ${iteration - 1} or ` : ""
    const hint =
      steps === 0
        ? "No step was taken yet: an input model is broken, or a setting is far too large. Check the stages that made the policy and the reward models."
        : `Lower learningRate or valueLearningRate, raise beta, or set ${fewer}onDivergence to "keep-best" to keep a policy from before.`
    return new PpoDivergedError({ iteration, what, message: `PPO diverged ${where}: ${what}. ${hint}` })
  }
  /** Adds the path of the last resume point, if any. The diagnostics leave it out: a result must not contain paths. */
  withLast(last: ResumePoint | undefined): PpoDivergedError {
    if (last === undefined) return this
    const { iteration, what, message } = this
    const where = `The policy as it was after iteration ${last.step} is in ${last.path}.`
    return new PpoDivergedError({ iteration, what, message: `${message} ${where}` })
  }
}

const divergence = ({ config, trainer }: Run, iteration: number, what: string): PpoDivergedError =>
  PpoDivergedError.of({ iteration, of: config.iterations, steps: trainer.numbers.steps, what })

const lossesAndNorms = (steps: ReadonlyArray<StepStatistics>): string => {
  const { policyLoss, valueLoss, policyGradientNorm, valueGradientNorm } = steps.at(-1)!
  return `policy loss ${policyLoss}, value loss ${valueLoss}, gradient norms ${policyGradientNorm} and ${valueGradientNorm} at mini-batch ${steps.length}`
}
