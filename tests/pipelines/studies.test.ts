/** The studies as graphs with their defaults: the arms that each header promises, equal in everything except what is studied. Nothing runs. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import factualSources from "../../pipelines/studies/factual-sources.ts"
import fromSft from "../../pipelines/studies/from-sft.ts"
import ghostAttention from "../../pipelines/studies/ghost-attention.ts"
import margins from "../../pipelines/studies/margins.ts"
import policyOptimisation from "../../pipelines/studies/policy-optimisation.ts"
import openPreferences from "../../pipelines/studies/open-preferences.ts"
import ppoFrom from "../../pipelines/studies/ppo-from.ts"
import rewardScaling from "../../pipelines/studies/reward-scaling.ts"
import safetyScaling from "../../pipelines/studies/safety-scaling.ts"
import sftAnnotations from "../../pipelines/studies/sft-annotations.ts"
import { ancestors, buildGraph, type Graph, type StageNode } from "../../runtime/define/graph.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"

const graphOf = (pipeline: AnyPipeline, params: Record<string, unknown> = {}): Promise<Graph> =>
  Effect.runPromise(buildGraph(pipeline, params, { seed: 0 }))
const node = (graph: Graph, id: string) => graph.nodes.get(id) as StageNode
const outputs = (graph: Graph) => Object.keys(graph.outputs)
const inputOf = (graph: Graph, id: string, port: string): string => {
  const input = node(graph, id).inputs[port]
  return (Array.isArray(input) ? (input as ReadonlyArray<string>)[0] : input) as string
}
/** The reward model and the held-out pairs of an accuracy. */
const judged = (graph: Graph, output: string) => {
  const scores = node(graph, inputOf(graph, graph.outputs[output]!, "scores"))
  return { reward: node(graph, scores.inputs["reward"] as string), pairs: scores.inputs["pairs"] }
}

describe("the study of margins", async () => {
  const graph = await graphOf(margins)
  it("trains one reward model with each margin, on the same pairs from the same model, and judges all on the same held-out pairs", () => {
    expect(outputs(graph)).toEqual(["none", "small", "large"])
    for (const margin of outputs(graph)) {
      const { pairs, reward } = judged(graph, margin)
      expect(reward.config["margin"]).toBe(margin)
      expect(reward.inputs).toEqual({ init: "sft", pairs: "helpfulness-train" })
      expect(pairs).toBe("helpfulness-test")
    }
  })
})

describe("the study of factual sources", async () => {
  const graph = await graphOf(factualSources)
  const shares = [1, 3, 10, 20, 40]
  it("pretrains a model for each share and seed on the same number of texts, from one reference work and the same dialogues per seed", () => {
    expect(outputs(graph)).toEqual([1, 2, 3].flatMap((seed) => shares.map((share) => `${share}%-${seed}`)))
    for (const seed of [1, 2, 3])
      for (const share of shares) {
        const name = `${share}%-${seed}`
        expect(node(graph, `recall-${name}`).inputs).toEqual({
          policy: `base-${name}`,
          questions: `questions-${seed}`,
          texts: `held-out-${seed}`
        })
        expect(node(graph, `base-${name}`)).toMatchObject({ seed, inputs: { tokenizer: `tokenizer-${seed}`, texts: `texts-${name}` } })
        expect(node(graph, `texts-${name}`)).toMatchObject({
          seed,
          inputs: { sources: [`dialogues-${seed}`, `reference-${seed}`] },
          config: { names: ["dialogues", "reference"], shares: [1 - share / 100, share / 100], rows: 6000 }
        })
      }
  })
  it("asks for the facts that the reference work of the same seed states, and measures the loss on other dialogues", () => {
    for (const seed of [1, 2, 3]) {
      expect(["reference", "questions", "dialogues", "held-out"].map((name) => node(graph, `${name}-${seed}`).seed)).toEqual([
        seed,
        seed,
        seed,
        1000 + seed
      ])
      expect(node(graph, `questions-${seed}`).config["facts"]).toBe(node(graph, `reference-${seed}`).config["facts"])
    }
  })
})

