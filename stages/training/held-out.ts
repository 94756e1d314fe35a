/**
 * Held-out loss and early stopping. Some rows, drawn from the seed, are excluded from training, and their mean loss is computed at regular intervals:
 * the mean over all tokens that carry loss, or over all pairs, independent of the batches. Evaluation draws no random numbers and computes no gradients,
 * so it does not affect training.
 *
 * With a patience, training stops after that many evaluations without a lower loss, and the weights with the lowest loss are kept. The first evaluation
 * is before the first step. PPO does the same with held-out prompts.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Parameters } from "../../engine/gradients.ts"
import { Random } from "../../engine/random.ts"
import { sumOver } from "../../engine/ranks.ts"
import { type DType, keep, noGrad, scoped } from "../../engine/tensor.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { judgeEvaluations } from "../common/early-stopping.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import type { TrainingBatch } from "./batch.ts"
import type { MicroBatch } from "./micro-batches.ts"

/** Config fields of a stage. */
export const heldOutFields = {
  heldOut: hyper(0, "share of the rows, drawn from the seed, that are held out of training to measure the loss; 0: none", {
    min: 0,
    max: 0.5
  }),
  evaluateEvery: hyperInt(
    100,
    "number of steps between evaluations of the held-out loss, which is also evaluated before the first step and after the last",
    { min: 1 }
  ),
  patience: hyperInt(
    0,
    "number of evaluations without a lower held-out loss after which training stops and keeps the weights with the lowest; 0: the loss is only reported",
    { min: 0 }
  )
}

/** Rejects a config with a patience but without held-out rows. */
export const patienceNeedsHeldOut = Schema.makeFilter(
  ({ heldOut, patience }: { readonly heldOut: number; readonly patience: number }): ReadonlyArray<Schema.FilterIssue> =>
    patience === 0 || heldOut > 0
      ? []
      : [
          {
            path: ["patience"],
            issue: `${patience} has no effect with heldOut 0: hold out a share of the rows, for example heldOut 0.05, or remove patience`
          }
        ]
)

/** Indices of the rows to train on and of the held-out rows, each in ascending order. */
export interface Split {
  readonly training: Uint32Array
  readonly heldOut: Uint32Array
}

/** Holds out a share of `count` rows: at least one unless the share is 0. Fails if none is left to train on. */
export const splitHeldOut = (count: number, share: number, seed: number): Effect.Effect<Split, EmptyDatasetError> => {
  const held = share === 0 ? 0 : Math.max(1, Math.round(share * count))
  if (held > 0 && held >= count)
    return Effect.fail(
      EmptyDatasetError.of(`train on when ${held} is held out`, `${count} rows`, "Use more rows, or hold out a smaller share (heldOut).")
    )
  const order = new Random(seed, "held-out").permutation(count)
  return Effect.succeed({ training: order.slice(held).sort(), heldOut: order.slice(0, held).sort() })
}

/** These rows in a random order drawn from `random`. */
export const permuted = (rows: Uint32Array, random: Random): Uint32Array => random.permutation(rows.length).map((i) => rows[i]!)

export interface HeldOutOptions {
  /** The held-out rows, once. */
  readonly batches: () => Iterable<TrainingBatch>
  readonly evaluateEvery: number
  readonly patience: number
}

/** The held-out options for `train`; undefined without held-out rows. */
export const evaluating = (
  rows: Uint32Array,
  { evaluateEvery, patience }: Omit<HeldOutOptions, "batches">,
  batches: HeldOutOptions["batches"]
): HeldOutOptions | undefined => (rows.length === 0 ? undefined : { batches, evaluateEvery, patience })

export const HeldOutEvaluation = Schema.Struct({ step: Schema.Finite, loss: Schema.Finite })
export type HeldOutEvaluation = typeof HeldOutEvaluation.Type

const copyInto = (from: Parameters, to: Parameters): void =>
  scoped(() => noGrad(() => Object.entries(to).forEach(([name, weight]) => void weight.copy_(from[name]!))))

/** The evaluations of a training run, and the best weights so far. */
export class HeldOut {
  readonly #options: HeldOutOptions
  readonly #parameters: Parameters
  readonly #dtype: DType
  readonly evaluations: Array<HeldOutEvaluation> = []
  /** A copy of the weights with the lowest loss, if they are to be kept. */
  best: Parameters | undefined

  /** `dtype`: of the model's weights; `parameters` may be more precise. */
  constructor(options: HeldOutOptions, parameters: Parameters, dtype: DType) {
    this.#options = options
    this.#parameters = parameters
    this.#dtype = dtype
  }

  isDue(step: number, steps: number): boolean {
    return step % this.#options.evaluateEvery === 0 || step === steps
  }

  /** The mean loss of the current model. */
  readonly loss = (microBatch: MicroBatch, progress: (progress: Progress) => Effect.Effect<void>): Effect.Effect<number> =>
    Effect.gen({ self: this }, function* () {
      let [sum, count] = [0, 0]
      for (const batch of this.#options.batches()) {
        count += batch.count
        for (const part of batch.parts(microBatch)) sum += scoped(() => noGrad(() => part().item()))
        // Reporting progress lets the process notice a stop request.
        yield* progress({ message: "evaluating" })
      }
      return sumOver([sum], "adding up the held-out loss")[0]! / count
    })

  /** Records the loss after a step. With a patience, copies the weights if the loss is the lowest so far. Returns whether to stop. */
  evaluated(evaluation: HeldOutEvaluation): boolean {
    this.evaluations.push(evaluation)
    const { patience } = this.#options
    if (patience === 0) return false
    const { isLast, stop } = this.#judged(patience)
    if (isLast) {
      copyInto(this.#parameters, this.allocateBest())
    }
    return stop
  }

  /** The tensors for the best weights; allocated at the first call. */
  allocateBest(): Parameters {
    return (this.best ??= Object.fromEntries(
      Object.entries(this.#parameters).map(([name, weight]) => [
        name,
        keep(scoped(() => noGrad(() => weight.clone().to({ dtype: this.#dtype }))))
      ])
    ))
  }

  /** Restores the best weights, and returns the evaluation of the restored weights. */
  restoreBest(): HeldOutEvaluation {
    if (this.best === undefined) return this.evaluations.at(-1)!
    copyInto(this.best, this.#parameters)
    return this.evaluations[this.#judged().best]!
  }

  free(): void {
    for (const weight of Object.values(this.best ?? {})) weight.free()
    this.best = undefined
  }

  #judged(patience = Infinity) {
    return judgeEvaluations(
      this.evaluations.map(({ loss }) => -loss),
      patience
    )
  }
}
