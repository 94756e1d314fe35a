/**
 * PPO's trainer (Llama 2 §3.2.3). From responses and their scores it computes rewards with the KL penalty, advantages, and the clipped losses of policy
 * and value model, and takes a gradient step with each. loop.ts samples and scores the responses.
 *
 *     N response tokens of a micro-batch, one response after another without padding
 */
import { accumulateGradients, clipGradientNorm, type Parameters } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { Random } from "../../engine/random.ts"
import { allReduce_, overRanks } from "../../engine/ranks.ts"
import { backward } from "../../engine/segments.ts"
import { constantSchedule, type Schedule } from "../../engine/schedule.ts"
import { type Spread, spreadOver } from "../../engine/spread.ts"
import { cat, noGrad, stack, tensor, type Tensor } from "../../engine/tensor.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { chunks } from "../common/sequences.ts"
import { trainedParameters } from "../training/lora.ts"
import { explainedVariance, generalisedAdvantages, tokenRewards, whitenTokens } from "./advantages.ts"
import { type Fit, fitOnCpu } from "../training/fit.ts"
import { microBatchesOfRank } from "../training/micro-batches.ts"
import { type PpoConfig, defaultResponses } from "./config.ts"
import { adaptBeta, approximateKl, klEstimate } from "./kl.ts"
import { clippedTokens, policyLoss, valueLoss } from "./losses.ts"
import {
  byLength,
  logProbabilitiesOf,
  responseLogProbabilities,
  responseValues,
  sequenceLength,
  type TokenizedResponse,
  valuesOf
} from "./models.ts"

export interface PpoTrainerOptions {
  readonly config: PpoConfig
  /** Trained; if it has an adapter, only the adapter is. */
  readonly policy: Llama
  /** Frozen; the policy is kept close to it. */
  readonly reference: Llama
  /** Trained like the policy, and its head in any case. */
  readonly value: RewardModel
  readonly padId: number
  /** Seed of the permutations. */
  readonly seed: number
  /** The policy's learning rate by iteration, counted from 0, the same for all steps of an iteration. config.learningRate by default. */
  readonly schedule?: Schedule
}

/** A response to train on. */
export interface Rollout extends TokenizedResponse {
  /** Log-probabilities of the response's tokens under the policy that sampled them, at the sampling temperature. */
  readonly logProbabilities: ReadonlyArray<number>
  /** The score of the whole response. */
  readonly score: number
}

/** A rollout with its training data: one entry per token. */
export interface Experience extends Rollout {
  readonly advantages: ReadonlyArray<number>
  /** With terminal "past-end", values and returns have one more entry than there are tokens. */
  readonly values: ReadonlyArray<number>
  readonly returns: ReadonlyArray<number>
}

/** Statistics of one iteration's responses, before any step. */
export interface ExperienceStatistics {
  /** KL to the reference with the configured estimator, in nats, mean over responses. */
  readonly kl: number
  readonly klPerToken: number
  readonly explainedVariance: number
  /** The beta used for these rewards. */
  readonly beta: number
}

/** Losses of a mini-batch, on the device. The gradients are accumulated in the models' parameters. */
export interface Losses {
  /** Policy loss, clip fraction, KL(old || new), entropy: means over the mini-batch's tokens. (4,) */
  readonly policy: Tensor
  /** Mean over the mini-batch's states. (1,) */
  readonly value: Tensor
}

/** Statistics of one gradient step, before its update. Means are over the mini-batch's tokens. */
export interface StepStatistics {
  readonly policyLoss: number
  readonly valueLoss: number
  /** Before clipping. */
  readonly policyGradientNorm: number
  readonly valueGradientNorm: number
  readonly clipFraction: number
  /** k3 estimate of KL(old || new). */
  readonly approximateKl: number
  readonly entropy: number
  /** True if a loss or gradient norm is not finite; the models are then unchanged. */
  readonly diverged: boolean
}

/** A trainer's state between two iterations, apart from tensors. */
export interface TrainerNumbers {
  readonly beta: number
  /** Number of completed iterations. */
  readonly iteration: number
  /** Number of gradient steps, the same for policy and value model. */
  readonly steps: number
}

/** Label of the collective operation in which ranks read the responses. */
const reading = "reading the responses"

/** An iteration consists of `advantages`, `loss` and `step` for each of `miniBatches`, and `finish`. */
export class PpoTrainer {
  readonly #options: PpoTrainerOptions
  readonly #schedule: Schedule
  readonly #fit: Fit
  readonly #spread: { readonly policy: Spread; readonly value: Spread }
  readonly #policyOptimizer: AdamW
  readonly #valueOptimizer: AdamW
  #beta: number
  #iteration = 0

