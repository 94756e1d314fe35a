/**
 * Gradients of a step: added up over micro-batches and over the tokens of one, measured and clipped.
 *
 * The gradients of bfloat16 and float16 parameters are added up in float32. In their own dtype a sum that is some hundred times as large as what is added
 * to it stays as it is, and where large terms cancel, their rounding is what remains (docs/performance.md).
 */
import { hasGpuKernels } from "./fused.ts"
import { hasOperator } from "./native.ts"
import { allReduce_ } from "./ranks.ts"
import { inSegments, type SpreadWeights } from "./segments.ts"
import { dtypeCodes } from "./tensor/dtype.ts"
import { aten, atenMany, atenVoid, embedding, noGrad, recordsGradients, scoped, type Tensor } from "./tensor.ts"

export type Parameters = Readonly<Record<string, Tensor>>

/** Whether a tensor has 16 bits an element: too few for sums and small updates. */
export const isNarrow = ({ dtype }: Tensor): boolean => dtype === "bfloat16" || dtype === "float16"

/**
 * Calls `compute` with each micro-batch, in a scope of its own; it computes the micro-batch's loss and gives it to `backward` (engine/segments.ts). The parameters' gradients are
 * then the sum over all. Returns what the calls returned. A single micro-batch's gradients stay in the parameters' dtype: there is nothing to add, and so
 * no second copy. The first `recompute` blocks of a model keep no activations and are computed again in the backward pass. Of `weights` that are spread over ranks
 * the gradients are the sum over all ranks' micro-batches, of which each has as many.
 */
export const accumulateGradients = <MicroBatch, A>(
  parameters: Parameters,
  microBatches: ReadonlyArray<MicroBatch>,
  compute: (microBatch: MicroBatch) => A,
  { recompute = 0, weights }: { readonly recompute?: number | undefined; readonly weights?: SpreadWeights | undefined } = {}
): Array<A> => {
  const results = microBatches.map((microBatch, i) => {
    const result = scoped(() => inSegments({ recompute, weights }, () => compute(microBatch)))
    if (i < microBatches.length - 1) widenGradients(parameters)
    return result
  })
  weights?.accumulated()
  return results
}

/** Makes 16-bit gradients float32. What a later backward() adds to one is added in float32: libtorch keeps the dtype that a gradient has. */
const widenGradients = (parameters: Parameters): void =>
  noGrad(() => {
    for (const parameter of Object.values(parameters)) {
      if (!isNarrow(parameter)) continue
      scoped(() => {
        const gradient = parameter.grad()
        if (gradient !== undefined && isNarrow(gradient)) atenVoid("set_data", gradient, gradient.to({ dtype: "float32" }))
      })
    }
  })

/**
 * Rows of a table (V, D) by id: (...) int64 -> (..., D), the same as `embedding` gives. A row's gradient is a sum over all the places of its id in the batch. libtorch
 * adds it up in the table's dtype, and for a 16-bit table this does so in float32.
 */
export const trainableEmbedding = (table: Tensor, ids: Tensor): Tensor =>
  isNarrow(table) && recordsGradients()
    ? scoped(() => embedding(table.to({ dtype: "float32" }), ids).to({ dtype: table.dtype }))
    : embedding(table, ids)

/** The gradients of all parameters, in order. A parameter the loss does not depend on is an error: it would silently stay as it is. */
export const gradientsOf = (parameters: Parameters): Array<Tensor> => {
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

/** The Euclidean norm of all gradients together, in float32 (float64 if they are): a tensor of one element on their device. */
const globalNorm = (gradients: ReadonlyArray<Tensor>): Tensor => {
  if (gradients.length === 0) throw new Error("The norm of gradients: there are no gradients to measure; give at least one parameter.")
  if (gradients.every(hasGpuKernels)) return aten("caravan::gradient_norm", gradients)
  // Of 16-bit gradients in float32, without a copy of them.
  const norms = gradients.some(isNarrow)
    ? gradients.map((gradient) => aten("linalg_vector_norm", gradient, 2, null, false, dtypeCodes.float32))
    : atenMany("_foreach_norm.Scalar", gradients, 2)
  return aten("linalg_vector_norm", aten("stack", norms, 0))
}

/** The norm of all gradients together. */
export const gradientNorm = (parameters: Parameters): number => scoped(() => noGrad(() => globalNorm(gradientsOf(parameters)).item()))

/**
 * Scales all gradients by maxNorm / (norm + 1e-6) where their global norm exceeds maxNorm, as torch.nn.utils.clip_grad_norm_ does. Returns the
 * norm before clipping, as a tensor of one element so that a GPU need not be waited for. Call inside a scope. `isPart`: other ranks have the other parts of the
 * parameters, and the norm is that of all.
 */
export const clipGradientNorm = (parameters: Parameters, maxNorm: number, { isPart = false } = {}): Tensor =>
  noGrad(() => {
    const gradients = gradientsOf(parameters)
    const mine = globalNorm(gradients)
    const norm = isPart
      ? allReduce_(mine.square().reshape(1), "measuring the gradients")
          .sqrt()
          .reshape(...mine.shape)
      : mine
    const scale = norm.add(1e-6).pow(-1).mul(maxNorm).clamp(undefined, 1)
    if (gradients.every(hasGpuKernels)) {
      atenVoid("caravan::shrink_", gradients, scale)
    } else if (gradients.some(isNarrow)) {
      // Of one dimension: a number, or a tensor without dimensions, would be rounded to 16 bits first.
      const factor = scale.reshape(1)
      for (const gradient of gradients) gradient.mul_(factor)
    } else if (gradients[0]!.device === "cpu") {
      const factor = scale.item()
      if (factor < 1) atenVoid("_foreach_mul_.Scalar", gradients, factor)
    } else if (hasOperator("_foreach_mul_.Tensor")) {
      atenVoid("_foreach_mul_.Tensor", gradients, scale)
    } else {
      for (const gradient of gradients) gradient.mul_(scale)
    }
    return norm
  })
