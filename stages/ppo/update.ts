/**
 * One iteration of PPO on responses that are given with their scores (Llama 2 §3.2.3): rewards with the KL penalty, advantages, then clipped
 * policy and value losses, a gradient step each for every mini-batch. Where the responses and scores come from is the caller's business
 * (stages/ppo/ppo.ts samples and scores them; tests give their own).
 */
import { AdamW, clipGradientNorm, type Parameters } from "../../engine/optimizer.ts"
import { Random } from "../../engine/random.ts"
import type { Schedule } from "../../engine/schedule.ts"
import { cat, type Device, noGrad, scoped, stack, tensor, type Tensor } from "../../engine/tensor.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { explainedVariance, generalisedAdvantages, type TerminalPosition, tokenRewards, whitenTokens } from "./advantages.ts"
import { adaptBeta, type KlEstimator, klEstimate } from "./kl.ts"
import { approximateKl, clippedTokens, policyLoss, valueLoss } from "./losses.ts"
import { byLength, logProbabilitiesOf, responseLogProbabilities, responseValues, type Rollout, valuesOf } from "./rollouts.ts"
import { chunks } from "../common/sequences.ts"

export interface PpoOptions {
  /** Trained. */
  readonly policy: Llama
  /** Frozen: what the policy is held near. */
  readonly reference: Llama
  /** Trained. */
  readonly value: RewardModel
  readonly padId: number
  readonly device: Device
  /** Of the permutations. */
  readonly seed: number
  /** At which the responses were drawn. */
  readonly temperature: number
  /** Responses a gradient step. */
  readonly miniBatchSize: number
  /** Responses at once with gradients; the result does not depend on it, but for the order of float sums. */
  readonly microBatchSize: number
  /** Responses at once without gradients; the same. */
  readonly inferenceBatchSize: number
  /** Passes over the responses. */
  readonly epochs: number
  readonly clip: number
  readonly valueClip: number
  /** By iteration, counted from 0: every step of an iteration has the same. */
  readonly schedule: Schedule
  readonly valueSchedule: Schedule
  readonly weightDecay: number
  readonly maxNorm: number
  readonly beta: number
  readonly klControl: "fixed" | { readonly target: number; readonly horizon: number }
  readonly klEstimator: KlEstimator
  readonly gamma: number
  readonly lambda: number
  readonly terminal: TerminalPosition
  readonly whitenAdvantages: "shift" | "keep" | "none"
  /** In which order an epoch takes its n responses; a fresh random permutation each time unless told otherwise. */
  readonly permutation?: (iteration: number, epoch: number, n: number) => ReadonlyArray<number>
}

/** A response with everything that its tokens are trained on. Arrays over the tokens. */
export interface Experience {
  readonly rollout: Rollout
  readonly advantages: Float64Array
  /** One entry more than tokens, when the score is paid past the end. */
  readonly values: Float64Array
  readonly returns: Float64Array
}

/** Of one iteration's responses, before any step. */
export interface ExperienceStatistics {
  /** KL to the reference by the estimator, in nats, mean over responses. */
  readonly kl: number
  readonly klPerToken: number
  readonly explainedVariance: number
  /** The beta that the rewards were made with. */
  readonly beta: number
}

/** Of one gradient step, before its update. Means are over the mini-batch's tokens. */
export interface StepStatistics {
  readonly policyLoss: number
  readonly valueLoss: number
  /** Before clipping. */
  readonly policyGradientNorm: number
  readonly valueGradientNorm: number
  readonly clipFraction: number
  /** KL(old || new), k3. */
  readonly approximateKl: number
  readonly entropy: number
  /** The models are as they were before: a loss or gradient norm is not finite. */
  readonly diverged: boolean
}

/** What a trainer knows between two iterations besides tensors. */
export interface PpoNumbers {
  readonly beta: number
  /** Iterations done. */
  readonly iteration: number
  /** Gradient steps taken, of policy and value model alike. */
  readonly steps: number
}

export class Ppo {
  readonly #options: PpoOptions
  readonly #policyOptimizer: AdamW
  readonly #valueOptimizer: AdamW
  #beta: number
  #iteration = 0