describe("the study of SFT annotations", async () => {
  const graph = await graphOf(sftAnnotations)
  const counts = [25, 50, 100, 200, 400]
  it("tunes the base model on increasing subsets of the same demonstrations, and judges with oracle and reward models", () => {
    expect(outputs(graph)).toEqual([...counts.map((count) => `sft-${count}`), "gain"])
    for (const count of counts) {
      expect(node(graph, `sft-${count}`).inputs).toEqual({ init: "base", demonstrations: `demonstrations-${count}` })
      expect(node(graph, `demonstrations-${count}`)).toMatchObject({ config: { count }, inputs: { demonstrations: "demonstrations" } })
      expect(node(graph, `answers-sft-${count}`).inputs).toEqual({ policy: `sft-${count}`, prompts: "held-out" })
      expect(node(graph, graph.outputs[`sft-${count}`]!).inputs).toEqual({ graded: `grades-sft-${count}`, scored: `scores-sft-${count}` })
    }
    expect(node(graph, "demonstrations").config["count"]).toBe(400)
    expect(node(graph, graph.outputs["gain"]!).config).toMatchObject({ version: "sft-400" })
  })
  it("makes as many demonstrations as the largest count needs", async () => {
    expect(node(await graphOf(sftAnnotations, { counts: [10, 900] }), "demonstrations").config["count"]).toBe(900)
  })
})

describe("the study of safety data", async () => {
  const graph = await graphOf(safetyScaling)
  it("tunes the base model on all helpfulness answers and 0, 1, 10, 25, 50 and 100% of the safety answers, each the best of K", () => {
    const shares = [0, 1, 10, 25, 50, 100]
    expect(outputs(graph)).toEqual([...shares.map((share) => `safety-${share}%`), "gain"])
    for (const share of shares) {
      const name = `safety-${share}%`
      expect(node(graph, name).inputs).toEqual({ init: "base", demonstrations: `data-${name}` })
      expect(node(graph, `data-${name}`).inputs["datasets"]).toEqual(["best-helpfulness", "best-adversarial"])
      expect(node(graph, `data-${name}`).config["weights"]).toEqual([1, share / 100])
      expect(node(graph, graph.outputs[name]!).inputs).toEqual({ graded: `grades-${name}`, scored: `scores-${name}` })
    }
    for (const [kind, count] of [
      ["helpfulness", 900],
      ["adversarial", 100]
    ] as const) {
      expect(node(graph, `samples-${kind}`)).toMatchObject({ config: { k: 6 }, inputs: { policy: "sft", prompts: `prompts-${kind}` } })
      expect(node(graph, `prompts-${kind}`).config).toMatchObject({ kind, count, split: "train" })
    }
  })
})

describe("the study of reward-model size", async () => {
  const graph = await graphOf(rewardScaling)
  it("trains a reward model of each width on each share of the same pairs, from a chat model of its width", () => {
    const shares = [12.5, 25, 50, 100]
    const arms = [48, 96, 192].flatMap((width) => shares.map((share) => ({ width, share, name: `${width}-${share}%` })))
    expect(outputs(graph)).toEqual(arms.map(({ name }) => name))
    for (const { name, share, width } of arms) {
      const { pairs, reward } = judged(graph, name)
      expect(reward.inputs).toEqual({ init: `sft-${width}`, pairs: `pairs-${share}%` })
      expect(pairs).toBe("helpfulness-test")
      expect(node(graph, `pairs-${share}%`)).toMatchObject({
        config: { weights: [share / 100] },
        inputs: { datasets: ["helpfulness-train"] }
      })
      expect(node(graph, `sft-${width}`).inputs).toEqual({ init: `base-${width}`, demonstrations: "demonstrations" })
      expect(node(graph, `base-${width}`).config["dim"]).toBe(width)
    }
  })
})

