/** The sums pipeline as a graph: a checker instead of the reward model in GRPO and PPO, with evaluation before and after. Nothing runs. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import checker from "../../pipelines/sums/checker.ts"
import sums from "../../pipelines/sums.ts"
import { buildGraph, type StageNode } from "../../runtime/define/graph.ts"

const graph = await Effect.runPromise(buildGraph(sums, {}, { seed: 0 }))
const node = (id: string) => graph.nodes.get(id) as StageNode

describe("the pipeline of sums", () => {
  it("trains one policy with one checker on the same questions, with GRPO and with PPO, with the same number of answers", () => {
    for (const id of ["grpo", "ppo"]) {
      expect(node(id).inputs).toMatchObject({ policy: "base", helpfulness: "checker", safety: null, prompts: "prompts", heldOut: null })
      expect(node(id).config).toMatchObject({ iterations: 80, batchSize: 96, beta: 0.02 })
    }
    expect(node("checker").stage.name).toBe("helpfulness-scorer")
  })
  it("judges each policy with the same checker, on questions that it learnt from and on others", () => {
    const judged = ["before", "after-grpo", "after-ppo"].flatMap((name) => [name, `held-out-${name}`])
    expect(Object.values(graph.outputs).slice(2).sort()).toEqual(judged.sort())
    for (const name of judged) {
      expect(node(name).inputs.scored).toBe(`checked-${name}`)
      expect(node(`checked-${name}`).inputs.reward).toBe("checker")
      expect(node(`answers-${name}`).inputs.prompts).toBe(name.startsWith("held-out") ? "held-out" : "prompts")
    }
  })
})

describe("its checker", () => {
  const asked = (answer: string) => checker([{ role: "user", content: "What is 9 + 8?" }], answer)
  it("gives 1 for the sum and 0 for anything else", () => {
    expect([asked("17"), asked(" 17 "), asked("18"), asked("17 or so"), asked("")]).toEqual([1, 1, 0, 0, 0])
  })
  it("rejects a question without a sum", () => {
    expect(() => checker([{ role: "user", content: "Hello" }], "17")).toThrow('no sum in "Hello"')
  })
})
