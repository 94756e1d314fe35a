/** The recipe on the small world as a graph: the parts of the demo and the study, and what each omitted part removes with it. Nothing runs. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import demo from "../../pipelines/demo.ts"
import study from "../../pipelines/study.ts"
import { ancestors, buildGraph, type Graph, type StageNode } from "../../runtime/define/graph.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"

const graphOf = (pipeline: AnyPipeline, params: Record<string, unknown> = {}): Promise<Graph> =>
  Effect.runPromise(buildGraph(pipeline, params, { seed: 0 }))
const node = (graph: Graph, id: string) => graph.nodes.get(id) as StageNode
const stages = (graph: Graph) => new Set([...graph.nodes.values()].flatMap((one) => (one.kind === "stage" ? [one.stage.name] : [])))

const [short, full] = [await graphOf(demo), await graphOf(study, { temperatures: "swept", evaluation: "full" })]

describe("the demo", () => {
  it("ends with a page that has the summary, the sweep, PPO, distillation, the statistics and wins of the pairs, the attention map and the calibration", () => {
    const given = Object.entries(node(short, "report").inputs).filter(([, input]) => input !== null)
    expect(given.map(([name]) => name).sort()).toEqual([
      ...["attention", "calibration", "distillation", "ppo", "roundWins", "statistics", "summary", "sweep", "versions"]
    ])
    const more = Object.entries(node(full, "report").inputs).filter(
      ([name, input]) => input !== null && node(short, "report").inputs[name] === null
    )
    expect(more.map(([name]) => name).sort()).toEqual(["curriculum", "diversity", "guard", "redTeam"])
  })
  it("counts the pairs of every round next to what annotators saw, without held-out ones", () => {
    const { helpfulness, safety, helpfulnessPairs, safetyPairs } = node(short, "preference-statistics").inputs
    const rounds = [1, 2, 3, 4, 5]
    expect([helpfulness, safety]).toEqual(["helpfulness", "safety"].map((kind) => rounds.map((round) => `preferences-${kind}-${round}`)))
    expect([helpfulnessPairs, safetyPairs]).toEqual(
      ["helpfulness", "safety"].map((kind) => rounds.map((round) => `pairs-${kind}-${round}`))
    )
  })
  it("trains no model only for evaluation", () => {
    for (const name of ["general-reward-model", "safety-classifier", "self-bleu", "sample-at-temperature", "continue-dialogues"])
      expect(stages(short).has(name)).toBe(false)
  })
  it("has every version, both reward models and every report as an output", () => {
    const versions = ["base", "sft", ...[1, 2, 3, 4].map((n) => `rlhf-v${n}`), "rlhf-v5-rs", "rlhf-v5"]
    expect(Object.keys(short.outputs)).toEqual([
      ...[...versions, "policy", "helpfulness", "safety"],
      ...["statistics", "roundWins", "calibration", "attention", "ppo", "distillation", "summary", "report"]
    ])
    for (const name of versions) expect(short.outputs[name]).toBe(name)
  })
  it("judges every answer, and also how the last version keeps an instruction without Ghost Attention", async () => {
    const names = ["base", "sft", ...[1, 2, 3, 4].map((n) => `rlhf-v${n}`), "rlhf-v5-rs", "rlhf-v5"]
    const { versions, versionScores, withGhostAttention, withoutGhostAttention } = node(short, "world-summary").inputs
    expect([versions, versionScores]).toEqual([names.map((name) => `answers-${name}`), names.map((name) => `judged-${name}`)])
    expect([withGhostAttention, withoutGhostAttention]).toEqual(["ghost-attention-after", "ghost-attention-before"])
    const without = await graphOf(demo, { without: "ghost-attention" })
    expect(node(without, "world-summary").inputs).toMatchObject({
      withGhostAttention: null,
      withoutGhostAttention: "ghost-attention-left-out"
    })
    expect(node(without, "ghost-attention-left-out").inputs).toMatchObject({ policy: "rlhf-v5" })
  })
  it("compares scores with ratings only for models whose answers are in no pairs, and maps attention before and after Ghost Attention (figures 10, 29)", () => {
    const outside = ["rlhf-v5-rs", "rlhf-v5", "sft-as-many-steps", "random-of-k"]
    expect(node(short, "calibration").inputs).toMatchObject({
      scored: outside.map((name) => `judged-${name}`),
      ratings: outside.map((name) => `ratings-${name}`)
    })
    expect(node(short, "attention").inputs).toEqual({ without: "rlhf-v3", with: "rlhf-v5", samples: "attention-samples" })
    expect(node(short, "attention-dialogues").inputs).toMatchObject({ prompts: "attention-dialogues-prompts" })
    expect(node(short, "attention-dialogues-prompts").config).toMatchObject({ split: "heldOut", count: 8 })
  })
  it("leaves out the given parts", async () => {
    expect(stages(await graphOf(demo, { without: "ppo" })).has("ppo")).toBe(false)
    expect(stages(await graphOf(demo, { without: "ghost-attention" })).has("ghost-training-data")).toBe(false)
    expect(stages(await graphOf(demo, { without: "distillation" })).has("distil")).toBe(false)
    expect(node(await graphOf(demo, { without: "safety-model" }), "rlhf-v5").inputs.safety).toBeNull()
    expect(node(await graphOf(demo, { without: "prior-versions" }), "selected-3").inputs.scored).toEqual(["scores-3"])
    expect(node(await graphOf(demo, { without: "margin" }), "helpfulness-reward-1").config).toMatchObject({ margin: "none" })
    expect(node(short, "helpfulness-reward-1").config).toMatchObject({ margin: "small" })
    expect(node(short, "selected-3").inputs.scored).toEqual(["scores-3-of-1", "scores-3-of-2", "scores-3"])
  })
})

describe("PPO from an earlier round on", () => {
  const isPpo = (graph: Graph) =>
    [...graph.nodes.values()].filter((one) => one.kind === "stage" && one.stage.name === "ppo").map(({ id }) => id)
  const drawnBy = (graph: Graph, id: string) => node(graph, id).inputs
  it("comes only after the last round by default, however many rounds there are", async () => {
    expect(isPpo(short)).toEqual(["rlhf-v5"])
    expect(isPpo(await graphOf(demo, { rounds: 2 }))).toEqual(["rlhf-v2"])
    expect(isPpo(await graphOf(demo, { without: "ppo", ppoFrom: 2 }))).toEqual([])
  })
  it("makes versions that the next round samples from, collects pairs with and starts its reward models from", async () => {
    const graph = await graphOf(demo, { ppoFrom: 4 })
    expect(isPpo(graph).sort()).toEqual(["rlhf-v4", "rlhf-v5"])
    expect(drawnBy(graph, "rlhf-v4")).toMatchObject({ policy: "rlhf-v4-rs", helpfulness: "best-helpfulness-4", safety: "best-safety-4" })
    expect(drawnBy(graph, "samples-5").policy).toBe("rlhf-v4")
    expect(drawnBy(graph, "pairs-safety-5")).toMatchObject({ first: "rlhf-v4", second: "rlhf-v3" })
    expect(drawnBy(graph, "helpfulness-reward-5").init).toBe("rlhf-v4")
    expect(drawnBy(graph, "rlhf-v5-rs").init).toBe("base")
    expect(Object.keys(graph.outputs)).toContain("rlhf-v4-rs")
    expect(drawnBy(graph, "report").versions).toHaveLength(9)
  })
  it("may make versions that are only used for samples: pairs and reward models use the version before PPO", async () => {
    const graph = await graphOf(demo, { ppoFrom: 4, ppoUse: "samples" })
    expect(drawnBy(graph, "samples-5").policy).toBe("rlhf-v4")
    expect(drawnBy(graph, "pairs-safety-5")).toMatchObject({ first: "rlhf-v4-rs", second: "rlhf-v3" })
    expect(drawnBy(graph, "helpfulness-reward-5").init).toBe("rlhf-v4-rs")
  })
})

describe("the study", () => {
  it("uses bfloat16 everywhere, log-probabilities that are recomputed in PPO, and a head size that the GPU's decoder supports", () => {
    const configs = [...full.nodes.keys()].map((id) => node(full, id).config)
    expect(new Set(configs.map((config) => config["precision"]).filter((one) => one !== undefined))).toEqual(new Set(["bfloat16"]))
    expect(node(full, "rlhf-v5").config).toMatchObject({ oldLogProbabilities: "recomputed" })
    const { dim, heads } = node(full, "base").config as { readonly dim: number; readonly heads: number }
    expect(dim / heads).toBe(64) // decodesOnGpu in models/gpu-decoder.ts: 16, 32, 64, 128 or 256
  })
  it("samples at the temperature that was best for the current version, using prompts and reward models of the previous round", () => {
    expect(node(full, "samples-1").stage.name).toBe("sample")
    expect(node(full, "samples-3").inputs).toMatchObject({ policy: "rlhf-v2", sweep: "sweep-2" })
    expect(node(full, "sweep-2-samples-1.3").inputs).toMatchObject({ policy: "rlhf-v2", prompts: "sweep-prompts-2" })
    expect(node(full, "sweep-2-scores-1.3").inputs).toMatchObject({ helpfulness: "best-helpfulness-2", safety: "best-safety-2" })
    expect(node(full, "sweep-prompts-2-helpfulness").config).toMatchObject({ split: "train" })
    expect(node(full, "sweep-prompts-helpfulness").config).toMatchObject({ split: "heldOut" })
  })
  it("counts how often each round's newest model was chosen, from the pairs of the round (§3.4.1)", () => {
    const wins = node(full, "round-wins")
    expect(wins.inputs).toMatchObject({
      newer: [...Array(2)].flatMap(() => ["sft", "rlhf-v1", "rlhf-v2", "rlhf-v3", "rlhf-v4"]),
      pairs: ["helpfulness", "safety"].flatMap((kind) => [1, 2, 3, 4, 5].map((round) => `pairs-${kind}-${round}`)),
      preferences: ["helpfulness", "safety"].flatMap((kind) => [1, 2, 3, 4, 5].map((round) => `preferences-${kind}-${round}`))
    })
    expect((wins.config["names"] as ReadonlyArray<string>).slice(0, 2)).toEqual([
      "sft over sft-bootstrap, helpfulness",
      "rlhf-v1 over sft, helpfulness"
    ])
    expect(node(full, full.outputs["summary"]!).inputs["roundWins"]).toBe("round-wins")
  })
  it("also collects helpfulness pairs on dialogues of the previous round, continued after the chosen response", () => {
    expect(node(full, "pairs-helpfulness-1").inputs.prompts).toBe("batch-helpfulness-1")
    expect(node(full, "pairs-helpfulness-3").inputs.prompts).toBe("prompts-3")
    expect(node(full, "prompts-3").inputs.datasets).toEqual(["batch-helpfulness-3", "dialogues-3"])
    expect(node(full, "dialogues-3").inputs).toEqual({ prompts: "prompts-2", preferences: "preferences-helpfulness-2" })
    expect(node(full, "pairs-safety-3").inputs.prompts).toBe("batch-safety-3")
  })
  it("answers each round's helpfulness prompts with SFT, and scores the answers with one reward model (figure 26)", () => {
    const rounds = [1, 2, 3, 4, 5]
    expect(node(full, "curriculum").inputs["scored"]).toEqual(rounds.map((round) => `curriculum-scores-${round}`))
    expect(node(full, "curriculum-prompts-3").inputs).toEqual({ datasets: ["prompts-3"] })
    for (const round of rounds) {
      expect(node(full, `curriculum-answers-${round}`).inputs["policy"]).toBe("sft")
      expect(node(full, `curriculum-scores-${round}`).inputs["reward"]).toBe("best-helpfulness-5")
    }
  })
  it("guards against reward hacking with a model that saw no pair used for tuning", () => {
    const above = ancestors(full, ["general-reward"])
    for (const id of ["sft", "rlhf-v1", "preferences-helpfulness-1", "preferences-safety-1"]) expect(above.has(id)).toBe(false)
    expect(node(full, "guard").inputs.scored).toHaveLength(8)
    expect(node(full, "guard").inputs.general).toHaveLength(8)
  })
  it("attacks each version with new prompts and with all that broke the versions before (§4.3)", () => {
    const names = ["sft", ...[1, 2, 3, 4].map((n) => `rlhf-v${n}`), "rlhf-v5-rs", "rlhf-v5"]
    expect(node(full, "red-teaming")).toMatchObject({
      config: { names },
      inputs: {
        attacks: names.map((name) => `attacks-${name}-judged`),
        retried: names.slice(1).map((name) => `retried-${name}-judged`)
      }
    })
    for (const [i, name] of names.entries()) {
      expect(node(full, `attacks-${name}`)).toMatchObject({ inputs: { policy: name, prompts: `red-team-${name}` }, config: { k: 4 } })
      expect(node(full, `red-team-${name}`)).toMatchObject({
        inputs: { prompts: "red-team-adversarial" },
        config: { batch: i, batches: names.length }
      })
      if (i === 0) continue
      expect(node(full, `retried-${name}`).inputs).toEqual({ policy: name, prompts: `red-team-kept-${name}` })
      expect(node(full, `red-team-kept-${name}`).inputs).toEqual({
        prompts: names.slice(0, i).map((before) => `red-team-${before}`),
        classified: names.slice(0, i).map((before) => `attacks-${before}-judged`)
      })
    }
    // Nothing is trained on them, and no model saw their words.
    expect(node(full, "red-team-adversarial").config).toMatchObject({ kind: "adversarial", split: "heldOut" })
    expect(ancestors(full, names).has("red-team-adversarial")).toBe(false)
  })
  it("lets each version answer three questions to refuse, one after the other, each after its own answers (figure 18)", () => {
    for (const name of ["base", "rlhf-v5"]) {
      expect(node(full, `turn-1-${name}`).inputs).toEqual({ policy: name, prompts: "multi-turn-adversarial" })
      for (const turn of [2, 3]) {
        expect(node(full, `turn-${turn}-${name}`).inputs).toEqual({ policy: name, prompts: `dialogues-${turn}-${name}` })
        const before = turn === 2 ? "multi-turn-adversarial" : `dialogues-2-${name}`
        expect(node(full, `dialogues-${turn}-${name}`).inputs).toEqual({ prompts: before, completions: `turn-${turn - 1}-${name}` })
      }
      expect(full.outputs[`turns-${name}`]).toBe(`turn-3-${name}`)
    }
    expect(node(full, "multi-turn-adversarial").config).toMatchObject({ kind: "adversarial", followUps: 2, split: "heldOut" })
  })
  it("measures how alike the answers of every version are, at each temperature, by type of prompt (figure 21)", () => {
    const { config, inputs } = node(full, "diversity")
    const names = (config["names"] as ReadonlyArray<string>).filter((name) => name.startsWith("rlhf-v2"))
    expect(names).toEqual([0.5, 1, 1.5].map((temperature) => `rlhf-v2 at ${temperature}`))
    expect(inputs["completions"]).toHaveLength(8 * 3)
    for (const id of inputs["completions"] as ReadonlyArray<string>) expect(node(full, id).inputs["prompts"]).toBe(inputs["prompts"])
    expect(config["types"]).toMatchObject([{ name: "creative", categories: ["list"] }, { name: "factual" }])
  })
  it("trains the safety classifier on nothing that it is judged on", () => {
    expect(node(full, "classifier-data").inputs).toMatchObject({
      prompts: ["prompts-for-pairs-safety", "prompts-for-pairs-helpfulness"],
      preferences: [1, 2, 3, 4, 5].map((round) => `preferences-safety-${round}`)
    })
    expect(node(full, "classifier-evaluation").inputs).toMatchObject({
      prompts: ["test-prompts-safety", "test-prompts-helpfulness"],
      preferences: [1, 2, 3, 4, 5].map((round) => `preferences-test-safety-${round}`)
    })
    expect(node(full, "classified-rlhf-v5").inputs.completions).toBe("answers-rlhf-v5")
  })
})