describe("the study of open-source preferences", async () => {
  const graph = await graphOf(openPreferences)
  it("trains reward models on our pairs, on open-source pairs and on both, each judged on held-out pairs of both kinds", () => {
    const trained = { own: "helpfulness-train", open: "open-train", both: "both" }
    expect(outputs(graph)).toEqual(Object.keys(trained).flatMap((name) => [`${name}-on-own`, `${name}-on-open`]))
    for (const [name, pairs] of Object.entries(trained)) {
      for (const [where, test] of [
        ["own", "helpfulness-test"],
        ["open", "open-test"]
      ] as const) {
        const found = judged(graph, `${name}-on-${where}`)
        expect(found.reward.inputs).toEqual({ init: "sft", pairs })
        expect(found.pairs).toBe(test)
      }
    }
    expect(node(graph, "both").inputs).toMatchObject({ helpfulness: ["helpfulness-train"], openSource: ["open-train"] })
  })
  it("uses pairs from models other than ours as open-source pairs, on separate prompts, held out like ours", () => {
    for (const [part, split] of [
      ["train", "train"],
      ["test", "heldOut"]
    ] as const) {
      expect(node(graph, `open-${part}`).inputs["pairs"]).toBe(`open-${part}-pairs`)
      expect(node(graph, `open-${part}-pairs`).inputs).toMatchObject({ first: "sft-bootstrap", second: "base" })
      const prompts = node(graph, inputOf(graph, `open-${part}-pairs`, "prompts"))
      expect(prompts.config["split"]).toBe(split)
      expect(prompts.seed).not.toBe(node(graph, inputOf(graph, `helpfulness-${part}-pairs`, "prompts")).seed)
    }
  })
  it("uses the user's pairs instead, with a tenth of the dialogues held out", async () => {
    const own = await graphOf(openPreferences, { openFile: "open.jsonl" })
    expect(node(own, "open").inputs).toEqual({ file: "file:open.jsonl" })
    expect(["open-train", "open-test"].map((id) => node(own, id).config["part"])).toEqual(["outside", "inside"])
  })
})

describe("common parts of the studies", async () => {
  const graph = await graphOf(safetyScaling)
  it("have pairs of two different checkpoints, at two temperatures", () => {
    const pairs = [...graph.nodes.values()].filter((one): one is StageNode => one.kind === "stage" && one.stage.name === "collect-pairs")
    expect(pairs).toHaveLength(2)
    for (const { config, inputs } of pairs) {
      expect(inputs).toMatchObject({ first: "sft", second: "sft-bootstrap" })
      expect(config["temperatureFirst"]).not.toBe(config["temperatureSecond"])
    }
    expect(node(graph, "public-dialogues").config["quality"]).toBe("public")
    expect(ancestors(graph, ["sft-bootstrap"]).has("demonstrations")).toBe(false)
  })
  it("are judged on prompts that no model saw", () => {
    for (const kind of ["helpfulness", "safety"]) expect(node(graph, `held-out-${kind}`).config["split"]).toBe("heldOut")
  })
  it("can use the user's model and pairs instead of the world's", async () => {
    const own = await graphOf(margins, { model: "some/model", pairsFile: "pairs.jsonl" })
    expect(node(own, "base").stage.name).toBe("import-policy")
    expect(judged(own, "large").reward.inputs).toEqual({ init: "sft", pairs: "train" })
    expect(node(own, "pairs").inputs).toEqual({ file: "file:pairs.jsonl" })
    expect([...own.nodes.values()].some((one) => one.kind === "stage" && one.stage.name === "pretrain")).toBe(false)
  })
})

