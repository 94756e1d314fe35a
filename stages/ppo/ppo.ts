/**
 * Proximal policy optimisation (Llama 2 §3.2.3), on top of the last rejection-sampling checkpoint:
 *
 *     maximise E[ R~_c(g|p) - beta KL(pi(g|p) || pi_0(g|p)) ],      R~_c = whiten(logit(R_c))                    (eq. 3 and 4)
 *     R_c = R_s  if is_safety(p) or R_s < 0.15,  else R_h
 *
 * An iteration samples a batch of responses, scores them, and takes one gradient step for each mini-batch (update.ts; the losses are
 * in losses.ts, advantages in advantages.ts, KL estimates in kl.ts).
 *
 * Top-k and top-p are not offered: the responses would come from another distribution than the one that the update differentiates. Log-
 * probabilities are of logits / temperature everywhere: while sampling, in the reference and in the update.
 *
 * The paper names neither the value model nor its learning rate, GAE's parameters, the temperature, nor what becomes of responses without an
 * end: their defaults say where they are from.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows } from "../../data/dataset.ts"
import { deriveSeed, Random } from "../../engine/random.ts"
import { constantSchedule } from "../../engine/schedule.ts"
import { loadPolicy, loadReward, saveCheckpoint } from "../../models/checkpoint.ts"
import { activationBytes, forwardBytes, generationBytes } from "../../models/cost.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { type Generated, generate } from "../../models/sampler.ts"
import type { ResumePoint } from "../../runtime/define/checkpoints.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactType, Checkpoint } from "../../schemas/artifact.ts"
import { validateCheckpoint } from "../../schemas/checkpoint-files.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Prompt, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { promptLength, rowCount } from "../common/cost/size.ts"
import { frozen, generating, languageModel, reading, scalarModel, together, trained, training, type Work } from "../common/cost/work.ts"
import { terminalScore } from "./advantages.ts"
import { gateScopes, whiten } from "../reward/combined-reward.ts"
import { fitPrompt } from "../common/dialogues.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { keepPpo, resumePpo } from "./checkpoint.ts"
import { checkSameTokenizer, checkTokenizerFolders, cloneLlama, copyWeights, valueFromPolicy, valueFromScalar } from "./models.ts"
import { type PpoDiagnostics, type PpoEvaluation, type PpoIteration, writeRecord } from "./record.ts"
import { type ResponseReward, rewardResponses } from "./reward.ts"
import { Ppo, type StepStatistics } from "./update.ts"
import { logProbabilitiesOf } from "./rollouts.ts"
import { chunks } from "../common/sequences.ts"
import { mean } from "../common/statistics.ts"

export const PpoConfig = Schema.Struct({
  iterations: hyperInt(400, "batches at most; §3.2.3: between 200 and 400, with early stopping", { min: 1 }),
  batchSize: hyperInt(512, "responses an iteration; §3.2.3: 512", { min: 1 }),
  miniBatchSize: hyperInt(64, "responses a gradient step; §3.2.3: 64", { min: 1 }),
  epochs: hyperInt(1, "passes over a batch; §3.2.3: one gradient step per mini-batch", { min: 1 }),
  learningRate: hyper(1e-6, "constant; §3.2.3: 1e-6", { min: 0 }),
  valueLearningRate: hyper(9e-6, "of the value model, constant; §3.2.3 names none, InstructGPT C.4: 9e-6", { min: 0 }),
  weightDecay: hyper(0.1, "§3.2.3: 0.1", { min: 0 }),
  maxNorm: hyper(1, "gradient clipping, of policy and value model each; §3.2.3: 1.0", { min: 0 }),
  clip: hyper(0.2, "of the probability ratio; §3.2.3: 0.2", { min: 0 }),
  valueClip: hyper(0.2, "how far a value may move from its old one; as the ratio's", { min: 0 }),
  beta: hyper(0.01, "weight of the KL penalty, the first one if adaptive; §3.2.3: 0.01 (7B, 13B), 0.005 (34B, 70B)", { min: 0 }),
  klControl: hyper("fixed", "whether beta stays (§3.2.3) or is steered towards klTarget", ["fixed", "adaptive"]),
  klTarget: hyper(6, "nats a response that an adaptive beta aims at; Ziegler et al. 2019: 6", { min: 1e-6 }),
  klHorizon: hyper(10_000, "responses over which an adaptive beta reacts; Ziegler et al. 2019: 10000", { min: 1 }),
  klEstimator: hyper("k1", "per-token estimate of the KL: log pi / pi_0 (k1), half its square (k2), or r - 1 - log r (k3)", [
    "k1",
    "k2",
    "k3"
  ]),
  gamma: hyper(1, "discount; a response is worth the same however long it is", { min: 0, max: 1 }),
  lambda: hyper(0.95, "of generalised advantage estimation; Schulman et al. 2016", { min: 0, max: 1 }),
  whitenRewards: hyper(true, "§3.2.3 eq. 4: logit(R_c) is whitened over the batch"),
  whitenAdvantages: hyper("shift", "over the batch's tokens to deviation 1: the mean shifted to 0, kept, or no whitening at all", [
    "shift",
    "keep",
    "none"
  ]),
  terminal: hyper("last-token", "whether a response's score is paid with its last token or one step after it", ["last-token", "past-end"]),
  noEos: hyper("none", "a response that was cut off: its score stays, loses the penalty, or is replaced by minus the penalty", [
    "none",
    "penalty",
    "replace"
  ]),
  noEosPenalty: hyper(1, "in the units of the score that is paid: deviations of the batch, if whitened", { min: 0 }),
  unreadableScore: hyper(0.01, "R_c of a response that reward models can't read: empty, or with the chat format's own tags", {
    min: 1e-6,
    max: 1 - 1e-6
  }),
  threshold: hyper(0.15, "safety scores below it count alone; §3.2.3: 0.15", { min: 0, max: 1 }),
  scope: hyper(
    "prompt or threshold",
    "what the safety score alone decides; §3.2.3: safety prompts, and what is below the threshold",
    gateScopes
  ),
  temperature: hyper(1, "of sampling, of the reference and of the update alike; §3.2.3 names none for PPO", { min: 0.01 }),
  maxNewTokens: hyperInt(256, "tokens a response at most", { min: 1 }),
  oldLogProbabilities: hyper(
    "recorded",
    "of responses under the policy that drew them: as recorded while sampling, or computed again as the update does (one more pass; worth it in bfloat16, where the two round differently)",
    ["recorded", "recomputed"]
  ),
  precision: hyper(
    "float32",
    "of weights and activations; scores, log-probabilities and the optimisers' copies of the weights are float32 either way",
    ["float32", "bfloat16"]
  ),
  valueInit: hyper(
    "reward",
    "whose weights the value model starts from: the helpfulness reward model's (or those wired to `value`), or the policy's",
    ["reward", "policy"]
  ),
  valueHead: hyper("new", "the value model's head: new, or the one of the model it starts from", ["new", "given"]),
  evaluateEvery: hyperInt(10, "iterations between evaluations on the held-out prompts; §3.2.3: early stopping", { min: 1 }),
  patience: hyperInt(5, "evaluations without a better mean reward until it stops", { min: 1 }),
  onDivergence: hyper("fail", "a loss that is no number: fail, or end with the best policy by the held-out prompts", ["fail", "keep-best"]),
  sampleTexts: hyperInt(2, "responses an iteration that the diagnostics quote", { min: 0 }),
  microBatchSize: hyperInt(
    8,
    "responses at once with gradients: memory against speed; the loss does not depend on it, but for the order of float sums",
    {
      min: 1
    }
  ),
  inferenceBatchSize: hyperInt(64, "responses at once when sampling and scoring: memory against speed", { min: 1 })
})
type Config = typeof PpoConfig.Type

/** PPO can't go on: a loss, a gradient or a score is not a number. */
export class PpoDivergedError extends Schema.TaggedError<PpoDivergedError>()("PpoDivergedError", {
  iteration: Schema.Number,
  what: Schema.String,
  message: Schema.String
}) {
  /** `steps` are the gradient steps taken until then; iteration 0 is the evaluation before the first. */
  static of({
    iteration,
    of,
    steps,
    what
  }: {
    readonly iteration: number
    readonly of: number
    readonly steps: number
    readonly what: string
  }): PpoDivergedError {
    const where = iteration === 0 ? `before the first of ${of} iterations` : `in iteration ${iteration} of ${of}`
    // Fewer iterations than one there are not.
    const fewer = iteration > 1 ? `iterations to ${iteration - 1} or ` : ""
    const hint =
      steps === 0
        ? "No step was taken yet: a model that was given is at fault, or a setting is far too large. Look at the stages that made policy and value model."
        : `Lower learningRate or valueLearningRate, raise beta, or set ${fewer}onDivergence to "keep-best" to keep a policy from before.`
    return new PpoDivergedError({ iteration, what, message: `PPO diverged ${where}: ${what}. ${hint}` })
  }
}