  constructor(options: PpoTrainerOptions) {
    const { config, policy, value } = options
    this.#options = options
    const layers = Math.max(policy.config.layers, value.config.layers)
    this.#fit = fitOnCpu({ microBatch: config.microBatchSize, recompute: config.recompute }, layers, defaultResponses)
    this.#schedule = options.schedule ?? constantSchedule(config.learningRate)
    this.#spread = { policy: spreadOver(trainedParameters(policy)), value: spreadOver(trainedParameters(value)) }
    this.#policyOptimizer = new AdamW({ parameters: this.#spread.policy.parameters, weightDecay: config.weightDecay })
    this.#valueOptimizer = new AdamW({ parameters: this.#spread.value.parameters, weightDecay: config.weightDecay })
    this.#beta = config.beta
  }

  /** Computes the advantages and returns of all tokens, using the reference and the value model. */
  advantages(rollouts: ReadonlyArray<Rollout>): {
    readonly experience: ReadonlyArray<Experience>
    readonly statistics: ExperienceStatistics
  } {
    const { config, policy, reference, value } = this.#options
    const old =
      config.oldLogProbabilities === "recorded"
        ? rollouts.map(({ logProbabilities }) => logProbabilities)
        : overRanks(rollouts, reading, (some) => logProbabilitiesOf(policy, some, this.#options))
    const references = overRanks(rollouts, reading, (some) => logProbabilitiesOf(reference, some, this.#options))
    const values = overRanks(rollouts, reading, (some) => valuesOf(value, some, this.#options))
    const estimates = rollouts.map(({ score }, i) => {
      const rewards = tokenRewards({ logProbabilities: old[i]!, reference: references[i]!, score, beta: this.#beta }, config)
      return generalisedAdvantages(rewards, values[i]!, config)
    })
    const advantages = whitenTokens(
      estimates.map((estimate, i) => estimate.advantages.slice(0, old[i]!.length)),
      config.whitenAdvantages
    )
    const returns = estimates.map((estimate) => estimate.returns)

    let [kl, tokens] = [0, 0]
    old.forEach((row, i) => {
      tokens += row.length
      row.forEach((logProbability, t) => (kl += klEstimate(config.klEstimator, logProbability, references[i]![t]!)))
    })
    return {
      experience: rollouts.map((rollout, i) => ({
        ...rollout,
        logProbabilities: old[i]!,
        advantages: advantages[i]!,
        values: values[i]!,
        returns: returns[i]!
      })),
      statistics: {
        kl: kl / rollouts.length,
        klPerToken: kl / tokens,
        explainedVariance: explainedVariance(values, returns),
        beta: this.#beta
      }
    }
  }

  /** The mini-batches of all epochs; each epoch has a new permutation. */
  *miniBatches(experience: ReadonlyArray<Experience>): Generator<ReadonlyArray<Experience>, void, undefined> {
    const { config, seed } = this.#options
    for (let epoch = 0; epoch < config.epochs; epoch++)
      yield* chunks(new Random(seed, "ppo", "permutation", this.#iteration, epoch).shuffle(experience), config.miniBatchSize)
  }

  /**
   * Computes the losses of a mini-batch and their gradients, in micro-batches. Call it and `step` inside the same scope. `fit` says how the mini-batch is
   * split; by default as on the CPU, from config.microBatchSize and recompute.
   */
  loss(miniBatch: ReadonlyArray<Experience>, fit: Fit = this.#fit): Losses {
    const { config, policy, value } = this.#options
    const { counted, parts } = microBatchesOfRank(byLength(miniBatch), fit.microBatch, sequenceLength)
    const tokens = miniBatch.reduce((sum, { response }) => sum + response.length, 0)
    const states = miniBatch.reduce((sum, { returns }) => sum + returns.length, 0)

    const policyParts = accumulateGradients(
      trainedParameters(policy),
      parts,
      (part) => {
        const { logProbabilities, entropy } = responseLogProbabilities(policy, part, this.#options) // (N,) and one element
        const old = flat(part, "logProbabilities", logProbabilities) // (N,)
        const advantages = flat(part, "advantages", logProbabilities) // (N,)
        const loss = counted(policyLoss(logProbabilities, old, advantages, config.clip).div(tokens), part)
        backward(loss)
        return noGrad(() => {
          const now = logProbabilities.detach()
          const [clipped, kl] = [clippedTokens(now, old, config.clip), approximateKl(now, old)]
          return counted(stack([loss.detach(), clipped.div(tokens), kl.div(tokens), entropy.div(tokens)], 0), part) // (4,)
        })
      },
      { ...fit, weights: this.#spread.policy }
    )
    const valueParts = accumulateGradients(
      trainedParameters(value),
      parts,
      (part) => {
        const values = responseValues(value, part, this.#options) // (N,)
        const [old, returns] = [flat(part, "values", values), flat(part, "returns", values)] // (N,)
        const loss = counted(valueLoss(values, old, returns, config.valueClip).div(states), part)
        backward(loss)
        return noGrad(() => loss.detach().reshape(1))
      },
      { ...fit, weights: this.#spread.value }
    )
    return noGrad(() => ({
      policy: allReduce_(stack(policyParts, 0).sum(0), "adding up the losses"),
      value: allReduce_(cat(valueParts, 0).sum(0, true), "adding up the losses")
    }))
  }

  /** Clips the gradients and takes a step with each optimiser, unless a number is not finite. */
  step(losses: Losses): StepStatistics {
    const { config } = this.#options
    const norms = this.spreads.map((spread) => clipGradientNorm(spread.parameters, config.maxNorm, spread).reshape(1))
    // Read in one transfer, so that the GPU is synchronised once.
    const numbers = noGrad(() =>
      cat(
        [losses.policy, losses.value, ...norms].map((part) => part.to({ dtype: "float64" })),
        0
      ).toNumbers()
    ) as [number, number, number, number, number, number, number]
    const [meanPolicyLoss, clipFraction, kl, entropy, meanValueLoss, policyGradientNorm, valueGradientNorm] = numbers
    const diverged = ![meanPolicyLoss, meanValueLoss, policyGradientNorm, valueGradientNorm].every(Number.isFinite)
    if (!diverged) {
      this.#policyOptimizer.step(this.#schedule(this.#iteration))
      this.#valueOptimizer.step(config.valueLearningRate)
      for (const spread of this.spreads) spread.updated()
    }
    return {
      policyLoss: meanPolicyLoss,
      valueLoss: meanValueLoss,
      policyGradientNorm,
      valueGradientNorm,
      clipFraction,
      approximateKl: kl,
      entropy,
      diverged
    }
  }

  /** Ends the iteration: adapts beta to the iteration's KL (if adaptive). The next iteration has its own learning rate and permutations. */
  finish({ kl }: Pick<ExperienceStatistics, "kl">, responses: number): void {
    const { config } = this.#options
    if (config.klControl === "adaptive") this.#beta = adaptBeta(this.#beta, { kl, responses }, config)
    this.#iteration++
  }

  /** How policy and value model are distributed over the ranks. */
  get spreads(): ReadonlyArray<Spread> {
    return Object.values(this.#spread)
  }
  /** The optimisers' tensors, by the spread that they belong to. */
  get parts(): ReadonlyArray<{ readonly spread: Spread; readonly tensors: Parameters }> {
    return (["policy", "value"] as const).map((model) => ({
      spread: this.#spread[model],
      tensors: Object.fromEntries(Object.entries(this.tensors).filter(([name]) => name.startsWith(`${model}.`)))
    }))
  }

  /**
   * The optimisers' tensors. Together with the two models and `numbers` they are the trainer's state: to restore it, copy saved tensors into these and
   * call `resume`.
   */
  get tensors(): Parameters {
    const named = (model: "policy" | "value", optimizer: AdamW) =>
      Object.entries({ ...optimizer.state, ...this.#spread[model].masters }).map(([name, tensor]) => [`${model}.${name}`, tensor] as const)
    return Object.fromEntries([...named("policy", this.#policyOptimizer), ...named("value", this.#valueOptimizer)])
  }
  get numbers(): TrainerNumbers {
    return { beta: this.#beta, iteration: this.#iteration, steps: this.#policyOptimizer.steps }
  }
  /** Continues from these numbers; models and tensors must have been restored from the same iteration. */
  resume({ beta, iteration, steps }: TrainerNumbers): void {
    this.#beta = beta
    this.#iteration = iteration
    this.#policyOptimizer.resume(steps)
    this.#valueOptimizer.resume(steps)
  }

  /** Frees the optimisers' state; the models are kept. */
  free(): void {
    this.#policyOptimizer.free()
    this.#valueOptimizer.free()
  }
}

/** A field of all responses, concatenated (N,), with the dtype and device of `like`. */
const flat = (part: ReadonlyArray<Experience>, field: "logProbabilities" | "advantages" | "values" | "returns", like: Tensor): Tensor =>
  tensor(Float64Array.from(part.flatMap((experience) => experience[field])), { dtype: like.dtype, device: like.device })