describe("the study from SFT", async () => {
  const graph = await graphOf(fromSft)
  const methods = ["dpo-0.1", "rloo-0.1"]
  it("tries the same number of settings for each method", () => {
    const last = outputs(graph).filter((name) => name.startsWith("tuning-"))
    for (const method of ["recipe", "dpo", "rloo"]) expect(last.filter((name) => name.startsWith(`tuning-${method}-`)).length).toBe(2)
  })
  it("starts from SFT and collects as many labels on the same prompts in each round as the recipe does", () => {
    for (const method of methods)
      for (let round = 1; round <= 5; round++)
        for (const kind of ["helpfulness", "safety"]) {
          const before = [`sft-bootstrap`, "sft", ...[1, 2, 3, 4].map((one) => `${method}-v${one}`)]
          expect(node(graph, `${method}-pairs-${kind}-${round}`).inputs).toMatchObject({ first: before[round], second: before[round - 1] })
          const [ours, theirs] = [`${method}-batch-${kind}-${round}`, `batch-${kind}-${round}`].map((id) => node(graph, id))
          expect({ config: ours!.config, inputs: ours!.inputs }).toEqual({ config: theirs!.config, inputs: theirs!.inputs })
          expect(node(graph, `${method}-preferences-${kind}-${round}`).config).toEqual(node(graph, `preferences-${kind}-${round}`).config)
          expect(inputOf(graph, `${method}-pairs-${kind}-${round}`, "prompts")).toBe(
            `${method}-${inputOf(graph, `pairs-${kind}-${round}`, "prompts")}`
          )
        }
    // The same share of the dialogues continues, each method's own ones.
    for (const prefix of ["", "dpo-0.1-", "rloo-0.1-"]) {
      expect(node(graph, `${prefix}prompts-2`)).toMatchObject({
        config: { weights: [1, 0.25] },
        inputs: { datasets: [`${prefix}batch-helpfulness-2`, `${prefix}dialogues-2`] }
      })
      expect(node(graph, `${prefix}dialogues-2`).inputs["preferences"]).toBe(`${prefix}preferences-helpfulness-1`)
    }
    expect(node(graph, "dpo-0.1-v1").inputs).toMatchObject({ policy: "sft", pairs: "dpo-0.1-v1-data" })
    expect(node(graph, "rloo-0.1-v3").inputs).toMatchObject({
      ...{ policy: "rloo-0.1-v2", prompts: "pool" },
      ...{ helpfulness: "rloo-0.1-v3-best-helpfulness", safety: "rloo-0.1-v3-best-safety" }
    })
  })
  it("keeps the best policy on the same held-out prompts in PPO and RLOO", () => {
    const [recipe, rloo] = ["recipe-0.1-v5", "rloo-0.1-v5"].map((id) => node(graph, id))
    expect(recipe!.inputs["heldOut"]).toBe("ppo-held-out")
    expect(rloo!.inputs["heldOut"]).toBe("ppo-held-out")
    for (const field of ["evaluateEvery", "patience", "iterations", "batchSize", "miniBatchSize", "learningRate"])
      expect([field, rloo!.config[field]]).toEqual([field, recipe!.config[field]])
  })
  it("optimises SFT against the reward models of the evaluation for a range of betas, to the last iteration", () => {
    const arms = outputs(graph).filter((name) => name.startsWith("fixed-"))
    expect(arms.map((name) => node(graph, name).config["beta"])).toEqual([0.01, 0.05, 0.3, 2])
    for (const arm of arms)
      expect(node(graph, arm).inputs).toMatchObject({
        ...{ policy: "sft", helpfulness: "best-helpfulness-5", safety: "best-safety-5", prompts: "pool", heldOut: null }
      })
  })
  it("evaluates every model with the reward models of the recipe's last round and by its KL to SFT", () => {
    for (const name of ["sft", "rlhf-v1", "rlhf-v5-rs", "recipe-0.1-v5", "dpo-0.1-v2", "rloo-0.3-v5", "fixed-2"]) {
      expect(node(graph, `rewards-${name}`).inputs).toMatchObject({ helpfulness: "best-helpfulness-5", safety: "best-safety-5" })
      expect(node(graph, `kl-${name}`).inputs).toMatchObject({ reference: "sft" })
      expect(node(graph, `judged-answers-${name}`).inputs).toEqual({ policy: name, prompts: "judging" })
    }
  })
  it("runs PPO from one version at each beta", () => {
    for (const beta of [0.1, 0.3])
      expect(node(graph, `recipe-${beta}-v5`)).toMatchObject({ config: { beta }, inputs: { policy: "rlhf-v5-rs" } })
  })
})

