/** Computations in float32 with bfloat16 inputs: log-softmax, cross-entropy, and the global norm of gradients. */
import { describe, expect, it } from "vitest"
import { tokenDistribution } from "../../engine/fused.ts"
import { clipGradientNorm, gradientNorm } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { Random } from "../../engine/random.ts"
import { noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import { draw } from "../../models/sampler.ts"
import { scoreSequences } from "../../stages/common/scoring.ts"
import { logProbabilitiesOf, responseLogProbabilities, responseValues } from "../../stages/ppo/models.ts"
import { largestDifference, smallConfig } from "../models/small.ts"
import { sharpen } from "../models/tensors.ts"

/**
 * For numbers of size 4 to 8, bfloat16 has a resolution of 1/64 to 1/32: rounding to it causes errors of up to 0.016. Float32 has errors of 5e-7; sums of a few dozen
 * stay below this tolerance.
 */
const near = 1e-5

const [rows, vocabulary] = [6, 40]
/** Numbers that bfloat16 represents exactly: multiples of 1/16 up to 8. */
const logits = Array.from({ length: rows }, (_, row) => {
  const random = new Random(3, "logits", row)
  return Array.from({ length: vocabulary }, () => (random.int(257) - 128) / 16)
})
const given = () => tensor(logits, { dtype: "bfloat16" })
const logSoftmax = (row: ReadonlyArray<number>, token: number): number =>
  row[token]! - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))

describe("logits in bfloat16", () => {
  it("give the same cross-entropy as float64 with the same numbers", () => {
    const targets = logits.map((_, row) => (7 * row) % vocabulary)
    const wanted = logits.reduce((sum, row, i) => sum - logSoftmax(row, targets[i]!), 0)
    // The identity as output layer: its states are the logits.
    const identity = Array.from({ length: vocabulary }, (_, i) => Array.from({ length: vocabulary }, (_, j) => (i === j ? 1 : 0)))
    const found = scoped(() => {
      const { logProbabilities } = tokenDistribution(given(), tensor(identity, { dtype: "bfloat16" }), tensor(targets, { dtype: "int64" }))
      expect(logProbabilities.dtype).toBe("float32")
      return -logProbabilities.sum().item()
    })
    expect(Math.abs(found - wanted)).toBeLessThan(near * rows)
  })
  it.each([0, 1, 2])("are sampled with the log-probabilities that float64 gives, at temperature %f", (temperature) => {
    const randoms = logits.map((_, row) => new Random(5, row))
    const { tokens, logProbabilities } = scoped(() =>
      noGrad(() =>
        draw(
          given(),
          logits.map((_, row) => row),
          randoms,
          { temperature }
        )
      )
    )
    const wanted = logits.map((row, i) =>
      logSoftmax(
        row.map((x) => x / (temperature || 1)),
        tokens[i]!
      )
    )
    expect(largestDifference(logProbabilities, wanted)).toBeLessThan(near)
  })
})

describe("models in bfloat16", () => {
  const config = smallConfig()
  const model = (): Llama => sharpen(initLlama(config, { seed: 3, dtype: "bfloat16" }), 10)
  const options = { padId: 0, device: "cpu" as const, config: { temperature: 1, terminal: "past-end" as const, inferenceBatchSize: 64 } }
  // One prompt with every token of the vocabulary as its response: the probabilities form one distribution.
  const responses = Array.from({ length: config.vocabSize }, (_, token) => ({ prompt: [1, 5, 9], response: [token] }))
  const total = (logProbabilities: ReadonlyArray<number>) => logProbabilities.reduce((sum, x) => sum + Math.exp(x), 0)

  it("give log-probabilities of responses whose exponentials sum to 1, with and without gradients", () => {
    const llama = model()
    const trained = scoped(() => responseLogProbabilities(llama, responses, options).logProbabilities.detach().toNumbers())
    const frozen = logProbabilitiesOf(llama, responses, options).map(([one]) => one!)
    expect(Math.max(...trained) - Math.min(...trained)).toBeGreaterThan(3)
    expect(Math.abs(total(trained) - 1)).toBeLessThan(near)
    expect(Math.abs(total(frozen) - 1)).toBeLessThan(near)
  })
  it("apply their scalar head to their states like float64, in scores and in values", () => {
    const scalar = initRewardModel(model(), { seed: 4 })
    const head = scalar.head.detach().toNumbers()
    const tokens = [1, 5, 9, 13, 7]
    const states = scoped(() => noGrad(() => scalar.backbone.hidden(tensor([tokens], { dtype: "int64" })).toNumbers()))
    const wanted = tokens.map((_, i) => head.reduce((sum, x, j) => sum + x * states[i * config.dim + j]!, 0))
    const numbers = (of: () => Tensor) => scoped(() => noGrad(() => of().toNumbers()))
    expect(Math.abs(numbers(() => scoreSequences(scalar, [tokens], options))[0]! - wanted[4]!)).toBeLessThan(near)
    const response = { prompt: tokens.slice(0, 2), response: tokens.slice(2) }
    const values = numbers(() => responseValues(scalar, [response], options))
    expect(largestDifference(values, wanted.slice(1))).toBeLessThan(near)
  })
})

describe("gradients in bfloat16", () => {
  // 300 tensors with a gradient of (3/4, 1): norm 5/4 each, which bfloat16 represents, and 21.65 together, which it would round to 21.625.
  const setup = () => {
    const parameters = Object.fromEntries(
      Array.from({ length: 300 }, (_, i) => [`w${i}`, tensor([0, 0], { dtype: "bfloat16" }).requiresGrad()])
    )
    scoped(() =>
      Object.values(parameters)
        .map((parameter) => parameter.mul(tensor([0.75, 1], { dtype: "bfloat16" })).sum())
        .reduce((sum, one) => sum.add(one))
        .backward()
    )
    return parameters
  }
  const wanted = 1.25 * Math.sqrt(300)
  it("have a global norm in float32, both as returned and for clipping", () => {
    const parameters = setup()
    expect(Math.abs(gradientNorm(parameters) - wanted)).toBeLessThan(near)
    expect(scoped(() => Math.abs(clipGradientNorm(parameters, 2).item() - wanted))).toBeLessThan(near)
    // Clipped to 2: by 0.0924, rounded to bfloat16's 8 bits.
    for (const parameter of Object.values(parameters)) {
      const [a, b] = parameter.grad()!.toNumbers() as [number, number]
      expect([Math.abs(a / ((0.75 * 2) / wanted) - 1) < 2 ** -8, Math.abs(b / (2 / wanted) - 1) < 2 ** -8]).toEqual([true, true])
    }
  })
  it("move float32 weights: a hundred steps of 1e-5 sum to 1e-3, minus the effect of epsilon", () => {
    const w = tensor([1], { dtype: "bfloat16" }).requiresGrad()
    const optimizer = new AdamW({ parameters: { w }, weightDecay: 0 })
    for (let i = 0; i < 100; i++) {
      scoped(() => w.sum().backward())
      optimizer.step(1e-5)
    }
    // A gradient of 1 at every step: each step is 1e-5 / (1 + 1e-5). In bfloat16, just below 1, changes under 0.002 are lost.
    expect(Math.abs(optimizer.state["master.w"]!.item() - (1 - 1e-3 / (1 + 1e-5)))).toBeLessThan(near)
    optimizer.free()
  })
})
