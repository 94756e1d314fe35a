/**
 * The gradients of a training step: accumulated over micro-batches, and clipped by their global norm.
 *
 * The gradients of bfloat16 and float16 parameters are accumulated in float32. In 16 bits, adding a term a few hundred times smaller than the sum leaves
 * the sum unchanged, and where large terms cancel, only their rounding errors remain (docs/performance.md).
 */
import { hasGpuKernels } from "./fused.ts"
import { hasOperator } from "./native.ts"
import { allReduce_ } from "./ranks.ts"
import { inSegments, type SpreadWeights } from "./segments.ts"
import { dtypeCodes } from "./tensor/dtype.ts"
import { aten, atenMany, atenVoid, embedding, noGrad, recordsGradients, scoped, type Tensor } from "./tensor.ts"

export type Parameters = Readonly<Record<string, Tensor>>

/** Whether a tensor has 16 bits per element: too few for sums and small updates. */
export const isNarrow = ({ dtype }: Tensor): boolean => dtype === "bfloat16" || dtype === "float16"

/**
 * Calls `compute` for each micro-batch, in its own scope, and returns the results. `compute` must compute the micro-batch's loss and pass it to `backward`
 * (engine/segments.ts). Afterwards the parameters' gradients are the sum over all micro-batches. With a single micro-batch nothing is added, so the
 * gradients stay in the parameters' dtype. The first `recompute` blocks of a model keep no activations and are recomputed in the backward pass. If
 * `weights` are sharded over ranks, the gradients are the sum over all ranks' micro-batches, and every rank must have the same number of micro-batches.
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

/** Converts 16-bit gradients to float32. Later backward() calls then add in float32, because libtorch keeps a gradient's dtype. */
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
 * Rows of a table (V, D) by id: (...) int64 -> (..., D), with the same values as `embedding`. A row's gradient is a sum over all positions of its id in the
 * batch. libtorch accumulates it in the table's dtype; for a 16-bit table this function accumulates it in float32.
 */
export const trainableEmbedding = (table: Tensor, ids: Tensor): Tensor =>
  isNarrow(table) && recordsGradients()
    ? scoped(() => embedding(table.to({ dtype: "float32" }), ids).to({ dtype: table.dtype }))
    : embedding(table, ids)

/** The gradients of all parameters, in order. Throws if a parameter has none, because the loss does not depend on it: it would silently stay unchanged. */
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

/** The Euclidean norm over all gradients, in float32 (float64 for float64 gradients): a tensor with one element on their device. */
const globalNorm = (gradients: ReadonlyArray<Tensor>): Tensor => {
  if (gradients.length === 0) throw new Error("Computing the norm of gradients: expected at least one parameter, got none.")
  if (gradients.every(hasGpuKernels)) return aten("caravan::gradient_norm", gradients)
  // The norm of 16-bit gradients is computed in float32 without copying them.
  const norms = gradients.some(isNarrow)
    ? gradients.map((gradient) => aten("linalg_vector_norm", gradient, 2, null, false, dtypeCodes.float32))
    : atenMany("_foreach_norm.Scalar", gradients, 2)
  return aten("linalg_vector_norm", aten("stack", norms, 0))
}

/** The Euclidean norm over all gradients. */
export const gradientNorm = (parameters: Parameters): number => scoped(() => noGrad(() => globalNorm(gradientsOf(parameters)).item()))

/**
 * Scales all gradients by min(1, maxNorm / (norm + 1e-6)), like torch.nn.utils.clip_grad_norm_. Returns the norm before clipping as a tensor with one
 * element, so that the caller need not wait for the GPU. Call it inside a scope. `isPart`: `parameters` are this rank's part, and the norm is computed over
 * the parts of all ranks.
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
      // One-dimensional, because a number or a tensor without dimensions would be rounded to 16 bits first.
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
