import type { Tensor } from "../../engine/tensor.ts"

/**
 * Direct preference optimisation (Rafailov et al. 2023, eq. 7), summed over pairs:
 *
 *     -log sigmoid(beta (log pi(y_w) - log pi_0(y_w)) - beta (log pi(y_l) - log pi_0(y_l)))
 *
 * Log-probabilities (B,) are of whole responses: the sums over their tokens. Differentiable in those of `policy`. Returns (). Throws a RangeError unless there is one of
 * each response under both.
 */
export const dpoLoss = (
  policy: { readonly chosen: Tensor; readonly rejected: Tensor },
  reference: { readonly chosen: Tensor; readonly rejected: Tensor },
  beta: number
): Tensor => {
  const counts = [policy.chosen, policy.rejected, reference.chosen, reference.rejected].map((all) => all.size(0))
  if (new Set(counts).size > 1)
    throw new RangeError(
      `dpoLoss: expected as many log-probabilities of chosen and rejected responses under policy and reference, got ${counts.slice(0, 2).join(" and ")}, ${counts.slice(2).join(" and ")}: compute the reference's under the policy that training starts from`
    )
  const [chosen, rejected] = [policy.chosen.sub(reference.chosen), policy.rejected.sub(reference.rejected)]
  return chosen.sub(rejected).mul(beta).logSigmoid().sum().neg()
}
