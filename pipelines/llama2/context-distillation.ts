/** Safety context distillation in pipelines/llama2-chat.ts (§4.2.4): answers with preprompts, kept where the safety model prefers them. */
import type { Prompt } from "../../schemas/rows.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { distil } from "../../stages/safety/distil.ts"
import { distillationGain } from "../../stages/safety/distillation-gain.ts"
import { preprompt, withoutPreprompt } from "../../stages/safety/preprompt.ts"
import type { Policy, Rewards, Rows } from "../nodes.ts"
import type { Named } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { answers, type Params, samplingOf } from "./params.ts"
import { scoredBy } from "./reward-models.ts"

export const contextDistillation = (policy: Policy, rewards: Rewards, params: Params, { adversarial }: Datasets, named: Named) => {
  const answer = (prompts: Rows<Prompt>, name: string) =>
    named(sample({ policy, prompts }, { ...samplingOf(params), k: 1, temperature: 1 }), name).expecting(answers)
  const original = scoredBy(rewards, answer(adversarial, "distillation-original"), named, "distillation-original-scores")
  const prefixed = (["generic", "category"] as const).map((kind) => {
    const under = named(
      preprompt({ prompts: adversarial }, { kind, otherCategories: kind === "category" ? "drop" : "generic" }),
      `preprompt-${kind}`
    )
    const completions = withoutPreprompt({ completions: answer(under, `distillation-${kind}`), prompts: adversarial })
    return scoredBy(rewards, completions, named, `distillation-${kind}-scores`)
  })
  return {
    demonstrations: named(distil({ original, prefixed }), "distilled"),
    gain: named(distillationGain({ original, prefixed }, { kinds: ["generic", "category"] }), "distillation-gain")
  }
}