  constructor(options: PpoOptions) {
    this.#options = options
    this.#beta = options.beta
    const { weightDecay } = options
    this.#policyOptimizer = new AdamW({ parameters: options.policy.parameters, weightDecay })
    this.#valueOptimizer = new AdamW({ parameters: options.value.parameters, weightDecay })
  }

  /** What the next iteration's KL penalty is weighed with. */
  get beta(): number {
    return this.#beta
  }

  /** The optimisers' tensors: the next iteration reads them, the two models and `numbers`. Copy saved ones into them, then call `resume`. */
  get tensors(): Parameters {
    const named = (model: string, optimizer: AdamW) => Object.entries(optimizer.state).map(([name, tensor]) => [`${model}.${name}`, tensor])
    return Object.fromEntries([...named("policy", this.#policyOptimizer), ...named("value", this.#valueOptimizer)]) as Parameters
  }
  get numbers(): PpoNumbers {
    return { beta: this.#beta, iteration: this.#iteration, steps: this.#policyOptimizer.steps }
  }
  /** Goes on as when these were its numbers: models and tensors are as they were then. */
  resume({ beta, iteration, steps }: PpoNumbers): void {
    this.#beta = beta
    this.#iteration = iteration
    this.#policyOptimizer.resume(steps)
    this.#valueOptimizer.resume(steps)
  }

  /**
   * One iteration. `experiences` are the responses with their advantages, `statistics` describe them; going through `steps` takes one gradient step after another (and must be gone through to its
   * end, or given up with the trainer). A step that diverged is the last.
   */
  iterate(rollouts: ReadonlyArray<Rollout>): {
    readonly experiences: ReadonlyArray<Experience>
    readonly statistics: ExperienceStatistics
    readonly steps: Generator<StepStatistics, void, undefined>
  } {
    const { experiences, statistics } = this.#experience(rollouts)
    const { klControl } = this.#options
    if (klControl !== "fixed") this.#beta = adaptBeta(this.#beta, { kl: statistics.kl, responses: rollouts.length }, klControl)
    return { experiences, statistics, steps: this.#steps(experiences, this.#iteration++) }
  }

  #experience(rollouts: ReadonlyArray<Rollout>): {
    readonly experiences: ReadonlyArray<Experience>
    readonly statistics: ExperienceStatistics
  } {
    const { reference, value, klEstimator, terminal, inferenceBatchSize: batchSize } = this.#options
    const pastEnd = terminal === "past-end"
    const references = logProbabilitiesOf(reference, rollouts, { ...this.#options, batchSize })
    const values = valuesOf(value, rollouts, { ...this.#options, batchSize, pastEnd })
    const estimates = rollouts.map((rollout, i) => {
      const { logProbabilities, score } = rollout
      const rewards = tokenRewards({
        logProbabilities,
        reference: references[i]!,
        score,
        beta: this.#beta,
        estimator: klEstimator,
        terminal
      })
      return generalisedAdvantages(rewards, values[i]!, this.#options)
    })
    const ofTokens = estimates.map(({ advantages }, i) => advantages.subarray(0, rollouts[i]!.response.length))
    const { whitenAdvantages } = this.#options
    const advantages = whitenAdvantages === "none" ? ofTokens : whitenTokens(ofTokens, whitenAdvantages)
    const returns = estimates.map((estimate) => estimate.returns)
    let [kl, tokens] = [0, 0]
    rollouts.forEach(({ logProbabilities }, i) => {
      tokens += logProbabilities.length
      logProbabilities.forEach((logProbability, t) => (kl += klEstimate(klEstimator, logProbability, references[i]![t]!)))
    })
    return {
      experiences: rollouts.map((rollout, i) => ({ rollout, advantages: advantages[i]!, values: values[i]!, returns: returns[i]! })),
      statistics: {
        kl: kl / rollouts.length,
        klPerToken: kl / tokens,
        explainedVariance: explainedVariance(values, returns),
        beta: this.#beta
      }
    }
  }

  *#steps(experiences: ReadonlyArray<Experience>, iteration: number): Generator<StepStatistics, void, undefined> {
    const { epochs, miniBatchSize, seed } = this.#options
    const indices = experiences.map((_, i) => i)
    const permutation =
      this.#options.permutation ?? ((...when) => new Random(seed, "ppo", "permutation", ...when.slice(0, 2)).shuffle(indices))
    for (let epoch = 0; epoch < epochs; epoch++) {
      for (const miniBatch of chunks([...permutation(iteration, epoch, experiences.length)], miniBatchSize)) {
        const statistics = scoped(() =>
          this.#step(
            miniBatch.map((i) => experiences[i]!),
            iteration
          )
        )
        yield statistics
        if (statistics.diverged) return
      }
    }
  }

  /** Losses over the whole mini-batch, in parts; then a step of each optimiser. */
  #step(miniBatch: ReadonlyArray<Experience>, iteration: number): StepStatistics {
    const { policy, value, clip, valueClip, maxNorm, microBatchSize, terminal } = this.#options
    const rollouts = miniBatch.map(({ rollout }) => rollout)
    const parts = chunks(byLength(rollouts), microBatchSize).map((part) => part.map((i) => miniBatch[i]!))
    const tokens = rollouts.reduce((sum, { response }) => sum + response.length, 0)
    const states = miniBatch.reduce((sum, { returns }) => sum + returns.length, 0)

    const sums = parts.map((part) =>
      scoped(() => {
        const batch = part.map(({ rollout }) => rollout)
        const forward = responseLogProbabilities(policy, batch, this.#options)
        const take = (field: (experience: Experience) => ArrayLike<number>) => this.#flat(part.map(field), forward.logProbabilities)
        const old = take(({ rollout }) => rollout.logProbabilities)
        const loss = policyLoss(
          forward.logProbabilities,
          old,
          take(({ advantages }) => advantages),
          clip
        ).div(tokens)
        loss.backward()
        return noGrad(() => {
          const now = forward.logProbabilities.detach()
          return stack(
            [loss.detach(), clippedTokens(now, old, clip).div(tokens), approximateKl(now, old).div(tokens), forward.entropy.div(tokens)],
            0
          )
        })
      })
    )
    const valueLosses = parts.map((part) =>
      scoped(() => {
        const batch = part.map(({ rollout }) => rollout)
        const now = responseValues(value, batch, { ...this.#options, pastEnd: terminal === "past-end" })
        const take = (field: (experience: Experience) => ArrayLike<number>) => this.#flat(part.map(field), now)
        const loss = valueLoss(
          now,
          take(({ values }) => values),
          take(({ returns }) => returns),
          valueClip
        ).div(states)
        loss.backward()
        return noGrad(() => loss.detach().reshape(1))
      })
    )

    const [policyMean, clipFraction, approximate, entropyMean, valueMean, policyGradientNorm, valueGradientNorm] = noGrad(() =>
      // Read together: a GPU is waited for once.
      cat(
        [
          stack(sums, 0).sum(0),
          cat(valueLosses, 0).sum(0, true),
          ...[policy, value].map((model) => clipGradientNorm(model.parameters, maxNorm).reshape(1))
        ].map((part) => part.to({ dtype: "float64" })),
        0
      ).toNumbers()
    ) as [number, number, number, number, number, number, number]
    const diverged = ![policyMean, valueMean, policyGradientNorm, valueGradientNorm].every(Number.isFinite)
    if (!diverged) {
      this.#policyOptimizer.step(this.#options.schedule(iteration))
      this.#valueOptimizer.step(this.#options.valueSchedule(iteration))
    }
    return {
      policyLoss: policyMean,
      valueLoss: valueMean,
      policyGradientNorm,
      valueGradientNorm,
      clipFraction,
      approximateKl: approximate,
      entropy: entropyMean,
      diverged
    }
  }

  /** Rows one after another, (N,), like the tensor given. */
  #flat(rows: ReadonlyArray<ArrayLike<number>>, like: Tensor): Tensor {
    const flat = new Float64Array(rows.reduce((sum, row) => sum + row.length, 0))
    let at = 0
    for (const row of rows) {
      flat.set(row, at)
      at += row.length
    }
    return tensor(flat, { dtype: like.dtype, device: this.#options.device })
  }

  /** Frees the optimisers' state; the models stay. */
  free(): void {
    this.#policyOptimizer.free()
    this.#valueOptimizer.free()
  }
}
