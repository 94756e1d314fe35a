/**
 * AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).
 *
 *     theta <- theta - lr * decay * theta
 *     m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
 *     theta <- theta - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
 *
 * bfloat16 and float16 parameters have a float32 master copy: at the paper's learning rates (1e-6 to 2e-5) an update is below half a unit
 * in the last place of a bfloat16 weight and would be lost.
 */
import { gradientsOf, isNarrow, type Parameters } from "./gradients.ts"
import { hasGpuKernels } from "./fused.ts"
import { hasOperator } from "./native.ts"
import { atenMany, atenVoid, clearGradients, keep, noGrad, scoped, type Tensor, zeros, zerosLike } from "./tensor.ts"

export interface AdamWOptions {
  readonly parameters: Parameters
  /** Llama 2 §2.2: (0.9, 0.95) */
  readonly betas?: readonly [number, number]
  /** Llama 2 §2.2: 1e-5 */
  readonly epsilon?: number
  /** Llama 2 §2.2: 0.1 */
  readonly weightDecay?: number
}

export class AdamW {
  readonly #parameters: Parameters
  readonly #values: ReadonlyArray<Tensor>
  /** The tensors that are updated: the parameters, or their float32 masters. */
  readonly #masters: ReadonlyArray<Tensor>
  readonly #mixed: boolean
  readonly #first: ReadonlyArray<Tensor>
  readonly #second: ReadonlyArray<Tensor>
  readonly #betas: readonly [number, number]
  readonly #epsilon: number
  readonly #weightDecay: number
  #step = 0
  #steps: ReadonlyArray<Tensor> | undefined

  constructor(options: AdamWOptions) {
    this.#parameters = options.parameters
    this.#values = Object.values(options.parameters)
    this.#betas = options.betas ?? [0.9, 0.95]
    this.#epsilon = options.epsilon ?? 1e-5
    this.#weightDecay = options.weightDecay ?? 0.1
    this.#mixed = this.#values.some(isNarrow)
    const made = scoped(() =>
      noGrad(() => {
        const masters = this.#mixed ? this.#values.map((value) => value.detach().to({ dtype: "float32" })) : []
        const likes = this.#mixed ? masters : this.#values
        return { masters, first: likes.map((like) => zerosLike(like)), second: likes.map((like) => zerosLike(like)) }
      })
    )
    // One kernel for all parameters if available: on a GPU with libtorch 2.0 or later. It needs the step count as a tensor for each parameter.
    if (this.#values[0]?.device !== "cpu" && hasOperator("_fused_adamw_")) {
      const count = keep(zeros([], { device: this.#values[0]!.device }))
      this.#steps = this.#values.map(() => count)
    }
    for (const tensor of [...made.masters, ...made.first, ...made.second]) keep(tensor)
    this.#masters = this.#mixed ? made.masters : this.#values
    this.#first = made.first
    this.#second = made.second
  }

  /** Updates the parameters with the gradients from backward() and this learning rate, then clears the gradients. */
  step(learningRate: number): void {
    this.#step++
    scoped(() =>
      noGrad(() => {
        const gradients = gradientsOf(this.#parameters)
        this.#steps?.[0]?.fill_(this.#step)
        if (!this.#mixed) return this.#update(gradients, this.#masters, this.#first, this.#second, learningRate)
        if (this.#values.every((value) => value.dtype === "bfloat16" && hasGpuKernels(value)))
          return this.#updateOnGpu(gradients, learningRate)
        // One by one, so that float32 copies of all 16-bit gradients never exist at the same time.
        gradients.forEach((gradient, i) =>
          scoped(() => {
            const master = this.#masters[i]!
            this.#update([gradient.to({ dtype: "float32" })], [master], [this.#first[i]!], [this.#second[i]!], learningRate)
            this.#values[i]!.copy_(master)
          })
        )
      })
    )
    clearGradients(this.#values)
  }

  #updateOnGpu(gradients: ReadonlyArray<Tensor>, learningRate: number): void {
    const state = [this.#masters, gradients, this.#first, this.#second, this.#values]
    atenVoid("caravan::adamw_", ...state, this.#step, learningRate, ...this.#betas, this.#weightDecay, this.#epsilon)
  }

  #update(
    gradients: ReadonlyArray<Tensor>,
    masters: ReadonlyArray<Tensor>,
    firsts: ReadonlyArray<Tensor>,
    seconds: ReadonlyArray<Tensor>,
    learningRate: number
  ): void {
    const [beta1, beta2] = this.#betas
    if (this.#steps !== undefined) {
      atenVoid(
        "_fused_adamw_",
        masters,
        gradients,
        firsts,
        seconds,
        [],
        this.#steps.slice(0, gradients.length),
        learningRate,
        beta1,
        beta2,
        this.#weightDecay,
        this.#epsilon,
        false,
        false
      )
      return
    }
    const first = 1 - beta1 ** this.#step
    const second = 1 - beta2 ** this.#step
    atenVoid("_foreach_mul_.Scalar", masters, 1 - learningRate * this.#weightDecay)
    atenVoid("_foreach_mul_.Scalar", firsts, beta1)
    atenVoid("_foreach_add_.List", firsts, gradients, 1 - beta1)
    atenVoid("_foreach_mul_.Scalar", seconds, beta2)
    atenVoid("_foreach_addcmul_.Scalar", seconds, gradients, gradients, 1 - beta2)
    const denominators = atenMany("_foreach_sqrt", seconds)
    atenVoid("_foreach_div_.Scalar", denominators, Math.sqrt(second))
    atenVoid("_foreach_add_.Scalar", denominators, this.#epsilon)
    atenVoid("_foreach_addcdiv_.Scalar", masters, firsts, denominators, -learningRate / first)
  }

  /**
   * The state that the next step reads besides the parameters and `steps`, by name: the moments, and the float32 masters if there are any. These
   * are the tensors in use: to continue from saved ones, copy the saved values into them and call `resume`.
   */
  get state(): Parameters {
    const named = (kind: string, tensors: ReadonlyArray<Tensor>) =>
      Object.keys(this.#parameters).map((name, i) => [`${kind}.${name}`, tensors[i]!] as const)
    return Object.fromEntries([
      ...named("first", this.#first),
      ...named("second", this.#second),
      ...(this.#mixed ? named("master", this.#masters) : [])
    ])
  }

  /** Number of steps done. */
  get steps(): number {
    return this.#step
  }

  /** Continues as if this many steps had been done. The caller must have restored the parameters and the state. */
  resume(steps: number): void {
    this.#step = steps
  }

  /** Frees the moments and masters, but not the parameters. */
  free(): void {
    for (const tensor of [...(this.#mixed ? this.#masters : []), ...this.#first, ...this.#second]) tensor.free()
    this.#steps?.[0]?.free()
  }
}
