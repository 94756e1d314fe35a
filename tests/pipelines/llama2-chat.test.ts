/** pipelines/llama2-chat.ts as a graph: who is tuned from what, on which data, with which hyperparameters. Nothing runs. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import pipeline from "../../pipelines/llama2-chat.ts"
import { ancestors, buildGraph, dependencies, type Graph, type StageNode } from "../../runtime/graph.ts"

const graphOf = (params: Record<string, unknown> = {}): Promise<Graph> => Effect.runPromise(buildGraph(pipeline, params, { seed: 0 }))
const node = (graph: Graph, id: string) => graph.nodes.get(id) as StageNode
const ofStage = (graph: Graph, name: string) =>
  [...graph.nodes.values()].filter((one): one is StageNode => one.kind === "stage" && one.stage.name === name)
const has = (graph: Graph, id: string, above: string) => ancestors(graph, id).has(above)

const whole = await graphOf()
const versions = ["rlhf-v1", "rlhf-v2", "rlhf-v3", "rlhf-v4", "rlhf-v5-rs"]

describe("the recipe", () => {
  it("tunes every version from the base model, on that round's data", () => {
    for (const [i, version] of versions.entries())
      expect(node(whole, version).inputs).toEqual({ init: "import-policy", demonstrations: `data-${i + 1}` })
    expect(node(whole, "sft").inputs).toEqual({ init: "sft-bootstrap", demonstrations: "all-demonstrations" })
    expect(node(whole, "sft-bootstrap").inputs).toEqual({ init: "import-policy", demonstrations: "filter-demonstrations" })
  })

  it("samples the version before, and chooses among the best of all versions by the latest best reward models", () => {
    expect(node(whole, "samples-1").inputs).toMatchObject({ policy: "sft" })
    expect(node(whole, "samples-4").inputs).toMatchObject({ policy: "rlhf-v3", sweep: "sweep-4" })
    expect(node(whole, "selected-4").inputs.scored).toEqual(["scores-4-of-1", "scores-4-of-2", "scores-4-of-3", "scores-4"])
    for (const id of ["scores-4-of-1", "scores-4"])
      expect(node(whole, id).inputs).toMatchObject({ helpfulness: "best-helpfulness-4", safety: "best-safety-4" })
  })

  it("collects pairs of the two latest models, on new dialogues and on those before, a turn longer", () => {
    expect(node(whole, "pairs-safety-1").inputs).toMatchObject({ first: "sft", second: "sft-bootstrap" })
    expect(node(whole, "pairs-safety-3").inputs).toMatchObject({ first: "rlhf-v2", second: "rlhf-v1" })
    expect(node(whole, "questions-safety-1").inputs.datasets).toHaveLength(1)
    expect(node(whole, "questions-safety-3").inputs.datasets).toHaveLength(2)
    expect(has(whole, "questions-safety-3", "train-safety-2")).toBe(true)
  })

  it("chooses the best of all reward models so far, on the held-out pairs of all rounds so far", () => {
    const { candidates, scores } = node(whole, "best-safety-3").inputs
    expect(candidates).toEqual(["safety-reward-1", "safety-reward-2", "safety-reward-3"])
    expect(scores).toHaveLength(3)
    expect(node(whole, "safety-reward-1-accuracy-3").inputs.scores).toEqual([1, 2, 3].map((batch) => `safety-reward-1-on-${batch}`))
    // No reward model sees what it is judged on; held-out dialogues do not grow into later batches either.
    const readers = [...whole.nodes.values()].filter((one) => dependencies(one).includes("test-safety-1")).map(({ id }) => id)
    expect(readers.filter((id) => !/^safety-reward-\d-on-1$/.test(id))).toEqual(["mix-preferences", "evaluate-classifier"])
    const judges = [...whole.nodes.values()].filter((one) => dependencies(one).includes("preferences-safety-1")).map(({ id }) => id)
    expect(judges).toEqual(["train-safety-1", "test-safety-1"])
    expect(node(whole, "safety-mixture-5").inputs.harmless).toEqual(["anthropic-harmless"])
    expect(node(whole, "helpfulness-mixture-5").inputs.openSource).toHaveLength(7)
  })

  it("adds Ghost Attention and context distillation after the third version, by that version", () => {
    expect(has(whole, "data-3", "ghost-data")).toBe(false)
    for (const data of ["data-4", "data-5"]) for (const id of ["ghost-data", "distilled"]) expect(has(whole, data, id)).toBe(true)
    expect(node(whole, "ghost-sample").inputs.policy).toBe("rlhf-v3")
    expect(node(whole, "distillation-category").inputs.policy).toBe("rlhf-v3")
    expect(node(whole, "distilled").inputs.prefixed).toHaveLength(2)
  })

  it("runs PPO once, on top of the fifth version", () => {
    expect(ofStage(whole, "ppo").map(({ id }) => id)).toEqual(["rlhf-v5"])
    expect(node(whole, "rlhf-v5").inputs).toMatchObject({
      policy: "rlhf-v5-rs",
      helpfulness: "best-helpfulness-5",
      safety: "best-safety-5"
    })
  })

  it("judges every version on the same prompts, by the last reward models, the general one and the classifier", () => {
    for (const version of ["sft", ...versions, "rlhf-v5"]) {
      expect(node(whole, `answers-${version}`).inputs).toEqual({ policy: version, prompts: "held-out" })
      for (const of of ["judged", "general", "classified"])
        expect(node(whole, `${of}-${version}`).inputs.completions).toBe(`answers-${version}`)
    }
    expect(has(whole, "rlhf-v5", "general-reward")).toBe(false)
  })
})

describe("hyperparameters", () => {
  // §3.2.2 and §3.2.3.
  it.each([
    ["7b", 1e-5, 0.01],
    ["13b", 1e-5, 0.01],
    ["34b", 1e-5, 0.005],
    ["70b", 5e-6, 0.005]
  ])("of %s are the paper's", async (model, rewardLearningRate, beta) => {
    const graph = await graphOf({ model })
    for (const kind of ["helpfulness", "safety"])
      expect(node(graph, `${kind}-reward-3`).config).toMatchObject({
        ...{ learningRate: rewardLearningRate, finalLearningRate: 0.1, warmupFraction: 0.03, warmupMinimum: 5 },
        ...{ epochs: 1, batchPairs: 512 }
      })
    expect(node(graph, "rlhf-v5").config).toMatchObject({
      ...{ beta, learningRate: 1e-6, batchSize: 512, miniBatchSize: 64, epochs: 1, clip: 0.2, iterations: 400, threshold: 0.15 },
      ...{ weightDecay: 0.1, maxNorm: 1, whitenRewards: true, klControl: "fixed", valueInit: "reward" }
    })
    for (const id of ["sft", "rlhf-v2"])
      expect(node(graph, id).config).toMatchObject({ learningRate: 2e-5, weightDecay: 0.1, batchSize: 64, sequenceLength: 4096, epochs: 2 })
  })

  it("of a local checkpoint are those of the size it is said to be like", async () => {
    const graph = await graphOf({ model: "some/model", like: "70b" })
    expect(graph.nodes.get("file:model")).toMatchObject({ kind: "file", path: `${process.cwd()}/some/model`, expected: undefined })
    expect(node(graph, "helpfulness-reward-1").config.learningRate).toBe(5e-6)
  })

  it("of annotation by people: labels are wired once they are said to be there", async () => {
    const graph = await graphOf({ labelled: 2, data: "in" })
    expect(node(graph, "preferences-safety-2").inputs.labels).toBe("file:labels-safety-2.jsonl")
    expect(node(graph, "preferences-safety-3").inputs.labels).toBeNull()
    expect(node(graph, "preferences-safety-3").config).toMatchObject({
      annotator: "file",
      kind: "safety",
      pairsFile: "in/to-label-safety-3.jsonl"
    })
  })
})

describe("with a larger sampler", () => {
  it("a model is tuned from its own base on the larger one's samples, and only that one goes through the rounds", async () => {
    const graph = await graphOf({ model: "7b", sampler: "70b" })
    const base = node(graph, "rlhf-v3").inputs.init as string
    expect(node(graph, base).inputs.folder).toBe("file:llama-2-7b")
    expect(node(graph, "rlhf-v3").inputs.demonstrations).toBe("sampler-data-3")
    expect(node(graph, "sampler-samples-4").inputs.policy).toBe("sampler-rlhf-v3")
    expect(ofStage(graph, "sample-at-temperature").every(({ id }) => id.startsWith("sampler-"))).toBe(true)
    expect(node(graph, "sampler-helpfulness-reward-1").config.learningRate).toBe(5e-6)
    expect(ofStage(graph, "ppo")).toHaveLength(1)
    expect(node(graph, "rlhf-v5")).toMatchObject({ config: { beta: 0.01, valueInit: "policy" }, inputs: { policy: "rlhf-v5-rs" } })
  })
})

it("goes without open-source data, with any number of rounds, and against any opponent", async () => {
  const graph = await graphOf({ openSource: false, rounds: 1, opponent: "other" })
  expect(graph.nodes.has("general-reward")).toBe(false)
  expect(node(graph, "rlhf-v1").stage.name).toBe("ppo")
  expect(node(graph, "wins-opponent-over-sft").inputs.opponent).toBe("judged-sft")
})
