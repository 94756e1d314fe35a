/** The numbers that training stages report at every step: the rows of their curves (runtime/run/curve.ts). */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import type { Progress } from "../../runtime/define/stage.ts"
import { resumables } from "./resumable.ts"
import { stageEffect } from "./running.ts"

const cases = await resumables()

const rowsOf = async (name: string) => {
  const { stage, inputs, config } = cases.find((one) => one.name === name)!
  const told: Array<Progress> = []
  const { metrics } = await Effect.runPromise(
    stageEffect(stage, inputs, config, { progress: (report) => Effect.sync(() => void told.push(report)) })
  )
  return { told, metrics }
}
const finite = (report: Progress, fields: ReadonlyArray<string>) => fields.filter((field) => !Number.isFinite(report[field]))

describe("every step of", () => {
  it.each(["sft", "pretrain", "helpfulness-reward-model", "safety-reward-model", "general-reward-model", "safety-classifier"])(
    "%s has its loss, learning rate, gradient norm and tokens",
    async (name) => {
      const { told, metrics } = await rowsOf(name)
      const steps = told.filter(({ loss }) => loss !== undefined)
      expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: metrics.steps! }, (_, i) => i + 1))
      for (const step of steps) expect(finite(step, ["loss", "learningRate", "gradientNorm", "tokens"])).toEqual([])
    }
  )

  it("PPO has its reward, KL, losses, norms and rates, and the held-out reward at each evaluation", async () => {
    const { told, metrics } = await rowsOf("ppo with held-out prompts")
    const iterations = told.filter(({ reward }) => reward !== undefined)
    expect(iterations.map(({ step }) => step)).toEqual(Array.from({ length: metrics.iterations! }, (_, i) => i + 1))
    const fields = [
      ...["reward", "helpfulness", "safety", "kl", "klPerToken", "beta", "loss", "valueLoss", "entropy", "clipFraction", "approximateKl"],
      ...["mismatchKl", "policyGradientNorm", "valueGradientNorm", "explainedVariance", "learningRate", "responseLength", "withoutEos"],
      ...["generationSeconds", "scoringSeconds", "updateSeconds"]
    ]
    for (const iteration of iterations) expect(finite(iteration, fields)).toEqual([])
    // Before the first, every second, and the last.
    expect(told.flatMap(({ step, heldOutReward }) => (heldOutReward === undefined ? [] : [step]))).toEqual([0, 2, 3])
  })

  it.each(["sample", "score", "classify-prompts", "ghost-sample"])("%s has its tokens: the throughput follows from them", async (name) => {
    const { told } = await rowsOf(name)
    expect(told.length).toBeGreaterThan(0)
    for (const report of told) expect(report.tokens).toBeGreaterThan(0)
  })
})
