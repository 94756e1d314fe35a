/** Log-probabilities of tokens under an output layer, compared with float64 plain operators, in one chunk and in several. */
import { describe, expect, it } from "vitest"
import { composedTokenDistribution, tokenDistribution, type TokenDistributionOptions } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { type DType, noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { devices } from "../devices.ts"
import { bfloat16, float32, float64, fused } from "../tolerances.ts"

const normal = (seed: number, count: number, size = 1) => {
  const random = new Random(seed, "vocabulary")
  return Float64Array.from({ length: count }, () => size * random.normal())
}

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`log-probabilities of tokens on ${device}`, () => {
    const run = (
      form: typeof tokenDistribution,
      dtype: DType,
      { dim, rows, vocabulary }: { readonly rows: number; readonly dim: number; readonly vocabulary: number },
      options: TokenDistributionOptions
    ) =>
      scoped(() => {
        const states = tensor(normal(1, rows * dim), { shape: [rows, dim], dtype, device }).requiresGrad()
        const weight = tensor(normal(2, vocabulary * dim), { shape: [vocabulary, dim], dtype, device }).requiresGrad()
        const targets = tensor(
          Int32Array.from({ length: rows }, (_, i) => (i * 7919 + vocabulary - 1) % vocabulary),
          { dtype: "int64", device }
        )
        const { entropies, logProbabilities } = form(states, weight, targets, options)
        // A different weight for each row, and no gradient for one of them.
        const pull = normal(3, rows).map((x, i) => (i === 1 ? 0 : x))
        logProbabilities
          .mul(tensor(pull, { dtype: logProbabilities.dtype, device }))
          .sum()
          .backward()
        return {
          logProbabilities: logProbabilities.detach().toNumbers(),
          entropies: entropies.toNumbers(),
          states: states.grad()!.toNumbers(),
          weight: weight.grad()!.toNumbers()
        }
      })
    const away = (found: ReadonlyArray<number>, wanted: ReadonlyArray<number>) => {
      expect(found.length).toBe(wanted.length)
      const most = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 1)
      return found.reduce((worst, x, i) => Math.max(worst, Math.abs(x - wanted[i]!)), 0) / most
    }
    const sizes = [
      { rows: 4, dim: 3, vocabulary: 7 },
      { rows: 9, dim: 8, vocabulary: 512 },
      { rows: 2, dim: 5, vocabulary: 2049 }
    ]
    const options = [{}, { temperature: 0.7 }, { temperature: 2, entropies: true }]

    it.each(sizes.flatMap((size) => options.map((given) => [size, given] as const)))(
      "of %j with %j: values and gradients",
      (size, given) => {
        const wanted = run(composedTokenDistribution, "float64", size, given)
        for (const [dtype, near] of [
          ["float64", float64],
          ["float32", fused]
        ] as const) {
          const found = run(tokenDistribution, dtype, size, given)
          for (const name of ["logProbabilities", "entropies", "states", "weight"] as const)
            expect(away(found[name], wanted[name]), `${name} in ${dtype}`).toBeLessThanOrEqual(near)
        }
      }
    )

    it("in bfloat16 equal those of its states and weight in float32, except for the rounding of logits and gradients", () => {
      const size = { rows: 9, dim: 8, vocabulary: 512 }
      const wanted = run(composedTokenDistribution, "float32", size, { entropies: true })
      const found = run(tokenDistribution, "bfloat16", size, { entropies: true })
      for (const name of ["logProbabilities", "entropies", "states", "weight"] as const)
        expect([name, away(found[name], wanted[name]) <= bfloat16]).toEqual([name, true])
    })

    it("are the same in several chunks, whose logits are not all kept", () => {
      // 2^25 elements per chunk: three chunks.
      const size = { rows: 120, dim: 2, vocabulary: 600_000 }
      const wanted = run(composedTokenDistribution, "float32", size, {})
      const found = run(tokenDistribution, "float32", size, {})
      for (const name of ["logProbabilities", "states", "weight"] as const)
        expect([name, away(found[name], wanted[name]) <= float32]).toEqual([name, true])
    })

    // A hundred tokens, of which 16 to 31 have this weight: on a GPU, those of two threads next to each other.
    const withWeight = (weight: number, dtype: DType, form = tokenDistribution) =>
      scoped(() => {
        const weights = Float64Array.from({ length: 104 }, (_, v) => (v >= 16 && v < 32 ? weight : Math.sin(v)))
        const states = tensor([[1], [2]], { dtype, device })
        const targets = tensor([3, 40], { dtype: "int64", device })
        const found = noGrad(() => form(states, tensor(weights, { shape: [104, 1], dtype, device }), targets, { entropies: true }))
        return [...found.logProbabilities.toNumbers(), ...found.entropies.toNumbers()]
      })
    it.each(["float32", "float64", "bfloat16"] as const)("are those without the tokens whose logit is minus infinity, in %s", (dtype) => {
      // With -1e6 their probability is 0 as well.
      const wanted = withWeight(-1e6, dtype, composedTokenDistribution)
      expect(wanted.every(Number.isFinite)).toBe(true)
      for (const form of [tokenDistribution, composedTokenDistribution])
        expect(away(withWeight(-Infinity, dtype, form), wanted)).toBeLessThanOrEqual(fused)
    })
    it.each(["float32", "float64", "bfloat16"] as const)("are NaN where a logit is, also of another token, in %s", (dtype) => {
      for (const form of [tokenDistribution, composedTokenDistribution]) expect(withWeight(NaN, dtype, form)).toEqual([NaN, NaN, NaN, NaN])
    })

    it("have the entropy log V if all tokens are equally likely, 0 if one is certain", () => {
      scoped(() =>
        noGrad(() => {
          const weight = tensor([[0], [0], [0], [200]], { dtype: "float64", device })
          const states = tensor([[0], [1]], { dtype: "float64", device })
          const { entropies } = tokenDistribution(states, weight, tensor([0, 3], { dtype: "int64", device }), { entropies: true })
          const [uniform, certain] = entropies.toNumbers()
          expect(uniform).toBeCloseTo(Math.log(4), 12)
          expect(Math.abs(certain!)).toBeLessThanOrEqual(float64)
        })
      )
    })
  })
}

describe("log-probabilities of tokens", () => {
  it("report an invalid target", () => {
    const of = (target: number) => tokenDistribution(tensor([[1]]), tensor([[0], [1], [2]]), tensor([target], { dtype: "int64" }))
    expect(() => of(3)).toThrow(/target 3 is out of bounds of 3 logits/)
    expect(() => of(-1)).toThrow(/target -1 is out of bounds/)
  })
  it("reject targets of another dtype than int64", () => {
    const of = () => tokenDistribution(tensor([[1]]), tensor([[0], [1]]), tensor([0], { dtype: "int32" }))
    expect(of).toThrow(/targets must be int64 on cpu like the states; these are Int on cpu/)
  })
  it("reject states of another width than the output layer's", () => {
    expect(() => tokenDistribution(tensor([[1, 2]]), tensor([[0], [1]]), tensor([0], { dtype: "int64" }))).toThrow(
      /states must be \(N, D\)/
    )
  })
})
