/**
 * The loop that PPO, RLOO and GRPO share: sample responses to a batch of prompts, score them, update the policy, and repeat; periodically evaluate on
 * held-out prompts and keep the best policy. A method provides its models, its trainer, and how scores become training data.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows } from "../../data/dataset.ts"
import { gpuMemory, isOutOfMemory } from "../../engine/device.ts"
import { deriveSeed } from "../../engine/random.ts"
import type { Spread } from "../../engine/spread.ts"
import { scoped } from "../../engine/tensor.ts"
import { saveCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { TensorSnapshot } from "../../models/safetensors.ts"
import type { ResumePoint } from "../../runtime/define/resume-points.ts"
import type * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactRef, Checkpoint, Dataset, OutputSlot } from "../../schemas/artifact.ts"
import { type Prompt, Prompts } from "../../schemas/rows.ts"
import { ofAllRanks } from "../common/checkpointed.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { fitPrompts } from "../common/unfit.ts"
import { MicroBatching, microBatches, OutOfMemoryError } from "../training/micro-batches.ts"
import type { Fit, PlannedFit } from "../training/fit.ts"
import { trainedParameters } from "../training/lora.ts"
import { fitMetrics, reportFit } from "../training/train.ts"
import type { PpoConfig } from "./config.ts"
import { describeIteration, describeResponses, type IterationOf, type PpoDiagnostics, type StepNumbers } from "./diagnostics.ts"
import { resumeRun, RunHistory, type RunSchemas, saveRun } from "./history.ts"
import type { PolicyInputs, PolicyModels } from "./loading.ts"
import { byLength, sequenceLength } from "./models.ts"
import { type EncodedPrompt, nextPrompts, type Response, type ResponseReward, reward, type RolloutConfig, rollout } from "./rollouts.ts"
import type { Rollout } from "./trainer.ts"

/** The config fields that the loop reads. */
export type LoopConfig = RolloutConfig &
  Pick<
    PpoConfig,
    "batchSize" | "iterations" | "evaluateEvery" | "patience" | "onDivergence" | "sampleTexts" | "learningRate" | "maxMismatchKl"
  >

/** In each iteration the loop calls `advantages`, then `loss` and `step` for each of `miniBatches`, then `finish`. */
export interface Trainer<Experience, Losses, Statistics, Step, Numbers> {
  readonly advantages: (rollouts: ReadonlyArray<Rollout>) => {
    readonly experience: ReadonlyArray<Experience>
    readonly statistics: Statistics
  }
  readonly miniBatches: (experience: ReadonlyArray<Experience>) => Iterable<ReadonlyArray<Experience>>
  readonly loss: (miniBatch: ReadonlyArray<Experience>, fit: Fit) => Losses
  readonly step: (losses: Losses) => Step
  readonly finish: (statistics: Statistics, responses: number) => void
  /** How the trained models are distributed over the ranks. They are gathered while responses are sampled and scored, and while they are saved. */
  readonly spreads: ReadonlyArray<Spread>
  readonly parts: Parameters<typeof saveRun>[2]["trainer"]["parts"]
  readonly numbers: Numbers
  readonly resume: (numbers: Numbers) => void
  readonly free: () => void
}

/** The parts of the loop that a method provides. */
export interface Method<Experience extends Rollout, Losses, Statistics extends object, Step extends StepNumbers, Numbers> {
  /** The method's name in messages. */
  readonly name: string
  /** The learning rate fields, named in the message of a diverged run. */
  readonly rates: string
  /** Tag from which seeds are derived (engine/random.ts). */
  readonly purpose: string
  /** Number of consecutive responses to each prompt of a batch. */
  readonly groupSize: number
  readonly value?: RewardModel
  readonly trainer: Trainer<Experience, Losses, Statistics, Step, Numbers>
  readonly scored: (responses: ReadonlyArray<Response>, rewards: ReadonlyArray<ResponseReward>) => ReadonlyArray<Rollout>
  /** Checks an iteration's statistics; returns a message to report, if any. Fails if there is no learning signal. */
  readonly check?: (
    statistics: Statistics,
    at: { readonly iteration: number; readonly rewards: ReadonlyArray<ResponseReward> }
  ) => Effect.Effect<string | undefined, UpdateSetupError>
  readonly schemas: RunSchemas<IterationOf<Statistics, Step>, Numbers>
  readonly fit: Fit | PlannedFit
}