/** The error with where the last checkpoint is, if there is one. The record has it without: paths are no result. */
const withLast = (error: PpoDivergedError, last: ResumePoint | undefined): PpoDivergedError => {
  if (last === undefined) return error
  const { iteration, what, message } = error
  return new PpoDivergedError({
    iteration,
    what,
    message: `${message} The policy as it was after iteration ${last.step} is in ${last.path}.`
  })
}

/** Settings that contradict one another or the inputs. */
export class PpoSetupError extends Schema.TaggedError<PpoSetupError>()("PpoSetupError", { message: Schema.String }) {}

type ValueRole = "value" | "helpfulness-reward" | "safety-reward" | "general-reward"
const valueRoles: ReadonlyArray<ValueRole> = ["value", "helpfulness-reward", "safety-reward", "general-reward"]
/** What a value model may start from: another one, or a reward model. */
const ValueInitialiser: ArtifactType<Checkpoint<ValueRole>> = {
  kind: "checkpoint",
  name: valueRoles.map((role) => `checkpoint:${role}`).join("|"),
  accepts: (name) => valueRoles.some((role) => name === `checkpoint:${role}`),
  validate: (directory) => validateCheckpoint(directory, valueRoles)
}

const inputs = {
  policy: Policy,
  helpfulness: HelpfulnessReward,
  safety: Stage.optional(SafetyReward),
  prompts: Prompts,
  heldOut: Stage.optional(Prompts),
  value: Stage.optional(ValueInitialiser)
}
type Given = Stage.Context<typeof PpoConfig, typeof inputs>