describe("the study of the round from which PPO runs", async () => {
  const last = await graphOf(ppoFrom)
  const both = await graphOf(ppoFrom, { ppoFrom: 4, ppoIterations: 30 })
  const samples = await graphOf(ppoFrom, { ppoFrom: 4, ppoIterations: 30, ppoUse: "samples" })
  it("runs the same total number of PPO iterations", () => {
    const iterations = (graph: Graph) =>
      [...graph.nodes.keys()].filter((id) => node(graph, id).stage?.name === "ppo").map((id) => node(graph, id).config["iterations"])
    expect(iterations(last)).toEqual([60])
    expect(iterations(both)).toEqual([30, 30])
    expect(iterations(samples)).toEqual([30, 30])
  })
  it("shares the first three rounds", () => {
    const early = (graph: Graph) =>
      [...ancestors(graph, [graph.nodes.has("rlhf-v4-rs") ? "rlhf-v4-rs" : "rlhf-v4"])].filter((id) => !id.startsWith("rlhf-v4")).toSorted()
    expect(early(both)).toEqual(early(last))
    expect(early(samples)).toEqual(early(last))
  })
  it("uses the version after PPO for samples and pairs, or for samples only", () => {
    expect(node(both, "samples-5").inputs.policy).toBe("rlhf-v4")
    expect(node(samples, "samples-5").inputs.policy).toBe("rlhf-v4")
    expect(node(both, "pairs-helpfulness-5").inputs.first).toBe("rlhf-v4")
    expect(node(samples, "pairs-helpfulness-5").inputs.first).toBe("rlhf-v4-rs")
  })
  it("judges the version before and after the last PPO on separate prompts", () => {
    for (const name of ["rlhf-v5-rs", "rlhf-v5"])
      expect(node(last, `judged-answers-${name}`).inputs).toEqual({ policy: name, prompts: "judging" })
  })
})

describe("the study of policy optimisation", async () => {
  const graph = await graphOf(policyOptimisation)
  const methods = ["ppo", "rloo", "grpo", "dpo"]
  const arms = methods.map((method) => outputs(graph).filter((name) => name.startsWith(`${method}-`)))
  it("starts every method from one policy with the same rewards, prompts and number of answers, with the same number of settings", () => {
    expect(arms.map(({ length }) => length)).toEqual([3, 3, 3, 3])
    for (const name of arms.slice(0, 3).flat()) {
      expect(node(graph, name).inputs).toMatchObject({
        policy: "rlhf-v5-rs",
        helpfulness: "best-helpfulness-5",
        safety: "best-safety-5",
        prompts: "update-prompts"
      })
      expect(node(graph, name).config).toMatchObject({ batchSize: 256, iterations: 60, miniBatchSize: 64 })
    }
    for (const name of arms[3]!) expect(node(graph, name).inputs).toMatchObject({ policy: "rlhf-v5-rs", pairs: "dpo-pairs" })
    expect(node(graph, "dpo-pairs-safety").inputs).toMatchObject({ first: "rlhf-v5-rs", second: "rlhf-v5-rs" })
  })
  it("judges all by the oracle and by their KL from the start, on prompts that none of them learnt from", () => {
    for (const name of ["start", ...arms.flat()]) {
      expect(node(graph, `judged-answers-${name}`).inputs.prompts).toBe("judging")
      expect(node(graph, `kl-${name}`).inputs).toEqual({ completions: `judged-answers-${name}`, reference: "rlhf-v5-rs" })
      expect(node(graph, `evaluation-${name}`).inputs).toEqual({ graded: `grades-${name}`, scored: `rewards-${name}` })
    }
    expect(node(graph, "judging-helpfulness").config).toMatchObject({ split: "heldOut" })
  })
  it("selects the settings of each method on held-out prompts that are not used to judge it", () => {
    for (const name of arms.flat()) {
      expect(node(graph, graph.outputs[`tuning-${name}`]!).inputs).toEqual({
        graded: `tuning-grades-${name}`,
        scored: `tuning-rewards-${name}`
      })
      expect(node(graph, `tuning-judged-answers-${name}`).inputs.prompts).toBe("tuning")
    }
    for (const kind of ["helpfulness", "safety"])
      for (const part of ["tuning", "judging"]) expect(node(graph, `${part}-${kind}`).config).toMatchObject({ split: "heldOut", part })
  })
  it("draws other evaluation prompts with another judgingSeed, and trains the same", async () => {
    const other = await graphOf(policyOptimisation, { judgingSeed: 101 })
    const trained = (of: Graph) =>
      [...of.nodes].filter(([id]) => !/^(judging|tuning)-(helpfulness|safety)$/.test(id)).map(([id]) => [id, node(of, id).config])
    expect(trained(other)).toEqual(trained(graph))
    expect(node(other, "judging-safety").seed).toBe(101)
  })
  it("rejects a different number of settings for one method", async () => {
    await expect(graphOf(policyOptimisation, { dpoBetas: "0.1" })).rejects.toThrow("found 3, 3, 3, 1")
    await expect(graphOf(policyOptimisation, { dpoBetas: "0.1,x,1" })).rejects.toThrow('found "0.1,x,1"')
  })
})

