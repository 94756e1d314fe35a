/**
 * Results per row that do not depend on the number of rows. On a GPU, libraries choose a kernel for a product by its number of rows, and the kernels add in different orders;
 * the same number of rows in every call gives the same kernel. Each row of it is computed in the same way, whatever its place and the other rows.
 */
import { cat, scoped, type Tensor, zeros } from "../engine/tensor.ts"

/** Rows of a product when decoding: one per slot. Products of up to 64 rows take about as long as products of one, because they read the same weights. */
export const rowsOfStep = 64
/** Rows of a product when reading prompts: one per token. */
export const rowsOfPrompt = 256

/** The result of generation would depend on the batch: neither our CPU kernels nor the GPU decoder support the model here. */
export class BatchInvarianceError extends Error {
  readonly _tag = "BatchInvarianceError"
  readonly isRetryable = false
}

/** Applies `f`, (rows, K) -> (rows, M), to x (N, K), always to this number of rows: the last call gets zeros after them. Returns (N, M). */
export const inChunks = (x: Tensor, rows: number, f: (chunk: Tensor) => Tensor): Tensor =>
  scoped(() => {
    const [count, width] = x.shape as [number, number]
    const parts = Array.from({ length: Math.ceil(count / rows) }, (_, i) =>
      scoped(() => {
        const chunk = x.slice(0, i * rows, Math.min(count, (i + 1) * rows))
        const padding = rows - chunk.size(0)
        return f(padding === 0 ? chunk : cat([chunk, zeros([padding, width], { dtype: x.dtype, device: x.device })], 0))
      })
    )
    return (parts.length === 1 ? parts[0]! : cat(parts, 0)).slice(0, 0, count)
  })