/** A prompt with its tokens. */
interface Question {
  readonly prompt: Prompt
  readonly tokens: ReadonlyArray<number>
}
interface Answered extends Generated {
  readonly question: Question
  readonly text: string
  readonly reward: ResponseReward
}

/** The prompts in a fresh permutation each time they are gone through, without end. */
export function* endlessly<A>(items: ReadonlyArray<A>, seed: number): Generator<A, never, undefined> {
  for (let pass = 0; ; pass++) yield* new Random(seed, "ppo", "prompts", pass).shuffle(items)
}

/** What is paid for each response of a batch: its reward, whitened over the batch if asked, by how it ended. */
export const batchScores = (
  responses: ReadonlyArray<{ readonly reward: number; readonly finished: boolean }>,
  config: Pick<Config, "whitenRewards" | "noEos" | "noEosPenalty">
): Array<number> => {
  const rewards = responses.map(({ reward }) => reward)
  return (config.whitenRewards ? whiten(rewards) : rewards).map((score, i) =>
    terminalScore(score, responses[i]!.finished, { noEos: config.noEos, penalty: config.noEosPenalty })
  )
}

/** Evaluations on held-out prompts so far: which is the best, and whether to stop. */
export const judgeEvaluations = (
  rewards: ReadonlyArray<number>,
  patience: number
): { readonly best: number; readonly isLast: boolean; readonly stop: boolean } => {
  const best = rewards.reduce((best, reward, i) => (reward > rewards[best]! ? i : best), 0)
  return { best, isLast: best === rewards.length - 1, stop: rewards.length - 1 - best >= patience }
}

const summarise = (answers: ReadonlyArray<Answered>): Omit<PpoEvaluation, "iteration"> => {
  const meanOf = (pick: (answer: Answered) => number | null): number | null => {
    const values = answers.map(pick).filter((value) => value !== null)
    return values.length === 0 ? null : mean(values)
  }
  return {
    reward: mean(answers.map(({ reward }) => reward.reward)),
    helpfulness: meanOf(({ reward }) => reward.helpfulness),
    safety: meanOf(({ reward }) => reward.safety),
    responseLength: mean(answers.map(({ tokens }) => tokens.length)),
    withoutEos: mean(answers.map(({ finished }) => (finished ? 0 : 1))),
    unreadable: mean(answers.map(({ reward }) => (reward.helpfulness === null ? 1 : 0)))
  }
}

