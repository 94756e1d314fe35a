/** A prompt's samples depend on the seed, the prompt's id and the sample's number: on nothing else, and on all of them. */
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { encodePrompt } from "../../../models/chat.ts"
import { loadPolicy } from "../../../models/checkpoint.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Completions, type Prompt, Prompts } from "../../../schemas/rows.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask } from "../samples.ts"
import { talkingPolicy } from "../talking.ts"

let policy: ArtifactRef<any>
beforeAll(async () => {
  policy = await talkingPolicy(1)
})
const draw = async (prompts: ReadonlyArray<Prompt>, config: Readonly<Record<string, unknown>>, seed = 1) =>
  rowsIn(
    await runStage(sample, { policy, prompts: await rowsArtifact(Prompts, prompts) }, { temperature: 1, ...config }, seed),
    Completions
  )

/** How often two lists agree, position by position. */
const matches = (a: ReadonlyArray<unknown>, b: ReadonlyArray<unknown>) => a.filter((x, i) => x === b[i]).length

describe("completions of equal prompts", () => {
  const k = 200
  const config = { k, topK: 8, maxNewTokens: 1 }
  const twins = [ask("one", "ab"), ask("two", "ab")]
  it("agree in their first token as often as two independent samples, and so do one prompt's with two seeds and its neighbouring samples", async () => {
    // Two samples of p agree with probability q, the sum of p(token)^2 over the eight likeliest; k pairs agree in k q +- sqrt(k q (1 - q)) of them.
    const { model, tokenizer } = await Effect.runPromise(loadPolicy(policy))
    const prompt = encodePrompt(tokenizer, twins[0]!.messages)
    const logits = scoped(() =>
      noGrad(() =>
        model
          .forward(tensor([prompt], { dtype: "int64" }))
          .select(1, prompt.length - 1)
          .toNumbers()
      )
    )
    const likeliest = logits
      .map((x) => Math.exp(x))
      .sort((a, b) => b - a)
      .slice(0, config.topK)
    const total = likeliest.reduce((sum, x) => sum + x, 0)
    const q = likeliest.reduce((sum, x) => sum + (x / total) ** 2, 0)
    expect(k * q).toBeGreaterThan(10)
    expect(q).toBeLessThan(0.5)
    const rows = await draw(twins, config)
    const [one, two] = twins.map(({ id }) => rows.filter(({ promptId }) => promptId === id).map(({ tokens }) => tokens[0]!))
    const other = (await draw(twins.slice(0, 1), config, 2)).map(({ tokens }) => tokens[0]!)
    expect([one!.length, two!.length, other.length]).toEqual([k, k, k])
    const bound = 4 * Math.sqrt(k * q * (1 - q))
    for (const [a, b] of [
      [one!, two!],
      [one!, other],
      [one!.slice(1), one!]
    ] as const)
      expect(Math.abs(matches(a, b) - k * q)).toBeLessThan(bound)
  })
  it("of several tokens differ", async () => {
    const rows = await draw(twins, { k: 3, maxNewTokens: 8 })
    expect(new Set(rows.map(({ tokens }) => tokens.join())).size).toBe(6)
  })
})

describe("a prompt's completions", () => {
  const prompts = ["ab", "ba ab", "aab", "b", "ab"].map((text, i) => ask(`${i}`, text))
  const of = (
    rows: ReadonlyArray<{ readonly promptId: string; readonly sample: number; readonly tokens: ReadonlyArray<number> }>,
    id: string
  ) => rows.filter(({ promptId }) => promptId === id).map(({ sample, tokens }) => [sample, tokens])
  it("are the same with other prompts, in another order, in other batches, and are a prefix of more", async () => {
    const all = await draw(prompts, { k: 3, maxNewTokens: 6 })
    const apart = [
      await draw([prompts[4]!, prompts[2]!], { k: 3, maxNewTokens: 6 }),
      await draw(prompts.toReversed(), { k: 3, maxNewTokens: 6, batchSize: 2 }),
      (await draw(prompts, { k: 5, maxNewTokens: 6, batchSize: 7 })).filter(({ sample }) => sample < 3)
    ]
    for (const rows of apart) for (const id of ["2", "4"]) expect(of(rows, id)).toEqual(of(all, id))
  })
})
