/** Generation that gives each sequence the same bits in any batch (GenerateOptions.batchInvariant). */

/** Generation was asked not to depend on the batch, but would: our kernels do not support the model here. */
export class BatchInvarianceError extends Error {
  readonly _tag = "BatchInvarianceError"
  readonly isRetryable = false
}