const averageSteps = (steps: ReadonlyArray<StepStatistics>) => {
  const average = (pick: (step: StepStatistics) => number) => mean(steps.map(pick))
  return {
    policyLoss: average((step) => step.policyLoss),
    valueLoss: average((step) => step.valueLoss),
    entropy: average((step) => step.entropy),
    clipFraction: average((step) => step.clipFraction),
    approximateKl: average((step) => step.approximateKl),
    policyGradientNorm: average((step) => step.policyGradientNorm),
    valueGradientNorm: average((step) => step.valueGradientNorm)
  }
}

/** Loads the models. The reference is the loaded policy itself; what is trained are copies; a reward model is loaded once. */
const prepare = Effect.fn("ppo.prepare")(function* ({ config, inputs, seed, device }: Given) {
  const { valueInit, valueHead } = config
  if (valueInit === "policy" && inputs.value !== undefined)
    return yield* new PpoSetupError({
      message: `The value model is to start from the policy (valueInit "policy"), yet a checkpoint is wired to "value". Leave one of the two out.`
    })
  if (valueInit === "policy" && valueHead === "given")
    return yield* new PpoSetupError({
      message: `A policy has no scalar head that the value model could take over: set valueHead to "new", or valueInit to "reward".`
    })
  if (config.onDivergence === "keep-best" && inputs.heldOut === undefined)
    return yield* new PpoSetupError({
      message: `onDivergence "keep-best" needs held-out prompts to tell the best policy: wire "heldOut", or set onDivergence to "fail".`
    })
  const options = { device, dtype: config.precision }
  const { model: reference, tokenizer } = yield* loadPolicy(inputs.policy, options)
  const helpfulness = yield* loadReward(inputs.helpfulness, options)
  yield* checkSameTokenizer(tokenizer, helpfulness.tokenizer, "helpfulness reward model")
  const safety = inputs.safety === undefined ? undefined : yield* loadReward(inputs.safety, options)
  if (safety !== undefined) yield* checkSameTokenizer(tokenizer, safety.tokenizer, "safety reward model")
  let value: RewardModel
  const headSeed = deriveSeed(seed, "ppo", "value head")
  if (valueInit === "policy") value = valueFromPolicy(reference, { seed: headSeed })
  else {
    const loaded = [
      { ref: inputs.helpfulness, found: helpfulness },
      { ref: inputs.safety, found: safety }
    ].find(({ ref }) => inputs.value === undefined || inputs.value.digest === ref?.digest)?.found
    const start = loaded ?? (yield* loadReward(inputs.value!, options))
    yield* checkSameTokenizer(tokenizer, start.tokenizer, "value model")
    value = valueFromScalar(start.model, { seed: headSeed, head: valueHead })
  }
  const contexts = [
    reference.config.maxPositions,
    value.config.maxPositions,
    // The chat format ends an answer with a space and EOS, which sampled tokens may not hold.
    ...[helpfulness, safety].map((reward) => (reward === undefined ? Infinity : reward.model.config.maxPositions - 2))
  ]
  const room = Math.min(...contexts) - config.maxNewTokens
  if (room < 1)
    return yield* new PpoSetupError({
      message: `maxNewTokens ${config.maxNewTokens} leaves no room for a prompt: the smallest context of policy, value and reward models holds ${Math.min(...contexts)} tokens.`
    })
  return { reference, policy: cloneLlama(reference), value, tokenizer, helpfulness, safety, room }
})