/** Settings that contradict one another or the inputs. */
export class UpdateSetupError extends Schema.TaggedError<UpdateSetupError>()("UpdateSetupError", { message: Schema.String }) {
  readonly isRetryable = false
}

/** Training cannot continue: a loss, a gradient or a logit is not finite. */
export class UpdateDivergedError extends Schema.TaggedError<UpdateDivergedError>()("UpdateDivergedError", {
  iteration: Schema.Number,
  what: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
  /** `steps` is the number of gradient steps so far; iteration 0 is the evaluation before the first. */
  static of(at: {
    readonly method: { readonly name: string; readonly rates: string }
    readonly iteration: number
    readonly of: number
    readonly steps: number
    readonly what: string
    /** What to do, if the cause is known. */
    readonly hint?: string
  }): UpdateDivergedError {
    const { iteration, method, of, steps, what } = at
    const where = iteration === 0 ? `before the first of ${of} iterations` : `in iteration ${iteration} of ${of}`
    const fewer = iteration > 1 ? `iterations to ${iteration - 1} or ` : ""
    const defaultHint =
      steps === 0
        ? "No step was taken yet: an input model is broken, or a setting is far too large. Check the stages that made the policy and the reward models."
        : `Lower ${method.rates}, raise beta, or set ${fewer}onDivergence to "keep-best" to keep a policy from before.`
    return new UpdateDivergedError({ iteration, what, message: `${method.name} diverged ${where}: ${what}. ${at.hint ?? defaultHint}` })
  }
  /** Adds the path of the last checkpoint to the message. Only for a failing run: the diagnostics of a result must not contain paths. */
  withLast(last: ResumePoint | undefined): UpdateDivergedError {
    if (last === undefined) return this
    const { iteration, what, message } = this
    const where = `The policy after iteration ${last.step} is in ${last.path}.`
    return new UpdateDivergedError({ iteration, what, message: `${message} ${where}` })
  }
}

/** State shared by all steps of a run. */
interface Run<E extends Rollout, L, S extends object, Step extends StepNumbers, N> extends PolicyModels, Method<E, L, S, Step, N> {
  readonly config: LoopConfig
  readonly seed: number
  readonly progress: Stage.Context["progress"]
  readonly prompts: ReadonlyArray<EncodedPrompt>
  readonly heldOut: ReadonlyArray<EncodedPrompt>
  readonly history: RunHistory<IterationOf<S, Step>>
  /** The current micro-batch size of updates. */
  readonly microBatching: MicroBatching
}

const divergence = (
  run: { readonly name: string; readonly rates: string; readonly config: LoopConfig; readonly trainer: { readonly numbers: unknown } },
  iteration: number,
  what: string,
  hint?: string
): UpdateDivergedError =>
  UpdateDivergedError.of({
    ...{ method: run, iteration, of: run.config.iterations, what, ...(hint === undefined ? {} : { hint }) },
    steps: (run.trainer.numbers as { readonly steps: number }).steps
  })

/** The error if sampling and the update compute different probabilities from the same weights: training on the responses would be wrong. */
const mismatch = (run: Parameters<typeof divergence>[0], iteration: number, kl: number): UpdateDivergedError =>
  divergence(
    run,
    iteration,
    `the update's log-probabilities of the sampled tokens differ from those recorded while sampling by a KL of ${kl.toPrecision(3)} nats a token, more than maxMismatchKl (${run.config.maxMismatchKl})`,
    'Set oldLogProbabilities to "recomputed", or precision to "float32"; where this much is expected, raise maxMismatchKl.'
  )

/** Takes one step with each model on a mini-batch. If memory runs out, the micro-batch size is halved for this and all later steps. */
const takeStep = Effect.fnUntraced(function* <
  E extends Rollout,
  L,
  S extends object,
  Step extends StepNumbers,
  N extends { readonly steps: number }
>({ microBatching, fit, policy, progress, trainer, value }: Run<E, L, S, Step, N>, miniBatch: ReadonlyArray<E>) {
  const number = trainer.numbers.steps + 1
  const trained: ReadonlyArray<Llama | RewardModel> = [policy, ...(value === undefined ? [] : [value])]
  const step = yield* Effect.try({
    try: () =>
      scoped(() => {
        const losses = microBatching.step(
          number,
          trained.map(trainedParameters),
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
  for (const note of microBatching.notes()) yield* progress({ note })
  return step
})

const gather = (spreads: ReadonlyArray<Spread>): void => spreads.forEach((spread) => spread.gather())
const release = (spreads: ReadonlyArray<Spread>): void => spreads.forEach((spread) => spread.release())

/** One iteration, counted from 1: rollouts for a batch of prompts, their rewards and advantages, then losses and a step for each mini-batch. */
const iterate = Effect.fn("iterate")(function* <
  E extends Rollout,
  L,
  S extends object,
  Step extends StepNumbers,
  N extends { readonly steps: number }
>(run: Run<E, L, S, Step, N>, iteration: number) {
  const { config, groupSize, history, progress, purpose, seed, trainer } = run
  history.beginIteration()
  gather(trainer.spreads)
  const distinct = nextPrompts(run.prompts, { size: config.batchSize / groupSize, iteration, seed })
  const prompts = distinct.flatMap((prompt) => Array.from({ length: groupSize }, () => prompt))
  const seeds = prompts.map((_, i) => deriveSeed(seed, purpose, "rollout", iteration, i))

  const responses = yield* rollout(run, prompts, seeds)
  history.spent("generation")
  const rewards = yield* reward(run, responses)
  history.spent("scoring")
  const { experience, statistics } = trainer.advantages(run.scored(responses, rewards))
  const note = yield* run.check?.(statistics, { iteration, rewards }) ?? Effect.undefined
  if (note !== undefined) yield* progress({ note })
  release(trainer.spreads)
  const steps: Array<Step> = []
  for (const miniBatch of trainer.miniBatches(experience)) {
    const step = yield* takeStep(run, miniBatch)
    steps.push(step)
    if (step.diverged) {
      // A diverged step is reported too: it is the last point of the curve.
      const { diverged: _, policyLoss: loss, ...numbers } = step
      yield* progress({ loss, ...numbers, learningRate: config.learningRate })
      return yield* divergence(run, iteration, lossesAndNorms(steps))
    }
    // Before the first step, old and new log-probabilities are those of the same weights.
    if (steps.length === 1 && step.approximateKl > config.maxMismatchKl) return yield* mismatch(run, iteration, step.approximateKl)
    yield* progress({ message: "updating" })
  }
  trainer.finish(statistics, responses.length)
  history.spent("update")

  const done = describeIteration({ iteration, responses, rewards, statistics, steps, sampleTexts: config.sampleTexts })
  history.iterations.push(done)
  const { generation, scoring, update } = history.seconds
  const { iteration: _, samples: __, reward: meanReward, helpfulness, safety, ...rest } = done
  const {
    kl,
    policyLoss: loss,
    ...numbers
  } = rest as unknown as { readonly kl: number; readonly policyLoss: number } & Readonly<Record<string, number>>
  yield* progress({
    ...{ reward: meanReward, kl, loss, learningRate: config.learningRate },
    ...{ generationSeconds: generation, scoringSeconds: scoring, updateSeconds: update },
    ...{ helpfulness: helpfulness ?? undefined, safety: safety ?? undefined, ...numbers, ...gpuMemory() }
  })
})

/** The losses and gradient norms of the last step, as text. */
const lossesAndNorms = (steps: ReadonlyArray<object>): string => {
  const { policyLoss, valueLoss, policyGradientNorm, valueGradientNorm } = steps.at(-1)! as Readonly<Record<string, number>>
  const numbers =
    valueLoss === undefined
      ? `loss ${policyLoss}, gradient norm ${policyGradientNorm}`
      : `policy loss ${policyLoss}, value loss ${valueLoss}, gradient norms ${policyGradientNorm} and ${valueGradientNorm}`
  return `${numbers} at mini-batch ${steps.length}`
}

/** Evaluates the policy on the held-out prompts, with the same random numbers each time. Returns whether to stop. */
const evaluate = Effect.fn("evaluate")(function* <E extends Rollout, L, S extends object, Step extends StepNumbers, N>(
  run: Run<E, L, S, Step, N>,
  iteration: number
) {
  const { config, seed, heldOut, history, progress, purpose } = run
  gather(run.trainer.spreads)
  const seeds = heldOut.map((_, i) => deriveSeed(seed, purpose, "held-out", i))
  const responses = yield* rollout(run, heldOut, seeds)
  history.spent("generation")
  const rewards = yield* reward(run, responses)
  history.spent("scoring")
  const evaluation = { iteration, ...describeResponses(responses, rewards) }
  yield* progress({ heldOutReward: evaluation.reward })
  const stop = history.evaluated(evaluation, run, config.patience)
  release(run.trainer.spreads)
  return stop
})

/** One iteration, followed by an evaluation if it is due; number 0 is the evaluation before the first. Returns whether to stop. */
const advance = Effect.fn("advance")(function* <
  E extends Rollout,
  L,
  S extends object,
  Step extends StepNumbers,
  N extends { readonly steps: number }
>(run: Run<E, L, S, Step, N>, iteration: number) {
  const { config, heldOut } = run
  if (iteration > 0) yield* iterate(run, iteration)
  const due = iteration % config.evaluateEvery === 0 || iteration === config.iterations
  return heldOut.length > 0 && due ? yield* evaluate(run, iteration) : false
})

/** Runs the remaining iterations, saving after each. Returns why it stopped. */
const advanceToEnd = Effect.fn("advanceToEnd")(function* <
  E extends Rollout,
  L,
  S extends object,
  Step extends StepNumbers,
  N extends { readonly steps: number }
>(run: Run<E, L, S, Step, N>, save: Effect.Effect<void>) {
  const { config, heldOut, history } = run
  const first = heldOut.length > 0 && history.heldOut.length === 0 ? 0 : history.iterations.length + 1
  for (let iteration = first; iteration <= config.iterations; iteration++) {
    const stop = yield* advance(run, iteration).pipe(
      Effect.catchTag("NotFiniteLogitsError", ({ message }) => divergence(run, iteration, message))
    )
    if (stop) return iteration === config.iterations ? ("iterations" as const) : ("early-stopping" as const)
    yield* save
  }
  return "iterations" as const
})

interface Given extends Pick<Stage.Context, "seed" | "progress" | "checkpoints" | "skipped" | "recorded"> {
  readonly config: LoopConfig
  readonly inputs: PolicyInputs & {
    readonly prompts: ArtifactRef<Dataset<Prompt>>
    readonly heldOut?: ArtifactRef<Dataset<Prompt>> | undefined
  }
  readonly output: OutputSlot<Checkpoint<"policy">>
}

/** Fails if onDivergence is "keep-best" but there are no held-out prompts to determine the best policy. */
export const checkKeepsBest = ({ config, inputs }: Pick<Given, "config" | "inputs">): Effect.Effect<void, UpdateSetupError> =>
  config.onDivergence === "keep-best" && inputs.heldOut === undefined
    ? Effect.fail(
        new UpdateSetupError({
          message: `onDivergence "keep-best" needs held-out prompts to determine the best policy: connect the input heldOut, or set onDivergence to "fail".`
        })
      )
    : Effect.void

/** The prompts that leave space for a response in the smallest context of all models; fails if there are none. */
export const readPromptSets = Effect.fn("readPromptSets")(function* (
  { config, inputs, skipped }: Pick<Given, "config" | "inputs" | "skipped">,
  { tokenizer }: Pick<PolicyModels, "tokenizer">,
  { context, models, name }: { readonly context: number; readonly models: string; readonly name: string }
) {
  const room = context - config.maxNewTokens
  if (room < 1)
    return yield* new UpdateSetupError({
      message: `maxNewTokens ${config.maxNewTokens} leaves no space for a prompt: the smallest context of ${models} holds ${context} tokens. Set maxNewTokens below ${context}.`
    })
  const rows = yield* readRows(inputs.prompts, Prompts)
  const heldOutRows = inputs.heldOut === undefined ? [] : yield* readRows(inputs.heldOut, Prompts)
  const prompts = fitPrompts(tokenizer, rows, room, skipped)
  const heldOut = fitPrompts(tokenizer, heldOutRows, room, skipped, "held-out prompts")
  const nothingFits = (all: ReadonlyArray<unknown>, what: string) =>
    EmptyDatasetError.of(`run ${name} on`, `${all.length} ${what}, none of which fits ${room} tokens`)
  if (prompts.length === 0) return yield* nothingFits(rows, "prompts")
  if (heldOut.length === 0 && inputs.heldOut !== undefined) return yield* nothingFits(heldOutRows, "held-out prompts")
  yield* skipped.check("prompts", rows.length)
  yield* skipped.check("held-out prompts", heldOutRows.length)
  return { prompts, heldOut, promptsTooLong: rows.length + heldOutRows.length - prompts.length - heldOut.length }
})
export type PromptSets = Effect.Success<ReturnType<typeof readPromptSets>>

/** Runs a method to its end, resuming from the last checkpoint if there is one, and writes the kept policy with its diagnostics. */
export const runMethod = Effect.fn("runMethod")(function* <
  E extends Rollout,
  L,
  S extends object,
  Step extends StepNumbers,
  N extends { readonly steps: number }
>(
  { checkpoints: own, config, inputs, output, progress, recorded, seed }: Given,
  given: {
    readonly models: PolicyModels
    readonly method: Method<E, L, S, Step, N>
    readonly prompts: PromptSets
    readonly write: (
      folder: string,
      diagnostics: Omit<PpoDiagnostics, "iterations"> & { readonly iterations: ReadonlyArray<IterationOf<S, Step>> }
    ) => Effect.Effect<void>
    /** Metrics of the last iteration, for the trace. */
    readonly lastMetrics: (last: IterationOf<S, Step>) => Readonly<Record<string, number>>
  }
) {
  const checkpoints = ofAllRanks(own)
  const { lastMetrics, method, models } = given
  const { heldOut, prompts, promptsTooLong } = given.prompts
  const { fit, trainer } = method
  yield* reportFit({ fit, progress })
  const history = new RunHistory<IterationOf<S, Step>>()
  const run: Run<E, L, S, Step, N> = {
    ...models,
    ...method,
    ...{ config, seed, prompts, heldOut, history, microBatching: new MicroBatching(fit.microBatch, recorded) },
    progress: (report) => progress({ step: history.iterations.length, total: config.iterations, ...report })
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
    Effect.catchTag("UpdateDivergedError", (error) =>
      config.onDivergence === "keep-best" && history.best !== undefined
        ? Effect.as(progress({ message: error.message }), { stopped: "diverged" as const, divergence: error.message })
        : Effect.flatMap(
            Effect.orElseSucceed(checkpoints.latest, () => undefined),
            (last) => error.withLast(last)
          )
    ),
    Effect.ensuring(Effect.sync(() => trainer.free()))
  )
  for (const spread of trainer.spreads) spread.finish()

  const { iterations, best, kept, allSeconds } = history
  yield* given.write(output.path, {
    ...{ iterations, heldOut: history.heldOut, kept, ...ended },
    ...{ promptsTooLong, helpfulnessOnly: models.safety === undefined }
  })
  const [first, last] = [iterations[0], iterations.at(-1)]
  return yield* saveCheckpoint(output, {
    model: best ?? models.policy,
    tokenizer: models.tokenizer,
    base: inputs.policy,
    metrics: {
      ...{ iterations: iterations.length, kept },
      ...{ generationSeconds: allSeconds.generation, scoringSeconds: allSeconds.scoring, updateSeconds: allSeconds.update },
      ...{ promptsTooLong, ...fitMetrics(fit), ...run.microBatching.metrics },
      ...(first === undefined || last === undefined ? {} : { firstReward: first.reward, lastReward: last.reward, ...lastMetrics(last) })
    }
  })
})
