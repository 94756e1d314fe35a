/**
 * The trainer of RLOO and GRPO, which differ in their `Method`. From responses and their scores it computes advantages within each group and a policy loss,
 * and takes a gradient step. ppo/loop.ts samples and scores the responses.
 *
 *     B responses in a micro-batch   N their tokens, one response after another without padding
 */
import { accumulateGradients, clipGradientNorm, type Parameters } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { Random } from "../../engine/random.ts"
import { allReduce_, overRanks } from "../../engine/ranks.ts"
import { constantSchedule, type Schedule } from "../../engine/schedule.ts"
import { backward } from "../../engine/segments.ts"
import { type Spread, spreadOver } from "../../engine/spread.ts"
import { cat, noGrad, stack, tensor, type Tensor } from "../../engine/tensor.ts"
import type { Llama } from "../../models/llama.ts"
import { chunks } from "../common/sequences.ts"
import { approximateKl, klEstimate } from "../ppo/kl.ts"
import { byLength, logProbabilitiesOf, responseLogProbabilities, sequenceLength } from "../ppo/models.ts"
import { defaultResponses } from "../ppo/config.ts"
import type { Rollout } from "../ppo/trainer.ts"
import { microBatchesOfRank } from "../training/micro-batches.ts"
import { type Fit, fitOnCpu } from "../training/fit.ts"
import { trainedParameters } from "../training/lora.ts"
import { groupsOf, isConstant } from "./advantages.ts"
import type { CriticFreeConfig } from "./config.ts"

/** A response with its training data. */
export interface Experience extends Rollout {
  /** Log-probabilities of its tokens under the reference. */
  readonly reference: ReadonlyArray<number>
  /** k1 estimate of the KL to the reference, in nats: the sum over its tokens. */
  readonly kl: number
  readonly advantage: number
}

/** A micro-batch: its responses, and their tokens' log-probabilities (N,) under the current policy, the policy that sampled them, and the reference. */
export interface Part {
  readonly responses: ReadonlyArray<Experience>
  readonly logProbabilities: Tensor
  readonly old: Tensor
  readonly reference: Tensor
}

/** The difference between RLOO and GRPO. */
export interface Method {
  /** The advantage of each response of one group. */
  readonly advantages: (group: ReadonlyArray<Pick<Experience, "score" | "kl">>) => ReadonlyArray<number>
  /** The loss, summed over responses; and the number of responses outside the clip range (for GRPO, the sum over responses of the share of their tokens). */
  readonly loss: (part: Part) => { readonly loss: Tensor; readonly clipped: Tensor }
}

export interface CriticFreeTrainerOptions {
  readonly config: CriticFreeConfig
  readonly method: Method
  /** Trained; if it has an adapter, only the adapter is. */
  readonly policy: Llama
  /** Frozen; the policy is kept close to it. */
  readonly reference: Llama
  readonly padId: number
  /** Seed of the permutations. */
  readonly seed: number
  /** The learning rate by iteration, counted from 0. config.learningRate by default. */
  readonly schedule?: Schedule
}

/** Statistics of one iteration's responses, before any step. */
export interface ExperienceStatistics {
  /** k1 estimate of the KL to the reference, in nats, mean over responses. */
  readonly kl: number
  readonly klPerToken: number
  /** Share of the groups whose responses all have the same score, which give no learning signal. */
  readonly constantGroups: number
}

/** Statistics of one gradient step, before its update. */
export interface StepStatistics {
  readonly policyLoss: number
  /** Before clipping. */
  readonly policyGradientNorm: number
  /** Share of responses (GRPO: mean over responses of the share of their tokens) whose ratio is outside the clip range. */
  readonly clipFraction: number
  /** k3 estimate of KL(old || new), mean over tokens. */
  readonly approximateKl: number
  readonly entropy: number
  /** True if the loss or the gradient norm is not finite; the policy is then unchanged. */
  readonly diverged: boolean
}

/** A trainer's state between two iterations, apart from tensors. */
export interface TrainerNumbers {
  readonly iteration: number
  readonly steps: number
}

/** Label of the collective operation in which ranks read the responses. */
const reading = "reading the responses"

/** An iteration consists of `advantages`, `loss` and `step` for each of `miniBatches`, and `finish`. */
export class CriticFreeTrainer {
  readonly #options: CriticFreeTrainerOptions
  readonly #schedule: Schedule
  readonly #fit: Fit
  readonly #spread: Spread
  readonly #optimizer: AdamW
  #iteration = 0

  constructor(options: CriticFreeTrainerOptions) {
    const { config, policy } = options
    this.#options = options
    this.#fit = fitOnCpu({ microBatch: config.microBatchSize, recompute: config.recompute }, policy.config.layers, defaultResponses)
    this.#schedule = options.schedule ?? constantSchedule(config.learningRate)
    this.#spread = spreadOver(trainedParameters(policy))
    this.#optimizer = new AdamW({ parameters: this.#spread.parameters, weightDecay: config.weightDecay })
  }