export const ppo = Stage.make("ppo", {
  description: "§3.2.3 proximal policy optimisation against the combined reward, with a KL penalty to the policy it starts from",
  config: PpoConfig,
  inputs,
  output: Policy,
  inherits: { tokenizer: "policy" },
  agrees: [{ trait: "tokenizer", ports: ["policy", "helpfulness", "safety", "value"], check: checkTokenizerFolders }],
  resources: { tensors: true },
  run: Effect.fn("ppo")(function* (context) {
    const { config, inputs, output, seed, device, progress, checkpoints } = context
    const { iterations, inferenceBatchSize, temperature, maxNewTokens } = config
    const { reference, policy, value, tokenizer, helpfulness, safety, room } = yield* prepare(context)

    const rows = yield* readRows(inputs.prompts, Prompts)
    const heldOutRows = inputs.heldOut === undefined ? [] : yield* readRows(inputs.heldOut, Prompts)
    const questionsOf = (prompts: ReadonlyArray<Prompt>): Array<Question> =>
      prompts.flatMap((prompt) => {
        const tokens = fitPrompt(tokenizer, prompt.messages, room)
        return tokens === undefined ? [] : [{ prompt, tokens }]
      })
    const questions = questionsOf(rows)
    const heldOut = questionsOf(heldOutRows)
    const promptsTooLong = rows.length + heldOutRows.length - questions.length - heldOut.length
    for (const [name, kept, all] of [
      ["prompts", questions, rows],
      ["held-out prompts", heldOut, heldOutRows]
    ] as const) {
      if (kept.length === 0 && (name === "prompts" || inputs.heldOut !== undefined))
        return yield* EmptyDatasetError.of("run PPO on", `${all.length} ${name}, none of which fits ${room} tokens`)
    }

    const trainer = new Ppo({
      policy,
      reference,
      value,
      padId: tokenizer.padId,
      device,
      seed,
      temperature,
      miniBatchSize: config.miniBatchSize,
      microBatchSize: config.microBatchSize,
      inferenceBatchSize,
      epochs: config.epochs,
      clip: config.clip,
      valueClip: config.valueClip,
      schedule: constantSchedule(config.learningRate),
      valueSchedule: constantSchedule(config.valueLearningRate),
      weightDecay: config.weightDecay,
      maxNorm: config.maxNorm,
      beta: config.beta,
      klControl: config.klControl === "fixed" ? "fixed" : { target: config.klTarget, horizon: config.klHorizon },
      klEstimator: config.klEstimator,
      gamma: config.gamma,
      lambda: config.lambda,
      terminal: config.terminal,
      whitenAdvantages: config.whitenAdvantages
    })
    const diverged = (iteration: number, what: string) =>
      PpoDivergedError.of({ iteration, of: iterations, steps: trainer.numbers.steps, what })
    /** Time spent: in this iteration, and in all. Shown and kept in the trace, never in the artifact. */
    const seconds = { generation: 0, scoring: 0, update: 0 }
    const allSeconds = { ...seconds }
    const spend = (part: keyof typeof seconds, start: number): void => {
      const taken = (performance.now() - start) / 1000
      seconds[part] += taken
      allSeconds[part] += taken
    }
    const timed = <A>(part: keyof typeof seconds, body: () => A): A => {
      const start = performance.now()
      try {
        return body()
      } finally {
        spend(part, start)
      }
    }
    const record: Array<PpoIteration> = []
    const at = () => ({ step: record.length, total: iterations })

    /** Samples a response to each question and scores it. */
    const answer = Effect.fnUntraced(function* (asked: ReadonlyArray<Question>, iteration: number, purpose: (i: number) => number) {
      const generated = new Array<Generated>(asked.length)
      const order = asked.map((_, i) => i).sort((a, b) => asked[a]!.tokens.length - asked[b]!.tokens.length || a - b)
      for (const batch of chunks(order, inferenceBatchSize)) {
        const some = yield* Effect.try({
          try: () =>
            timed("generation", () =>
              generate(
                policy,
                batch.map((i) => asked[i]!.tokens),
                { maxNewTokens, temperature, seeds: batch.map(purpose), eosId: tokenizer.eosId, padId: tokenizer.padId }
              )
            ),
          catch: (cause) => cause as Error
        }).pipe(
          // Logits that are no numbers; any other error is a mistake in the code.
          Effect.catch((error) =>
            error.message.includes("are not numbers") ? Effect.fail(diverged(iteration, error.message)) : Effect.die(error)
          )
        )
        batch.forEach((i, j) => (generated[i] = some[j]!))
        yield* progress({ ...at(), message: "sampling", tokens: some.reduce((sum, { tokens }) => sum + tokens.length, 0) })
      }
      // A padded embedding table has rows without a piece: such a response can't be read, and is scored as the empty one is.
      const texts = generated.map(({ tokens }) => (tokens.some((id) => id >= tokenizer.vocabSize) ? "" : tokenizer.decode(tokens).trim()))
      const start = performance.now()
      const rewards = yield* rewardResponses(
        { helpfulness, safety },
        asked.map(({ prompt }, i) => ({ prompt, text: texts[i]!, finished: generated[i]!.finished })),
        {
          threshold: config.threshold,
          scope: config.scope,
          unreadableScore: config.unreadableScore,
          batchSize: inferenceBatchSize,
          device,
          progress: ({ tokens }) => progress({ ...at(), message: "scoring", ...(tokens === undefined ? {} : { tokens }) })
        }
      )
      spend("scoring", start)
      return asked.map((question, i): Answered => ({ ...generated[i]!, question, text: texts[i]!, reward: rewards[i]! }))
    })

    const evaluations: Array<PpoEvaluation> = []
    let best: Llama | undefined
    /** Evaluates on held-out prompts, with the same random numbers each time; keeps the best policy. Says whether to stop. */
    const evaluate = Effect.fnUntraced(function* (iteration: number) {
      const answers = yield* answer(heldOut, iteration, (i) => deriveSeed(seed, "ppo", "held-out", i))
      evaluations.push({ iteration, ...summarise(answers) })
      const { isLast, stop } = judgeEvaluations(
        evaluations.map(({ reward }) => reward),
        config.patience
      )
      if (isLast) {
        // Before the first step the policy is the reference: no copy is needed until a better one comes.
        if (iteration === 0) best = reference
        else if (best === undefined || best === reference) best = cloneLlama(policy)
        else copyWeights(policy, best)
      }
      return stop
    })

    const stream = endlessly(questions, seed)
    const iterate = Effect.fnUntraced(function* (iteration: number) {
      Object.assign(seconds, { generation: 0, scoring: 0, update: 0 })
      const asked = Array.from({ length: config.batchSize }, () => stream.next().value)
      const answers = yield* answer(asked, iteration, (i) => deriveSeed(seed, "ppo", "rollout", iteration, i))
      const scores = batchScores(
        answers.map(({ reward, finished }) => ({ reward: reward.reward, finished })),
        config
      )
      const sampled = answers.map(({ question, tokens, logProbabilities }, i) => ({
        prompt: question.tokens,
        response: tokens,
        logProbabilities,
        score: scores[i]!
      }))
      const rollouts =
        config.oldLogProbabilities === "recorded"
          ? sampled
          : timed("update", () => {
              const options = { padId: tokenizer.padId, device, temperature, batchSize: inferenceBatchSize }
              const again = logProbabilitiesOf(policy, sampled, options)
              return sampled.map((rollout, i) => ({ ...rollout, logProbabilities: [...again[i]!] }))
            })
      const { statistics, steps } = timed("update", () => trainer.iterate(rollouts))
      const taken: Array<StepStatistics> = []
      for (let step = timed("update", () => steps.next()); step.done !== true; step = timed("update", () => steps.next())) {
        taken.push(step.value)
        if (step.value.diverged) {
          const { policyLoss, valueLoss, policyGradientNorm, valueGradientNorm } = step.value
          const what = `policy loss ${policyLoss}, value loss ${valueLoss}, gradient norms ${policyGradientNorm} and ${valueGradientNorm} at mini-batch ${taken.length}`
          return yield* diverged(iteration, what)
        }
        yield* progress({ ...at(), message: "updating" })
      }
      const row: PpoIteration = {
        iteration,
        ...summarise(answers),
        ...statistics,
        ...averageSteps(taken),
        mismatchKl: taken[0]!.approximateKl,
        samples: answers.slice(0, config.sampleTexts).map(({ question, text, finished, reward }) => ({
          promptId: question.prompt.id,
          prompt: question.prompt.messages.at(-1)!.content,
          response: text,
          finished,
          ...reward
        }))
      }
      record.push(row)
      yield* progress({
        step: iteration,
        total: iterations,
        reward: row.reward,
        kl: row.kl,
        loss: row.policyLoss,
        generationSeconds: seconds.generation,
        scoringSeconds: seconds.scoring,
        updateSeconds: seconds.update
      })
      const last = iteration === iterations
      return heldOut.length > 0 && (last || iteration % config.evaluateEvery === 0) ? yield* evaluate(iteration) : false
    })

    const models = { policy, value, reference, trainer, tokenizer }
    const goOn = Effect.gen(function* () {
      const found = yield* checkpoints.latest
      if (found === undefined) return
      const before = yield* resumePpo(found, models)
      record.push(...before.iterations)
      evaluations.push(...before.heldOut)
      Object.assign(allSeconds, before.seconds)
      best = before.best
      for (let i = 0; i < record.length * config.batchSize; i++) stream.next()
      yield* progress({ note: `goes on after iteration ${record.length} of ${iterations}, from its checkpoint` })
    })
    const keepWhenDue = Effect.suspend(() =>
      checkpoints.due()
        ? keepPpo(checkpoints, models, { iterations: record, heldOut: evaluations, seconds: allSeconds, best })
        : Effect.void
    )

    let stopped: PpoDiagnostics["stopped"] = "iterations"
    let divergence: string | null = null
    yield* Effect.gen(function* () {
      yield* goOn
      if (heldOut.length > 0 && evaluations.length === 0) {
        yield* evaluate(0)
        yield* keepWhenDue
      }
      for (let iteration = record.length + 1; iteration <= iterations; iteration++) {
        if (yield* iterate(iteration)) {
          if (iteration < iterations) stopped = "early-stopping"
          return
        }
        yield* keepWhenDue
      }
    }).pipe(
      Effect.catchTag("PpoDivergedError", (error) => {
        if (config.onDivergence === "fail" || best === undefined) return Effect.flatMap(checkpoints.latest, (last) => withLast(error, last))
        stopped = "diverged"
        divergence = error.message
        return progress({ message: error.message })
      }),
      Effect.ensuring(Effect.sync(() => trainer.free()))
    )

    const kept =
      best === undefined
        ? record.length
        : evaluations[
            judgeEvaluations(
              evaluations.map(({ reward }) => reward),
              config.patience
            ).best
          ]!.iteration
    yield* writeRecord(output.path, {
      iterations: record,
      heldOut: evaluations,
      kept,
      stopped,
      divergence,
      promptsTooLong,
      helpfulnessOnly: safety === undefined
    })
    const first = record[0]
    const final = record.at(-1)
    return yield* saveCheckpoint(output, {
      model: best ?? policy,
      tokenizer,
      metrics: {
        iterations: record.length,
        kept,
        promptsTooLong,
        generationSeconds: allSeconds.generation,
        scoringSeconds: allSeconds.scoring,
        updateSeconds: allSeconds.update,
        ...(first === undefined || final === undefined
          ? {}
          : { firstReward: first.reward, lastReward: final.reward, lastKl: final.kl, lastBeta: final.beta })
      }
    })
  })
})

