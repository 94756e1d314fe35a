/**
 * REINFORCE leave-one-out (Ahmadian et al. 2024, "Back to Basics"): k responses per prompt, each compared with the mean reward of the others; a whole
 * response is one action.
 *
 *     R(y) = R~_c(y) - beta (log pi(y) - log pi_0(y))          gradient = mean of (R(y_i) - mean over j != i of R(y_j)) grad log pi(y_i)
 *
 * The optimum is pi_0 exp(R~_c / beta) / Z, as for PPO's objective. Prompts, reward models and R_c are those of PPO (Llama 2 §3.2.3).
 *
 * Deviations: rewards are whitened over the batch as in PPO (whitenRewards; the paper does not whiten them). If a batch has several steps, the ratio of the
 * response's probabilities, clipped as in TRL, corrects for the changes by earlier steps; in the first step it is 1, which gives the paper's estimator. The
 * learning rate of AdamW is constant, as in PPO; the paper warms it up.
 */
import * as Effect from "effect/Effect"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { costOf } from "../common/cost/estimator.ts"
import { ppoEstimate } from "../ppo/cost.ts"
import { checkTokenizerFolders } from "../ppo/loading.ts"
import { criticFreeInputs, RlooConfig } from "./config.ts"
import { rlooMethod } from "./methods.ts"
import { runCriticFree } from "./run.ts"

export const rloo = Stage.make("rloo", {
  description:
    "Ahmadian et al. 2024: REINFORCE leave-one-out (RLOO) against the combined reward, with groups of responses instead of a value model",
  config: RlooConfig,
  inputs: criticFreeInputs,
  output: Policy,
  inherits: { tokenizer: "policy" },
  agrees: [{ trait: "tokenizer", ports: ["policy", "helpfulness", "safety"], check: checkTokenizerFolders }],
  resources: { tensors: true, ranks: true },
  run: Effect.fn("rloo")((context) =>
    runCriticFree(context, { name: "RLOO", method: rlooMethod(context.config), isWhitened: context.config.whitenRewards })
  )
})

export const rlooCost = costOf(rloo, ppoEstimate)