  /** Computes the advantage of each response within its group (groups are consecutive), and its log-probabilities under policy and reference. */
  advantages(rollouts: ReadonlyArray<Rollout>): {
    readonly experience: ReadonlyArray<Experience>
    readonly statistics: ExperienceStatistics
  } {
    const { config, method, policy, reference } = this.#options
    const old =
      config.oldLogProbabilities === "recorded"
        ? rollouts.map(({ logProbabilities }) => logProbabilities)
        : overRanks(rollouts, reading, (some) => logProbabilitiesOf(policy, some, this.#options))
    const references = overRanks(rollouts, reading, (some) => logProbabilitiesOf(reference, some, this.#options))
    const kls = old.map((row, i) => row.reduce((sum, logProbability, t) => sum + klEstimate("k1", logProbability, references[i]![t]!), 0))
    const groups = groupsOf(
      rollouts.map(({ score }, i) => ({ score, kl: kls[i]! })),
      config.groupSize
    )
    const advantages = groups.flatMap((group) => method.advantages(group))
    const total = kls.reduce((sum, kl) => sum + kl, 0)
    return {
      experience: rollouts.map((rollout, i) => ({
        ...rollout,
        ...{ logProbabilities: old[i]!, reference: references[i]!, kl: kls[i]!, advantage: advantages[i]! }
      })),
      statistics: {
        kl: total / rollouts.length,
        klPerToken: total / rollouts.reduce((sum, { response }) => sum + response.length, 0),
        constantGroups: groups.filter((group) => isConstant(group.map(({ score }) => score))).length / groups.length
      }
    }
  }

  /** The mini-batches of all epochs; each epoch has a new permutation. */
  *miniBatches(experience: ReadonlyArray<Experience>): Generator<ReadonlyArray<Experience>, void, undefined> {
    const { config, seed } = this.#options
    for (let epoch = 0; epoch < config.epochs; epoch++)
      yield* chunks(new Random(seed, "critic-free", "permutation", this.#iteration, epoch).shuffle(experience), config.miniBatchSize)
  }

  /**
   * Computes the loss of a mini-batch and its gradients, in micro-batches; returns (4,): loss, clip fraction, KL(old || new), entropy. Call it and `step`
   * inside the same scope. `fit` says how the mini-batch is split; by default as on the CPU, from config.microBatchSize and recompute.
   */
  loss(miniBatch: ReadonlyArray<Experience>, fit: Fit = this.#fit): Tensor {
    const { method, policy } = this.#options
    const tokens = miniBatch.reduce((sum, { response }) => sum + response.length, 0)
    const { counted, parts: microBatches } = microBatchesOfRank(byLength(miniBatch), fit.microBatch, sequenceLength)
    const compute = (part: ReadonlyArray<Experience>): Tensor => {
      const { entropy, logProbabilities } = responseLogProbabilities(policy, part, this.#options) // (N,) and one element
      const flat = (field: "logProbabilities" | "reference") =>
        tensor(Float64Array.from(part.flatMap((response) => response[field])), like(logProbabilities)) // (N,)
      const [old, reference] = [flat("logProbabilities"), flat("reference")]
      const { clipped, loss } = method.loss({ responses: part, logProbabilities, old, reference })
      const share = counted(loss.div(miniBatch.length), part)
      backward(share)
      return noGrad(() => {
        const kl = approximateKl(logProbabilities.detach(), old)
        return counted(stack([share.detach(), clipped.detach().div(miniBatch.length), kl.div(tokens), entropy.div(tokens)], 0), part) // (4,)
      })
    }
    const parts = accumulateGradients(trainedParameters(policy), microBatches, compute, { ...fit, weights: this.#spread })
    return noGrad(() => allReduce_(stack(parts, 0).sum(0), "adding up the losses"))
  }

  /** Clips the gradients and takes a step, unless a number is not finite. */
  step(losses: Tensor): StepStatistics {
    const { config } = this.#options
    const norm = clipGradientNorm(this.#spread.parameters, config.maxNorm, this.#spread).reshape(1)
    // Read in one transfer, so that the GPU is synchronised once.
    const numbers = noGrad(() =>
      cat(
        [losses, norm].map((part) => part.to({ dtype: "float64" })),
        0
      ).toNumbers()
    ) as [number, number, number, number, number]
    const [policyLoss, clipFraction, kl, entropy, policyGradientNorm] = numbers
    const diverged = ![policyLoss, policyGradientNorm].every(Number.isFinite)
    if (!diverged) {
      this.#optimizer.step(this.#schedule(this.#iteration))
      this.#spread.updated()
    }
    return { policyLoss, policyGradientNorm, clipFraction, approximateKl: kl, entropy, diverged }
  }

  /** Ends the iteration. The next iteration has its own learning rate and permutations. */
  finish(): void {
    this.#iteration++
  }

  /** How the policy is distributed over the ranks. */
  get spreads(): ReadonlyArray<Spread> {
    return [this.#spread]
  }
  /** The optimiser's tensors, by the spread that they belong to. */
  get parts(): ReadonlyArray<{ readonly spread: Spread; readonly tensors: Parameters }> {
    return [{ spread: this.#spread, tensors: this.tensors }]
  }

  /**
   * The optimiser's tensors. Together with the policy and `numbers` they are the trainer's state: to restore it, copy saved tensors into these and call
   * `resume`.
   */
  get tensors(): Parameters {
    return { ...this.#optimizer.state, ...this.#spread.masters }
  }
  get numbers(): TrainerNumbers {
    return { iteration: this.#iteration, steps: this.#optimizer.steps }
  }
  /** Continues from these numbers; policy and tensors must have been restored from the same iteration. */
  resume({ iteration, steps }: TrainerNumbers): void {
    this.#iteration = iteration
    this.#optimizer.resume(steps)
  }
  /** Frees the optimiser's state; the models are kept. */
  free(): void {
    this.#optimizer.free()
  }
}

const like = ({ device, dtype }: Tensor) => ({ device, dtype })
