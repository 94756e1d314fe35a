/**
 * Ghost Attention's training data (Llama 2 §3.3): the instruction remains only in the first turn, and tokens of previous turns, including assistant
 * messages, carry no loss.
 *
 * The paper does not say whether each dialogue gives one row or one row per turn. By default there is one row per turn (2 to n), in which that turn is
 * the last.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type Demonstration, Demonstrations } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { anyShare } from "../common/unfit.ts"
import { dialogueTo, type GhostSample, GhostSamples } from "./sample.ts"

/**
 * The training rows of sampled dialogues: the dialogue up to each turn from the second on ("every-turn"), or only the complete dialogue ("last-turn").
 */
export const ghostRows = (samples: ReadonlyArray<GhostSample>, which: "every-turn" | "last-turn"): Array<Demonstration> =>
  samples.flatMap((sample) => {
    const rows = sample.answers.slice(1).map((answer, i) => ({
      id: `${sample.id}-${i + 2}`,
      messages: [
        ...dialogueTo(sample, sample.answers, i + 1, sample.trainedInstruction, "first turn"),
        { role: "assistant" as const, content: answer }
      ],
      loss: "last-answer" as const
    }))
    return which === "every-turn" ? rows : rows.slice(-1)
  })

export const ghostTrainingData = Stage.make("ghost-training-data", {
  description: "§3.3 training data from sampled dialogues: the instruction only in the first turn, and no loss on previous turns",
  config: Schema.Struct({
    rows: hyper("every-turn", "every-turn: one row per turn from the second on; last-turn: one row per dialogue; §3.3 does not say", [
      "every-turn",
      "last-turn"
    ])
  }),
  inputs: { samples: GhostSamples },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("ghost-training-data")(function* ({ config, inputs, output, skipped }) {
    const samples = yield* readRows(inputs.samples, GhostSamples)
    const rows = ghostRows(samples, config.rows)
    // A single answer has no earlier turn that contains the instruction.
    const single = samples.filter(({ answers }) => answers.length < 2)
    for (const sample of single) skipped.add({ what: "dialogues", reason: "with fewer than two answers", id: sample.id, row: sample })
    yield* skipped.check("dialogues", samples.length, anyShare)
    return yield* writeDataset(output, rows, { metrics: { dialogues: samples.length, singleTurn: single.length, rows: rows.length } })
  })
})

export const ghostTrainingDataCost = costOf(ghostTrainingData, {
  size: ({ config, inputs }) => {
    const { promptTokens: question, responseTokens: answer, rows, turns } = inputs.samples
    // Rows end at turn 2 to n, on average halfway; or all at turn n.
    const turn = config.rows === "every-turn" ? (turns + 2) / 2 : turns
    return sized(inputs.samples, {
      rows: config.rows === "every-turn" ? rows * (turns - 1) : rows,
      promptTokens: turn * question + (turn - 1) * answer,
      turns: NaN
    })
  }
})
