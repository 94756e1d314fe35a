/**
 * Group relative policy optimisation (Shao et al. 2024, DeepSeekMath §4.1): G responses to each prompt, whose rewards, less their mean and over their deviation, are the
 * advantages of all of their tokens; the KL to the reference is a part of the loss.
 *
 *     maximise  mean over responses of 1/|o| sum over its tokens of min(ratio A, clip(ratio, 1 - c, 1 + c) A) - beta k3        (eq. 3 and 4)
 *
 * Its fixed point is not pi_0 exp(r / beta) / Z: the division weighs prompts by how their responses differ; k3's gradient is that of KL(pi_0 || pi); and a token's KL does not
 * count what it leads to. With scale "none" and klGradient "unbiased" a response of one token ends there, of rewards times (G - 1) / G (each is part of its own baseline).
 *
 * Deviations: 1e-4 is added to the deviation, as TRL does; the sample's (n - 1) is taken, since the paper does not say which. Outcome rewards only (§4.1.2), no process rewards
 * (§4.1.3); the reference stays (§4.1.4 renews it with the reward model). Rewards are logit(R_c) on the same prompts and reward models as PPO's, not whitened: the division does that.
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
    "Shao et al. 2024 group relative policy optimisation against the combined reward: groups of responses in place of a value model",
  config: GrpoConfig,
  inputs: criticFreeInputs,
  output: Policy,
  inherits: { tokenizer: "policy" },
  agrees: [{ trait: "tokenizer", ports: ["policy", "helpfulness", "safety"], check: checkTokenizerFolders }],
  resources: { tensors: true, ranks: true },
  run: Effect.fn("grpo")((context) => runCriticFree(context, { name: "GRPO", method: grpoMethod(context.config), isWhitened: false }))
})

export const grpoCost = costOf(grpo, ppoEstimate)