describe("the study of Ghost Attention", async () => {
  const graph = await graphOf(ghostAttention)
  it("tunes the base model with its data and without, and checks both on instructions of the kinds that were trained and of one that never was", () => {
    expect(outputs(graph)).toEqual([
      "policy",
      "trained-without",
      "trained-with",
      "never-trained-without",
      "never-trained-with",
      "attention"
    ])
    expect(ancestors(graph, ["ghost-attention"]).has("ghost-data")).toBe(true)
    expect(ancestors(graph, ["sft"]).has("ghost-data")).toBe(false)
    for (const [which, policy] of [
      ["without", "sft"],
      ["with", "ghost-attention"]
    ] as const) {
      expect(node(graph, `trained-${which}`).inputs).toEqual({ policy, dialogues: "held-out-dialogues" })
      expect(node(graph, `never-trained-${which}`).inputs).toEqual({ policy, dialogues: "never-trained-dialogues" })
    }
    const kindsOf = (id: string) => JSON.stringify(node(graph, id).config["constraints"])
    expect(kindsOf("held-out-dialogues")).toBe(kindsOf("dialogues"))
    expect(kindsOf("never-trained-dialogues")).toContain("From now on call me")
    expect(kindsOf("dialogues")).not.toContain("From now on call me")
    expect([node(graph, "prompts").config["split"], node(graph, "held-out-prompts").config["split"]]).toEqual(["train", "heldOut"])
  })
  it("maps the attention of both models in a held-out dialogue", () => {
    expect(node(graph, "attention").inputs).toEqual({ without: "sft", with: "ghost-attention", samples: "held-out-samples" })
    expect(node(graph, "held-out-samples").inputs).toMatchObject({ policy: "ghost-attention", dialogues: "held-out-dialogues" })
  })
})

describe("table 7's other rows", () => {
  it("have the limits of skipped pairs that our own models have, and the judge the usual one", async () => {
    const given = { openReward: "some/reward", url: "http://127.0.0.1:9/v1", judge: "m" }
    for (const [settings, limit] of [
      [given, 1],
      [{ ...given, pairsFile: "pairs.jsonl", openFile: "open.jsonl" }, undefined]
    ] as const) {
      const other = await graphOf(openPreferences, settings)
      for (const on of ["own", "open"]) {
        const skippedBy = (id: string) => node(other, `${id}-on-${on}`).limits?.skipped
        expect([skippedBy("open-reward"), skippedBy("judge")]).toEqual([limit, undefined])
      }
    }
  })
  it("are an open reward model and a judge, on both test sets", async () => {
    const graph = await graphOf(openPreferences, { openReward: "./rm", url: "http://127.0.0.1:1/v1", judge: "judge" })
    for (const [name, stage] of [
      ["open-reward", "score-pairs"],
      ["judge", "judge-pairs"]
    ] as const) {
      expect(node(graph, graph.outputs[name]!).inputs["scores"]).toEqual([`${name}-on-own`, `${name}-on-open`])
      expect(node(graph, `${name}-on-own`)).toMatchObject({ stage: { name: stage }, inputs: { pairs: "helpfulness-test" } })
    }
  })
})
