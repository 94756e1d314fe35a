/** Safety context distillation on the small world (§4.2.4): answers with a preprompt, kept where the safety model prefers them. */
import type { Prompt } from "../../schemas/rows.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { distil } from "../../stages/safety/distil.ts"
import { distillationGain } from "../../stages/safety/distillation-gain.ts"
import { preprompt, withoutPreprompt } from "../../stages/safety/preprompt.ts"
import { worldPreprompts } from "../../stages/world/data.ts"
import type { Policy, Rows } from "../nodes.ts"
import { samplingOf, type WorldParams } from "./params.ts"
import { promptsOf } from "./prompts.ts"
import { scoredBy, type Scorers } from "./reward-models.ts"

export const contextDistillation = (policy: Policy, models: Scorers, params: WorldParams) => {
  const prompts = promptsOf("adversarial", "train", Math.ceil(params.prompts / 2), "distillation", 6)
  const draw = (of: Rows<Prompt>, name: string) =>
    sample({ policy, prompts: of }, { ...samplingOf(params), k: 1, temperature: 1 }).named(name)
  const original = scoredBy(models, draw(prompts, "distillation-original"), params, "distillation-original-scores")
  const underPreprompt = draw(preprompt({ prompts }, worldPreprompts), "distillation-prefixed")
  const answers = withoutPreprompt({ completions: underPreprompt, prompts })
  const prefixed = [scoredBy(models, answers, params, "distillation-prefixed-scores")]
  return {
    original,
    demonstrations: distil({ original, prefixed }),
    gain: distillationGain({ original, prefixed }, { kinds: ["generic"] })
  }
}
export type Distillation = ReturnType<typeof contextDistillation>
