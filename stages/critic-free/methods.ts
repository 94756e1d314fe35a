/** RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024): advantages and loss of a group of responses. */
import { tensor, type Tensor } from "../../engine/tensor.ts"
import { beyondClip } from "../ppo/losses.ts"
import { perResponse } from "../ppo/models.ts"
import { groupRelativeAdvantages, leaveOneOutAdvantages } from "./advantages.ts"
import type { GrpoConfig, RlooConfig } from "./config.ts"
import { grpoLoss, rlooLoss } from "./losses.ts"
import type { Experience, Method, Part } from "./trainer.ts"

/** RLOO: the KL to the reference is part of the reward, R = r - beta (log pi(y) - log pi_0(y)), and the response is one action. */
export const rlooMethod = ({ beta, clip }: Pick<RlooConfig, "beta" | "clip">): Method => ({
  advantages: (group) => leaveOneOutAdvantages(group.map(({ kl, score }) => score - beta * kl)),
  loss: ({ logProbabilities, old, responses }) => {
    const [now, before] = [perResponse(logProbabilities, responses), perResponse(old, responses)] // (B,)
    const advantages = numbers(
      responses.map(({ advantage }) => advantage),
      now
    ) // (B,)
    return { loss: rlooLoss(now, before, advantages, clip), clipped: beyondClip(now.detach(), before, clip).sum() }
  }
})

/** GRPO: the KL to the reference is part of the loss of each token. */
export const grpoMethod = ({
  beta,
  clip,
  klGradient,
  maxNewTokens,
  scale,
  tokenWeights
}: Pick<GrpoConfig, "beta" | "clip" | "klGradient" | "maxNewTokens" | "scale" | "tokenWeights">): Method => ({
  advantages: (group) =>
    groupRelativeAdvantages(
      group.map(({ score }) => score),
      scale
    ),
  loss: ({ logProbabilities, old, reference, responses }: Part) => {
    const perToken = (valueOf: (response: Experience) => number) =>
      numbers(
        responses.flatMap((response) => response.response.map(() => valueOf(response))),
        logProbabilities
      ) // (N,)
    const advantages = perToken(({ advantage }) => advantage)
    const weights = perToken(({ response }) => 1 / (tokenWeights === "response" ? response.length : maxNewTokens))
    return {
      loss: grpoLoss(logProbabilities, { old, reference, advantages, weights }, { clip, beta, klGradient }),
      clipped: beyondClip(logProbabilities.detach(), old, clip)
        .mul(perToken(({ response }) => 1 / response.length))
        .sum()
    }
  }
})

const numbers = (values: ReadonlyArray<number>, { device, dtype }: Tensor): Tensor => tensor(Float64Array.from(values), { device, dtype })
