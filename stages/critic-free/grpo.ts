/**
 * Group relative policy optimisation (Shao et al. 2024, DeepSeekMath §4.1): G responses per prompt. Their rewards, minus the group's mean and divided by
 * its standard deviation, are the advantages of all their tokens. The KL to the reference is part of the loss.
 *
 *     maximise  mean over responses of 1/|o| sum over its tokens of min(ratio A, clip(ratio, 1 - c, 1 + c) A) - beta k3        (eq. 3 and 4)
 *
 * Its fixed point is not PPO's optimum pi_0 exp(r / beta) / Z: the division weights prompts by how much their responses differ; k3's gradient is that of
 * KL(pi_0 || pi); and the KL of a token does not include that of later tokens. With scale "none", klGradient "unbiased" and one-token responses, GRPO does
 * reach that optimum, for rewards times (G - 1) / G, because each reward is part of its own baseline.
 *
 * Deviations: 1e-4 is added to the standard deviation, as in TRL. It is the sample deviation (n - 1); the paper does not say which. Only outcome rewards
 * are supported (§4.1.2), not process rewards (§4.1.3). The reference is fixed (§4.1.4 updates it along with the reward model). Rewards are logit(R_c), with
 * the same prompts and reward models as in PPO; they are not whitened, because the division has that effect.
 */
import * as Effect from "effect/Effect"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { costOf } from "../common/cost/estimator.ts"
import { ppoEstimate } from "../ppo/cost.ts"
import { checkTokenizerFolders } from "../ppo/loading.ts"
import { criticFreeInputs, GrpoConfig } from "./config.ts"
import { grpoMethod } from "./methods.ts"
import { runCriticFree } from "./run.ts"

export const grpo = Stage.make("grpo", {
  description:
    "Shao et al. 2024: group relative policy optimisation (GRPO) against the combined reward, with groups of responses instead of a value model",
  config: GrpoConfig,
  inputs: criticFreeInputs,
  output: Policy,
  inherits: { tokenizer: "policy" },
  agrees: [{ trait: "tokenizer", ports: ["policy", "helpfulness", "safety"], check: checkTokenizerFolders }],
  resources: { tensors: true, ranks: true },
  run: Effect.fn("grpo")((context) => runCriticFree(context, { name: "GRPO", method: grpoMethod(context.config), isWhitened: false }))
})

export const grpoCost = costOf(grpo, ppoEstimate)