export const ppoCost = costOf(ppo, {
  size: ({ inputs }) => inputs.policy,
  cost: ({ config, expected, inputs }) => {
    const { batchSize, epochs, evaluateEvery, inferenceBatchSize, iterations, maxNewTokens, microBatchSize, precision } = config
    const policy = languageModel(inputs.policy, "the policy")
    const rewards = [inputs.helpfulness, ...(inputs.safety === undefined ? [] : [inputs.safety])].map((size) =>
      scalarModel(size, "the reward models")
    )
    const start = config.valueInit === "policy" ? inputs.policy : (inputs.value ?? inputs.helpfulness)
    const value = scalarModel(start, "the value model")
    const prompt = promptLength(inputs.prompts, "PPO")
    const response = expected.responseTokens ?? maxNewTokens
    const length = prompt + response
    const rows = iterations * batchSize

    const evaluations = inputs.heldOut === undefined ? 0 : 1 + Math.ceil(iterations / evaluateEvery)
    const judged = inputs.heldOut === undefined ? 0 : evaluations * rowCount(inputs.heldOut, "held-out prompts")
    const answered = (rows: number, what: string): ReadonlyArray<Work> =>
      [
        ...generating(policy, precision, rows, inferenceBatchSize, { prompt, response }),
        ...rewards.map((model) => reading("score", model, precision, rows, length))
      ].map((work) => ({ ...work, what: `${what}: ${work.what}` }))
    const work = [
      ...answered(rows, "rollouts"),
      reading("reference", policy, precision, rows, length),
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
    // The reference, and the best policy so far; a value model that no reward model lends its weights to is a copy of its own too.
    const copies = [policy, ...(inputs.heldOut === undefined ? [] : [policy]), ...rewards].map((model) => frozen(model, precision, 0))
    return { work, memory: together([trained(policy, precision, 0), trained(value, precision, 0), ...copies], activations) }
  }
})
