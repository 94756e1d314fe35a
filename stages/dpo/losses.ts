import type { Tensor } from "../../engine/tensor.ts"

/**
 * Direct preference optimisation (Rafailov et al. 2023, eq. 7), summed over pairs:
 *
 *     -log sigmoid(beta (log pi(y_w) - log pi_0(y_w)) - beta (log pi(y_l) - log pi_0(y_l)))
 *
 * Each log-probability (B,) is that of a whole response, the sum over its tokens. Returns (). Differentiable in those of `policy`. Throws RangeError if
 * the four tensors differ in length.
 */
export const dpoLoss = (
  policy: { readonly chosen: Tensor; readonly rejected: Tensor },
  reference: { readonly chosen: Tensor; readonly rejected: Tensor },
  beta: number
): Tensor => {
  const counts = [policy.chosen, policy.rejected, reference.chosen, reference.rejected].map((all) => all.size(0))
  if (new Set(counts).size > 1)
    throw new RangeError(
      `dpoLoss: expected equal numbers of log-probabilities for chosen and rejected responses under policy and reference, got ${counts.slice(0, 2).join(" and ")} under the policy, ${counts.slice(2).join(" and ")} under the reference`
    )
  const [chosen, rejected] = [policy.chosen.sub(reference.chosen), policy.rejected.sub(reference.rejected)]
  return chosen.sub(rejected).mul(beta).logSigmoid().sum().neg()
}
