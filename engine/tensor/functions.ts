/** Operators on several tensors. */
import { invoke } from "./operators.ts"
import { broadcast, type Tensor, wrap } from "./tensor.ts"

export const cat = (tensors: ReadonlyArray<Tensor>, dim: number): Tensor =>
  wrap(invoke("cat", "shapes that are equal except in the joined dimension", [tensors, dim]))
export const stack = (tensors: ReadonlyArray<Tensor>, dim: number): Tensor => wrap(invoke("stack", "equal shapes", [tensors, dim]))
export const where = (condition: Tensor, yes: Tensor, no: Tensor): Tensor =>
  wrap(invoke("where.self", `a bool condition and ${broadcast}`, [condition, yes, no]))
/** Rows of a table (V, D) by id: (...) int64 -> (..., D). */
export const embedding = (table: Tensor, ids: Tensor): Tensor =>
  wrap(invoke("embedding", "a table (V, D) and int64 ids from 0 to V - 1", [table, ids]))
/** x (..., K) times the transpose of a weight (N, K): (..., N). */
export const linear = (x: Tensor, weight: Tensor): Tensor =>
  wrap(invoke("linear", "(..., K) and a weight (N, K) of one dtype", [x, weight]))
/** -log softmax(logits)[target], reduced by mean or sum or not at all, ignoring targets equal to `ignore`. Logits (N, V), targets (N,) int64. */
export const crossEntropy = (
  logits: Tensor,
  targets: Tensor,
  options: { readonly reduction?: "none" | "mean" | "sum"; readonly ignore?: number } = {}
): Tensor =>
  wrap(
    invoke("cross_entropy_loss", "logits (N, V) and int64 targets (N,) from 0 to V - 1 or the ignored one", [
      logits,
      targets,
      null,
      { none: 0, mean: 1, sum: 2 }[options.reduction ?? "mean"],
      options.ignore ?? -100
    ])
  )
