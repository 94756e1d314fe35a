/** KL to a reference: 0 to itself, that of full logits to another, and rejected inputs. */
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { readRows } from "../../../data/dataset.ts"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { encodePrompt } from "../../../models/chat.ts"
import { loadPolicy } from "../../../models/checkpoint.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Completions, Prompts } from "../../../schemas/rows.ts"
import { mean } from "../../../stages/common/statistics.ts"
import { policyKl, PolicyKlReport } from "../../../stages/evaluation/policy-kl.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { ask, assistant, user } from "../samples.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

let policy: ArtifactRef<any>
let other: ArtifactRef<any>
let prompts: ArtifactRef<any>
beforeAll(async () => {
  ;[policy, other] = [await talkingPolicy(1), await talkingPolicy(2)]
  prompts = await rowsArtifact(
    Prompts,
    ["ab", "ba ab", "b"].map((text) => ask(text, text))
  )
})
const drawn = (temperature: number) => runStage(sample, { policy, prompts }, { k: 2, temperature, maxNewTokens: 6 })
const klTo = async (reference: ArtifactRef<any>, config = {}) =>
  reportIn(await runStage(policyKl, { completions: await drawn(1), reference }, config), PolicyKlReport)

describe("the KL of a policy", () => {
  it("is 0 to itself", async () => {
    const { completions, kl, prompts } = await klTo(policy)
    expect([completions, prompts]).toEqual([6, 3])
    expect(Math.abs(kl.mean)).toBeLessThanOrEqual(sameInFloat32)
  })
  it("is 0 to itself also for responses of any length to a dialogue that lost its oldest exchange to fit the context", async () => {
    // It ends some of its answers.
    const talking = await talkingPolicy(
      6,
      ["ab", "ba b", "abab", "b"].map((answer) => [user("ba ab"), assistant(answer)])
    )
    const context = 160
    const dialogue = (words: number) => [user("b ".repeat(words)), assistant("ab"), user("ba ab")]
    const drawn = async (words: number) => {
      const asked = await rowsArtifact(Prompts, [{ ...ask("long", "ba ab"), messages: dialogue(words) }])
      const completions = await runStage(sample, { policy: talking, prompts: asked }, { k: 40, temperature: 1, maxNewTokens: 4 })
      return { completions, rows: await Effect.runPromise(readRows(completions, Completions)) }
    }
    const lengths = (await drawn(context)).rows.map(({ tokens }) => tokens.length)
    const shortest = Math.min(...lengths)
    expect([shortest < 4, lengths.includes(4)]).toEqual([true, true])
    // A dialogue that fits beside the shortest response, but not beside one of four tokens.
    const lengthOf = (words: number) => encodePrompt(tokenizer, dialogue(words)).length
    const words = Array.from({ length: context }, (_, i) => i).findLast((count) => lengthOf(count) <= context - shortest)!
    expect(lengthOf(words)).toBeGreaterThan(context - 4)
    const { completions } = await drawn(words)
    const { kl } = await reportIn(await runStage(policyKl, { completions, reference: talking }), PolicyKlReport)
    expect(Math.abs(kl.mean)).toBeLessThanOrEqual(sameInFloat32)
  })
  it("to another is the mean difference of the responses' log-probabilities, in batches of any size", async () => {
    const rows = await Effect.runPromise(readRows(await drawn(1), Completions))
    const { model } = await Effect.runPromise(loadPolicy(other))
    const wanted = rows.map(({ logProbabilities, prompt, tokens }) => {
      const asked = encodePrompt(tokenizer, prompt)
      const [width, all] = scoped(() =>
        noGrad(() => {
          const logits = model.forward(tensor([[...asked, ...tokens]], { dtype: "int64" })).logSoftmax(-1)
          return [logits.size(-1), logits.toNumbers()] as const
        })
      )
      const reference = tokens.reduce((sum, token, t) => sum + all[(asked.length - 1 + t) * width + token]!, 0)
      return logProbabilities.reduce((a, b) => a + b, 0) - reference
    })
    for (const batchSize of [1, 4]) {
      const { kl } = await klTo(other, { batchSize })
      expect(Math.abs(kl.mean - mean(wanted))).toBeLessThanOrEqual(sameInFloat32 * 10)
      expect(kl.mean).toBeGreaterThan(0.5)
      expect(kl.low).toBeLessThanOrEqual(kl.mean)
      expect(kl.high).toBeGreaterThanOrEqual(kl.mean)
    }
  })
  it("is rejected for completions at another temperature, and without completions", async () => {
    expect(await failureOf(policyKl, { completions: await drawn(0.7), reference: other })).toContain(
      "expected completions at temperature 1, whose log-probabilities are the policy's own, found completions at temperature 0.7"
    )
    expect(await failureOf(policyKl, { completions: await rowsArtifact(Completions, []), reference: other })).toContain("0 completions")
  })
})
