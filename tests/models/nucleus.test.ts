/** The nucleus on an exact tie: the fewest tokens whose probabilities reach p, not one more (Holtzman et al. 2020). */
import { describe, expect, it } from "vitest"
import { noGrad, scoped, tensor, zeros } from "../../engine/tensor.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { restrict } from "../../models/restrict.ts"
import { generate } from "../../models/sampler.ts"
import { smallConfig } from "./small.ts"

const kept = (logits: ReadonlyArray<number>, topP: number): number =>
  scoped(() =>
    noGrad(
      () =>
        restrict(tensor([logits]), { topP })
          .toNumbers()
          .filter((logit) => logit !== -Infinity).length
    )
  )

describe("for tokens that are exactly equally likely", () => {
  // exp(0) is 1, and 1 / 4 and its multiples are exact: the sum reaches p without rounding.
  it.each([
    [0.25, 1],
    [0.5, 2],
    [0.75, 3],
    [0.7500001, 4],
    [0.4999999, 2]
  ])("the nucleus of %f keeps %i of four", (topP, count) => {
    expect(kept([0, 0, 0, 0], topP)).toBe(count)
  })

  it("a model of 64 tokens that samples from the nucleus of 1/2 returns 32 of them and no other, each with probability 1/32", () => {
    const start = initLlama(smallConfig({ vocabSize: 64 }), { seed: 1 })
    const model = new Llama(start.config, { ...start.parameters, "lm_head.weight": zeros([64, start.config.dim]) })
    // The probability that one of 32 equally likely tokens is not among 800 samples is 3e-10.
    const seeds = Array.from({ length: 800 }, (_, i) => i)
    const options = { maxNewTokens: 1, temperature: 1, topP: 0.5, seeds, eosId: undefined, padId: 0 }
    const drawn = generate(
      model,
      seeds.map(() => [1]),
      options
    )
    expect(new Set(drawn.map(({ tokens }) => tokens[0])).size).toBe(32)
    for (const { logProbabilities } of drawn) expect(logProbabilities[0]).toBeCloseTo(-Math.log(32), 5)
  })
})
