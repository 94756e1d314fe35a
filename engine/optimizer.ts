/**
 * AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) and clipping by global norm.
 *
 *     theta <- theta - lr * decay * theta
 *     m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
 *     theta <- theta - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
 *
 * Parameters in bfloat16 or float16 keep a float32 master copy: at the paper's learning rates (1e-6 to 2e-5) an update is below half a unit
 * in the last place of a bfloat16 weight and would be lost.
 */
import { hasOperator } from "./native.ts"
import { aten, atenMany, atenVoid, clearGradients, keep, noGrad, scoped, type Tensor, zeros, zerosLike } from "./tensor.ts"

export type Parameters = Readonly<Record<string, Tensor>>

export interface AdamWOptions {
  readonly parameters: Parameters
  /** Llama 2 §2.2: (0.9, 0.95) */
  readonly betas?: readonly [number, number]
  /** Llama 2 §2.2: 1e-5 */
  readonly epsilon?: number
  /** Llama 2 §2.2: 0.1 */
  readonly weightDecay?: number
}

/** The gradients of all parameters, in order. A parameter the loss does not depend on is an error: it would silently stay as it is. */
const gradientsOf = (parameters: Parameters): Array<Tensor> => {
  const missing: Array<string> = []
  const gradients: Array<Tensor> = []
  for (const [name, parameter] of Object.entries(parameters)) {
    const gradient = parameter.grad()
    if (gradient === undefined) missing.push(name)
    else gradients.push(gradient)
  }
  if (missing.length > 0) {
    throw new Error(
      `No gradient for ${missing.slice(0, 5).join(", ")}${missing.length > 5 ? ` and ${missing.length - 5} more` : ""}: call backward() on a loss that depends on every parameter first.`
    )
  }
  return gradients
}

/** The Euclidean norm of all gradients together, in float32: a tensor of one element on their device. */
const globalNorm = (gradients: ReadonlyArray<Tensor>): Tensor => {
  const norms = atenMany("_foreach_norm.Scalar", gradients, 2)
  const dtype = gradients[0]!.dtype === "float64" ? "float64" : "float32"
  return aten("linalg_vector_norm", aten("stack", norms, 0).to({ dtype }))
}

/** The norm of all gradients together. */
export const gradientNorm = (parameters: Parameters): number => scoped(() => noGrad(() => globalNorm(gradientsOf(parameters)).item()))

/**
 * Scales all gradients by maxNorm / (norm + 1e-6) where their global norm exceeds maxNorm, as torch.nn.utils.clip_grad_norm_ does. Returns the
 * norm before clipping, as a tensor of one element so that a GPU need not be waited for. Call inside a scope.
 */
export const clipGradientNorm = (parameters: Parameters, maxNorm: number): Tensor =>
  noGrad(() => {
    const gradients = gradientsOf(parameters)
    const norm = globalNorm(gradients)
    const scale = norm.add(1e-6).pow(-1).mul(maxNorm).clamp(undefined, 1)
    if (gradients[0]!.device === "cpu") {
      const factor = scale.item()
      if (factor < 1) atenVoid("_foreach_mul_.Scalar", gradients, factor)
    } else if (hasOperator("_foreach_mul_.Tensor")) {
      atenVoid("_foreach_mul_.Tensor", gradients, scale.to({ dtype: gradients[0]!.dtype }))
    } else {
      for (const gradient of gradients) gradient.mul_(scale)
    }
    return norm
  })

export class AdamW {
  readonly #parameters: Parameters
  readonly #values: ReadonlyArray<Tensor>
  /** What the update is applied to: the parameters, or their float32 masters. */
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
    this.#mixed = this.#values.some((value) => value.dtype === "bfloat16" || value.dtype === "float16")
    const made = scoped(() =>
      noGrad(() => {
        const masters = this.#mixed ? this.#values.map((value) => value.detach().to({ dtype: "float32" })) : []
        const likes = this.#mixed ? masters : this.#values
        return { masters, first: likes.map((like) => zerosLike(like)), second: likes.map((like) => zerosLike(like)) }
      })
    )
    // One kernel for everything, where there is one: on a GPU, from libtorch 2.0 on. It wants its step count as a tensor for each parameter.
    if (this.#values[0]?.device !== "cpu" && hasOperator("_fused_adamw_")) {
      const count = keep(zeros([], { device: this.#values[0]!.device }))
      this.#steps = this.#values.map(() => count)
    }
    for (const tensor of [...made.masters, ...made.first, ...made.second]) keep(tensor)
    this.#masters = this.#mixed ? made.masters : this.#values
    this.#first = made.first
    this.#second = made.second
  }

  /** One update with this learning rate from the gradients that backward() left; clears them. */
  step(learningRate: number): void {
    this.#step++
    scoped(() =>
      noGrad(() => {
        const gradients = gradientsOf(this.#parameters)
        this.#update(this.#mixed ? gradients.map((gradient) => gradient.to({ dtype: "float32" })) : gradients, learningRate)
        if (this.#mixed) this.#values.forEach((value, i) => value.copy_(this.#masters[i]!))
      })
    )
    clearGradients(this.#values)
  }

  #update(gradients: ReadonlyArray<Tensor>, learningRate: number): void {
    const [beta1, beta2] = this.#betas
    if (this.#steps !== undefined) {
      this.#steps[0]?.fill_(this.#step)
      atenVoid(
        "_fused_adamw_",
        this.#masters,
        gradients,
        this.#first,
        this.#second,
        [],
        this.#steps,
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
    atenVoid("_foreach_mul_.Scalar", this.#masters, 1 - learningRate * this.#weightDecay)
    atenVoid("_foreach_mul_.Scalar", this.#first, beta1)
    atenVoid("_foreach_add_.List", this.#first, gradients, 1 - beta1)
    atenVoid("_foreach_mul_.Scalar", this.#second, beta2)
    atenVoid("_foreach_addcmul_.Scalar", this.#second, gradients, gradients, 1 - beta2)
    const denominators = atenMany("_foreach_sqrt", this.#second)
    atenVoid("_foreach_div_.Scalar", denominators, Math.sqrt(second))
    atenVoid("_foreach_add_.Scalar", denominators, this.#epsilon)
    atenVoid("_foreach_addcdiv_.Scalar", this.#masters, this.#first, denominators, -learningRate / first)
  }

  /**
   * What the next step reads besides the parameters and `steps`, under names of its own: moments, and the float32 masters where there are any. They
   * are the tensors in use: to go on from saved ones, copy those into them and call `resume`.
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

  /** Steps taken. */
  get steps(): number {
    return this.#step
  }

  /** Goes on as after so many steps: parameters and state are as they were then. */
  resume(steps: number): void {
    this.#step = steps
  }

  /** Frees the moments (and masters). The parameters stay. */
  free(): void {
    for (const tensor of [...(this.#mixed ? this.#masters : []), ...this.#first, ...this.#second]) tensor.free()
    this.#steps?.[0]?.free()
  }
}
