/** How far results may be from their references, in absolute terms. Loosening one needs a line in docs/log.md. */

/** float32 against transformers' float32. */
export const float32 = 1e-4
/** float64 against PyTorch's float64. */
export const float64 = 1e-9
