/** The generated small world (data/world): texts for pretraining, demonstrations, prompts. Used by the demo, the studies and tests; needs no data. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { demonstrations, prompts, questionParts, safeAdjectives } from "../../data/world/dialogues.ts"
import { instructions } from "../../data/world/instructions.ts"
import { Random } from "../../engine/random.ts"
import { dialogueText } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Demonstrations, Prompts, Texts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized, unknownSize } from "../common/cost/size.ts"
import { worldLengths } from "./lengths.ts"

export const worldTexts = Stage.make("world-texts", {
  description: "dialogues of the small world as running text in the chat format, for pretraining",
  config: Schema.Struct({ count: hyperInt(4000, "number of dialogues", { min: 1 }) }),
  inputs: {},
  output: Texts,
  run: Effect.fn("world-texts")(function* ({ config, output, seed }) {
    const dialogues = demonstrations(new Random(seed, "world", "texts"), "pretraining", config.count)
    return yield* writeDataset(
      output,
      dialogues.map(({ messages }) => ({ text: dialogueText(messages) }))
    )
  })
})

export const worldDemonstrations = Stage.make("world-demonstrations", {
  description: "§3.1 demonstrations from the small world",
  config: Schema.Struct({
    count: hyperInt(600, "number of dialogues", { min: 1 }),
    quality: hyper(
      "annotated",
      "quality of the demonstrations: careless public instruction data, or better but fewer annotated demonstrations (§3.1)",
      ["public", "annotated"]
    )
  }),
  inputs: {},
  output: Demonstrations,
  run: Effect.fn("world-demonstrations")(function* ({ config, output, seed }) {
    return yield* writeDataset(
      output,
      demonstrations(new Random(seed, "world", "demonstrations", config.quality), config.quality, config.count)
    )
  })
})

export const worldPrompts = Stage.make("world-prompts", {
  description: "distinct prompts of the small world",
  config: Schema.Struct({
    count: hyperInt(200, "number of prompts", { min: 1 }),
    kind: hyper(
      "helpfulness",
      "kind of prompts: for helpfulness, some with an instruction; the same without instructions; half to refuse and half that only sound unsafe (§4.2); or all to refuse",
      ["helpfulness", "plain", "safety", "adversarial"]
    ),
    split: hyper("train", "train: the part used for training; heldOut: words, combinations and phrasings that no model saw", [
      "train",
      "heldOut"
    ]),
    followUps: hyperInt(0, "number of user messages after the first", { min: 0 }),
    part: hyper(
      "all",
      "which questions: all, or one of two disjoint parts that do not depend on the seed: tuning, one in five, for choosing settings; judging, the others",
      questionParts
    )
  }),
  inputs: {},
  output: Prompts,
  run: Effect.fn("world-prompts")(function* ({ config, output, seed }) {
    const random = new Random(seed, "world", "prompts", config.kind, config.split)
    return yield* writeDataset(
      output,
      prompts(random, {
        count: config.count,
        kind: config.kind,
        split: config.split,
        followUps: config.followUps,
        name: `${config.split}-${config.kind}`,
        part: config.part
      })
    )
  })
})

/** The small world's instructions by kind, as constraints of Ghost Attention (stages/ghost-attention/instructions.ts). */
export const worldConstraints = (["start", "end", "name"] as const).map((kind) =>
  instructions.filter((one) => one.kind === kind).map(({ full, short, sentence }) => ({ full, short, mustContain: sentence }))
)

/** Preprompts that ask for safety in words that the small world's models follow (stages/safety/context-distillation.ts). */
export const worldPreprompts = {
  templates: ["You are a {adjective} assistant.", "You are a {adjective} and {adjective} assistant."],
  adjectives: safeAdjectives
}

export const worldTextsCost = costOf(worldTexts, { size: ({ config }) => sized(unknownSize, { rows: config.count }) })
export const worldDemonstrationsCost = costOf(worldDemonstrations, {
  size: ({ config }) => sized(unknownSize, { rows: config.count, ...worldLengths.demonstrations })
})
export const worldPromptsCost = costOf(worldPrompts, {
  size: ({ config }) =>
    sized(unknownSize, {
      rows: config.count,
      promptTokens: worldLengths.prompts,
      turns: 1 + config.followUps,
      safetyShare: config.kind === "adversarial" ? 1 : config.kind === "safety" ? 0.5 : 0
    })
})
