/**
 * Ghost Attention (Llama 2 §3.3) in isolation: a chat model with its data and one without, on held-out dialogues with instructions of the kinds in the data (table 30) and of a kind that
 * is not in it (figure 28); and the attention of both in one dialogue (figure 10). In the paper the model with Ghost Attention also keeps instructions that were in no training data.
 *
 * In the small world, pretraining texts contain instructions of all kinds, which apply only to their own message: never trained means that no dialogue of Ghost Attention has the kind.
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { mixDemonstrations } from "../../stages/data/mix.ts"
import { attentionMap } from "../../stages/ghost-attention/attention-map.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import { worldConstraints, worldPrompts } from "../../stages/world/data.ts"
import { evaluateWorldGhostAttention } from "../../stages/world/ghost-attention.ts"
import { setting, settingParams } from "./setting.ts"

const Params = Schema.Struct({
  ...settingParams,
  dialogues: hyperInt(200, "number of dialogues for Ghost Attention, and the same number of held-out ones of each kind", { min: 4 }),
  turns: hyperInt(6, "number of user messages per dialogue", { min: 2 })
})

export default Pipeline.make(
  "ghost-attention",
  { description: "Ghost Attention in isolation: trained and never-trained instructions, and attention maps", params: Params },
  ({ dialogues: count, turns, ...params }) => {
    const { base, chat, demonstrations, sampling, tune } = setting(params)
    const [trained, never] = [worldConstraints.slice(0, -1), worldConstraints.slice(-1)]
    const promptsOf = (split: "train" | "heldOut", name: string) =>
      worldPrompts({}, { kind: "plain", split, count, followUps: turns - 1, seed: 5 }).named(name)
    const prompts = { train: promptsOf("train", "prompts"), heldOut: promptsOf("heldOut", "held-out-prompts") }
    const dialoguesOf = (name: string, split: "train" | "heldOut", constraints: typeof trained) =>
      ghostInstructions({ prompts: prompts[split] }, { constraints, combine: 0, turns }).named(name)
    const samples = ghostSample({ policy: chat, dialogues: dialoguesOf("dialogues", "train", trained) }, sampling).named("samples")
    const data = ghostTrainingData({ samples }).named("ghost-data")
    const mixed = mixDemonstrations({ datasets: [demonstrations, data] }, { weights: [1, 1] }).named("demonstrations-and-ghost-data")
    const models = { without: chat, with: tune(base, mixed, "ghost-attention") }
    const heldOut = dialoguesOf("held-out-dialogues", "heldOut", trained)
    const kept = (dialogues: typeof heldOut, name: string) =>
      (["without", "with"] as const).map((which) => {
        const full = `${name}-${which}`
        return [full, evaluateWorldGhostAttention({ policy: models[which], dialogues }, sampling).named(full)] as const
      })
    return {
      policy: models.with,
      ...Object.fromEntries([
        ...kept(heldOut, "trained"),
        ...kept(dialoguesOf("never-trained-dialogues", "heldOut", never), "never-trained")
      ]),
      attention: attentionMap({
        ...models,
        samples: ghostSample({ policy: models.with, dialogues: heldOut }, sampling).named("held-out-samples")
      }).named("attention")
    }
  }
)
