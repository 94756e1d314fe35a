/** Several dialogues in one row teach the same as each alone (§3.1). */
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { loadPolicy, type LoadedPolicy } from "../../../models/checkpoint.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { type Demonstration, Demonstrations } from "../../../schemas/rows.ts"
import { sft } from "../../../stages/training/sft.ts"
import { largestDifference } from "../../models/small.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { encodeDemonstrations } from "../encoded.ts"
import { rowsArtifact, runStage } from "../running.ts"
import { talkingPolicy } from "../talking.ts"

// In tokens: 1 + 16 around each question, 1 to 3 in it; 3 around each answer, 1 to 3 in it. None is longer than 29.
const dialogues = ["ab", "ba", "bb a", "a", "aab"].map((text, i): Demonstration => ({
  id: `${i}`,
  messages: [
    { role: "user", content: text },
    { role: "assistant", content: text.slice(i % 2) || "b" }
  ],
  loss: "answers"
}))
let init: ArtifactRef<any>
let demonstrations: ArtifactRef<any>
let start: LoadedPolicy
beforeAll(async () => {
  init = await talkingPolicy(1)
  demonstrations = await rowsArtifact(Demonstrations, dialogues)
  start = await Effect.runPromise(loadPolicy(init))
})

const config = { epochs: 1, batchSize: 8, learningRate: 1e-2, weightDecay: 0, maxNorm: 1e9 }
const train = async (sequenceLength: number, steps: number) => {
  const made = await runStage(sft, { init, demonstrations }, { ...config, sequenceLength, steps })
  const { model } = await Effect.runPromise(loadPolicy(made))
  return { firstLoss: made.metrics["firstLoss"]!, weights: Object.values(model.parameters).flatMap((weight) => weight.toNumbers()) }
}

describe("a row of five dialogues", () => {
  it("has the loss of the five alone: the sum over their answers' tokens, each dialogue computed separately, divided by their number", async () => {
    const { examples } = encodeDemonstrations(start.tokenizer, dialogues, 29)
    const vocabulary = start.model.config.vocabSize
    let [sum, count] = [0, 0]
    for (const { tokens, lossMask } of examples) {
      const logits = scoped(() => noGrad(() => start.model.forward(tensor([tokens], { dtype: "int64" })).toNumbers()))
      tokens.forEach((token, i) => {
        if (!lossMask[i]) return
        const row = logits.slice((i - 1) * vocabulary, i * vocabulary)
        sum += Math.log(row.reduce((total, x) => total + Math.exp(x), 0)) - row[token]!
        count++
      })
    }
    expect([examples.length, examples.reduce((total, { tokens }) => total + tokens.length, 0) <= 145]).toEqual([5, true])
    expect(Math.abs((await train(145, 1)).firstLoss - sum / count)).toBeLessThanOrEqual(sameInFloat32)
  })
  it("has their gradients: five steps on it give the same weights as five steps on five rows of one dialogue", async () => {
    const [packed, alone] = [await train(145, 5), await train(29, 5)]
    // AdamW divides by the root of a gradient's mean square plus 1e-5: rounding of 1e-8 moves a weight by a thousandth of a step, 1e-5.
    expect(largestDifference(packed.weights, alone.weights)).toBeLessThanOrEqual(sameInFloat32)
    const still = Object.values(start.model.parameters).flatMap((weight) => weight.toNumbers())
    expect(largestDifference(packed.weights, still)).toBeGreaterThan(100 * sameInFloat32)
  })
})
