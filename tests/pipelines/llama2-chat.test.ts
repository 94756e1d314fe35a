/** pipelines/llama2-chat.ts as a graph: which version is tuned from which, on which data, with which hyperparameters. Nothing runs. */
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import pipeline from "../../pipelines/llama2-chat.ts"
import { ancestors, buildGraph, dependencies, type Graph, type StageNode } from "../../runtime/define/graph.ts"

const graphOf = (params: Record<string, unknown> = {}): Promise<Graph> => Effect.runPromise(buildGraph(pipeline, params, { seed: 0 }))
const refused = (params: Record<string, unknown>): Promise<string> =>
  Effect.runPromise(Effect.flip(buildGraph(pipeline, params, { seed: 0 })).pipe(Effect.map(({ message }) => message)))
const node = (graph: Graph, id: string) => graph.nodes.get(id) as StageNode
const ofStage = (graph: Graph, name: string) =>
  [...graph.nodes.values()].filter((one): one is StageNode => one.kind === "stage" && one.stage.name === name)
const has = (graph: Graph, id: string, above: string) => ancestors(graph, [id]).has(above)

const whole = await graphOf()
const versions = ["rlhf-v1", "rlhf-v2", "rlhf-v3", "rlhf-v4", "rlhf-v5-rs"]

describe("the recipe", () => {
  it("tunes every version from the base model, on that round's data", () => {
    for (const [i, version] of versions.entries())
      expect(node(whole, version).inputs).toEqual({ init: "import-policy", demonstrations: `data-${i + 1}` })
    expect(node(whole, "sft").inputs).toEqual({ init: "sft-bootstrap", demonstrations: "all-demonstrations" })
    expect(node(whole, "sft-bootstrap").inputs).toEqual({ init: "import-policy", demonstrations: "filter-demonstrations" })
  })

  it("samples the previous version, and selects among the best of all versions by the latest best reward models", () => {
    expect(node(whole, "samples-1").inputs).toMatchObject({ policy: "sft" })
    expect(node(whole, "samples-4").inputs).toMatchObject({ policy: "rlhf-v3", sweep: "sweep-4" })
    expect(node(whole, "selected-4").inputs.scored).toEqual(["scores-4-of-1", "scores-4-of-2", "scores-4-of-3", "scores-4"])
    for (const id of ["scores-4-of-1", "scores-4"])
      expect(node(whole, id).inputs).toMatchObject({ helpfulness: "best-helpfulness-4", safety: "best-safety-4" })
  })

  it("collects pairs from the two latest models, on new dialogues and on continued ones", () => {
    expect(node(whole, "pairs-safety-1").inputs).toMatchObject({ first: "sft", second: "sft-bootstrap" })
    expect(node(whole, "pairs-safety-3").inputs).toMatchObject({ first: "rlhf-v2", second: "rlhf-v1" })
    expect(node(whole, "questions-safety-1").inputs.datasets).toHaveLength(1)
    expect(node(whole, "questions-safety-3").inputs.datasets).toHaveLength(2)
    expect(has(whole, "questions-safety-3", "train-safety-2")).toBe(true)
  })

  it("selects the best of all reward models so far, on the held-out pairs of all rounds so far", () => {
    const { candidates, scores } = node(whole, "best-safety-3").inputs
    expect(candidates).toEqual(["safety-reward-1", "safety-reward-2", "safety-reward-3"])
    expect(scores).toHaveLength(3)
    expect(node(whole, "safety-reward-1-accuracy-3").inputs.scores).toEqual([1, 2, 3].map((batch) => `safety-reward-1-on-${batch}`))
    // No reward model sees what it is judged on; held-out dialogues are not continued in later batches either.
    const readers = [...whole.nodes.values()].filter((one) => dependencies(one).includes("test-safety-1")).map(({ id }) => id)
    // Their reports come after the selection: see table 7 below.
    expect(readers.filter((id) => !/^safety-reward-\d-on-1$/.test(id))).toEqual(["mix-preferences", "evaluate-classifier"])
    const judges = [...whole.nodes.values()].filter((one) => dependencies(one).includes("preferences-safety-1")).map(({ id }) => id)
    expect(judges.sort()).toEqual(["preference-statistics", "round-wins", "test-safety-1", "train-safety-1"])
    expect(node(whole, "safety-mixture-5").inputs.harmless).toEqual(["train-anthropic-harmless"])
    expect(node(whole, "helpfulness-mixture-5").inputs.openSource).toHaveLength(7)
  })

  it("reports the last reward models' accuracy on both kinds' held-out pairs and on open data's, by source, and selects none by it (table 7)", () => {
    for (const kind of ["helpfulness", "safety"]) {
      const table = whole.outputs[`accuracy-${kind}-by-source`]!
      const scored = (node(whole, table).inputs.scores as ReadonlyArray<string>).map((id) => node(whole, id).inputs)
      expect(new Set(scored.map(({ reward }) => reward))).toEqual(new Set([`best-${kind}-5`]))
      const sets = scored.map(({ pairs }) => pairs as string)
      const [helpful, safe, ...open] = sets
      for (const [set, batches] of [
        [helpful, "helpfulness"],
        [safe, "safety"]
      ] as const)
        expect(node(whole, set!).inputs.datasets).toEqual([1, 2, 3, 4, 5].map((round) => `test-${batches}-${round}`))
      expect(open).toHaveLength(7)
      // Each set has its own held-out pairs, and no reward model is trained on them.
      const sources = open.map((id) => node(whole, node(whole, id).inputs.preferences as string).config.source)
      expect(sources).toEqual([
        ...["anthropic-helpful", "anthropic-harmless", "openai-summarize", "openai-webgpt"],
        ...["stackexchange", "stanford-shp", "synthetic-gptj"]
      ])
      for (const id of open) {
        expect(node(whole, id).config.part).toBe("test")
        for (const model of [`${kind}-reward-5`, "general-reward", "rlhf-v5"]) expect(has(whole, model, id)).toBe(false)
      }
      expect([...whole.nodes.values()].filter((one) => dependencies(one).includes(table))).toEqual([])
    }
    // Our own pairs are distinguished by what they were annotated for.
    for (const kind of ["helpfulness", "safety"]) expect(node(whole, `preferences-${kind}-1`).config).toMatchObject({ kind, source: "" })
  })

  it("counts how often each round's newest model was chosen, by all of the round's labels (§3.4.1)", async () => {
    const rounds = [1, 2, 3, 4, 5]
    const newest = ["sft", "rlhf-v1", "rlhf-v2", "rlhf-v3", "rlhf-v4"]
    const { config, inputs } = node(whole, whole.outputs["roundWins"]!)
    expect(inputs).toEqual({
      newer: [...newest, ...newest],
      pairs: ["helpfulness", "safety"].flatMap((kind) => rounds.map((round) => `pairs-${kind}-${round}`)),
      preferences: ["helpfulness", "safety"].flatMap((kind) => rounds.map((round) => `preferences-${kind}-${round}`))
    })
    // Each model is the one that its round's pairs were drawn from, and what it is compared with is the other.
    for (const [i, id] of (inputs["newer"] as ReadonlyArray<string>).entries()) {
      const pairs = node(whole, (inputs["pairs"] as ReadonlyArray<string>)[i]!).inputs
      expect(pairs).toMatchObject({ first: id, second: i % 5 === 0 ? "sft-bootstrap" : newest[(i % 5) - 1] })
    }
    expect((config["names"] as ReadonlyArray<string>).slice(4, 7)).toEqual([
      "rlhf-v4 over rlhf-v3, helpfulness",
      "sft over sft-bootstrap, safety",
      "rlhf-v1 over sft, safety"
    ])
    const larger = await graphOf({ model: "7b", sampler: "70b" })
    expect(node(larger, larger.outputs["roundWins"]!).inputs["newer"]).toContain("sampler-rlhf-v4")
  })

  it("counts refusals among every version's answers, and false refusals on separate borderline prompts (§4.2.3)", () => {
    for (const version of ["sft", ...versions, "rlhf-v5"]) {
      expect(node(whole, whole.outputs[`refusals-${version}`]!)).toMatchObject({ inputs: { completions: `answers-${version}` } })
      const { completions } = node(whole, whole.outputs[`false-refusals-${version}`]!).inputs
      expect(node(whole, completions as string).inputs).toEqual({ policy: version, prompts: "held-out-borderline" })
    }
    expect(node(whole, "held-out-borderline")).toMatchObject({
      inputs: { file: "file:held-out-borderline.jsonl" },
      config: { safety: false }
    })
    expect(has(whole, "rlhf-v5", "held-out-borderline")).toBe(false)
  })

  it("checks Ghost Attention over twenty turns, which fit the context as expected (table 30)", () => {
    const [question, context] = [31.4, 4096]
    // The chat format's own: <s>[INST] and [/INST] and </s>, and the instruction in the first turn.
    const [format, instruction] = [10, 30]
    for (const id of ["ghost-attention-before", "ghost-attention-after"]) {
      const { config, expected, inputs } = node(whole, id)
      expect(node(whole, inputs.dialogues as string).config).toMatchObject({ turns: 20 })
      const answer = expected!.responseTokens!
      const maxNewTokens = config.maxNewTokens as number
      expect(answer).toBeLessThan(140)
      // There is space for more than twice the expected length, and few answers would be truncated if they were as long as elsewhere.
      expect(instruction + 20 * (question + format) + 19 * 140).toBeLessThan(context - maxNewTokens)
      expect(maxNewTokens).toBeGreaterThan(2 * 234.1)
    }
  })

  it("adds Ghost Attention and context distillation after the third version, using that version", () => {
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
      expect(node(whole, `answers-${version}`).inputs).toEqual({ policy: version, prompts: "judged-on" })
      for (const of of ["judged", "general", "classified"])
        expect(node(whole, `${of}-${version}`).inputs.completions).toBe(`answers-${version}`)
    }
    expect(has(whole, "rlhf-v5", "general-reward")).toBe(false)
  })

  it("stops PPO early using held-out prompts on which no version is judged", () => {
    const parts = Array.from({ length: 7 }, (_, i) => `held-out-${i + 1}`)
    expect(node(whole, "judged-on").inputs.datasets).toEqual(parts)
    for (const [batch, id] of ["ppo-held-out", ...parts].entries()) {
      expect(node(whole, id).inputs).toEqual({ prompts: "held-out" })
      expect(node(whole, id).config).toEqual({ batches: 8, batch })
    }
    const readers = [...whole.nodes.values()].filter((one) => dependencies(one).includes("ppo-held-out")).map(({ id }) => id)
    expect(readers).toEqual(["rlhf-v5"])
    expect(node(whole, "rlhf-v5").inputs).toMatchObject({ prompts: "prompts", heldOut: "ppo-held-out" })
    const held = [...whole.nodes.values()].filter((one) => dependencies(one).includes("held-out")).map(({ id }) => id)
    expect(held.sort()).toEqual([...parts, "ppo-held-out"])
  })

  it("labels the classifier's responses with the categories of the prompts for which pairs were collected, and uses no examples of those", () => {
    const { collected, preferences, prompts } = node(whole, "safety-classifier-data").inputs
    expect(node(whole, collected as string).inputs.datasets).toEqual([1, 2, 3, 4, 5].map((round) => `questions-safety-${round}`))
    expect(preferences).toEqual([1, 2, 3, 4, 5].map((round) => `train-safety-${round}`))
    expect(prompts).toEqual(["prompts"])
    expect(node(whole, "evaluate-classifier").inputs).toMatchObject({ collected, prompts: ["judged-on"] })
  })

  it("outputs statistics of each round's pairs and reward models, and the diversity of every version at one K", () => {
    const rounds = [1, 2, 3, 4, 5]
    for (const kind of ["helpfulness", "safety"]) {
      for (const round of rounds) expect(whole.outputs[`accuracy-${kind}-${round}`]).toBe(`${kind}-reward-${round}-accuracy-${round}`)
      const statistics = node(whole, whole.outputs["preferenceStatistics"]!).inputs
      expect(statistics[kind]).toEqual(rounds.map((round) => `preferences-${kind}-${round}`))
      expect(statistics[`${kind}Pairs`]).toEqual(rounds.map((round) => `pairs-${kind}-${round}`))
    }
    const { config, inputs } = node(whole, whole.outputs["selfBleu"]!)
    const names = ["sft", ...versions, "rlhf-v5"].flatMap((version) => [1, 1.2, 1.4].map((temperature) => `${version} at ${temperature}`))
    expect(config.names).toEqual(names)
    expect((inputs.completions as ReadonlyArray<string>).map((id) => node(whole, id).inputs.policy)).toEqual(
      names.map((name) => name.split(" ")[0])
    )
  })

  it("computes everything in bfloat16", () => {
    for (const one of whole.nodes.values()) {
      if (one.kind === "file" || one.stage.resources.tensors !== true) continue
      expect([one.id, one.config["precision"]]).toEqual([one.id, "bfloat16"])
    }
  })
})

describe("safety demonstrations", () => {
  it("are the written ones, in SFT and in every version; pairs' chosen answers are not among them (§4.2.2)", () => {
    const written = node(whole, "all-demonstrations").inputs.datasets as ReadonlyArray<string>
    expect(node(whole, written[1]!).inputs.file).toBe("file:safety-demonstrations.jsonl")
    for (const id of ["sft", "data-1", "data-5"]) expect(has(whole, id, "all-demonstrations")).toBe(true)
    expect(ofStage(whole, "safe-demonstrations")).toEqual([])
  })
  it("also include those of all rounds so far on request, but no held-out ones", async () => {
    const graph = await graphOf({ safeAnswers: true })
    for (const round of [1, 2, 5]) {
      const data = node(graph, `data-${round}`)
      const safe = (data.inputs.datasets as ReadonlyArray<string>).filter((id) => id.startsWith("safe-answers-"))
      expect(safe).toEqual(Array.from({ length: round }, (_, i) => `safe-answers-${i + 1}`))
      expect(data.config.weights).toHaveLength((data.inputs.datasets as ReadonlyArray<string>).length)
      expect(node(graph, `safe-answers-${round}`).inputs).toEqual({ preferences: `train-safety-${round}` })
    }
    expect(has(graph, "sft", "safe-answers-1")).toBe(false)
  })
})

describe("a judge", async () => {
  const judge = { url: "http://localhost:1/v1", judge: "m", keyVariable: "KEY" }
  const graph = await graphOf({ ...judge, opponent: "other" })

  it("compares every version with SFT and the last one with the opponent, whoever annotates", () => {
    const compared = [
      ...[...versions, "rlhf-v5"].map((version) => [`judged-wins-${version}`, version, "sft"] as const),
      ["judged-wins-over-opponent", "rlhf-v5", "opponent"] as const
    ]
    for (const [output, ours, opponent] of compared) {
      const { inputs } = node(graph, graph.outputs[output]!)
      const sets = { ours: `answers-${ours}`, opponent: `answers-${opponent}` }
      expect(inputs).toMatchObject(sets)
      const verdicts = (inputs.verdicts as ReadonlyArray<string>).map((id) => node(graph, id))
      expect(verdicts.map(({ config }) => config.kind)).toEqual(["helpfulness", "safety"])
      for (const { config, inputs } of verdicts) {
        expect(config).toMatchObject({ annotator: "judge", url: judge.url, model: "m", keyVariable: "KEY" })
        expect(node(graph, inputs.pairs as string)).toMatchObject({ inputs: sets, config: { prompts: config.kind } })
      }
    }
    expect(ofStage(graph, "judged-win-rate")).toHaveLength(compared.length)
    expect(node(graph, "preferences-safety-1").config.annotator).toBe("file")
    expect(ofStage(whole, "judged-win-rate")).toEqual([])
  })
  it("rates answers of versions whose answers are in no pairs, checks instructions, and is a row of table 7 (figures 28, 29)", () => {
    expect(node(graph, "calibration").inputs).toMatchObject({
      scored: ["judged-rlhf-v5-rs", "judged-rlhf-v5"],
      ratings: ["ratings-rlhf-v5-rs", "ratings-rlhf-v5"]
    })
    const drew = (node(graph, "calibration").inputs["trainedOn"] as ReadonlyArray<string>).flatMap((id) =>
      Object.values(node(graph, id).inputs)
    )
    for (const version of ["rlhf-v5-rs", "rlhf-v5"]) expect(drew).not.toContain(version)
    for (const version of ["sft", "rlhf-v1", "rlhf-v4"]) expect(drew).toContain(version)
    for (const [name, policy] of [
      ["before", "rlhf-v3"],
      ["after", "rlhf-v5"]
    ] as const) {
      expect(node(graph, `judged-ghost-attention-${name}`).inputs).toEqual({ samples: `judged-dialogues-${name}` })
      expect(node(graph, `judged-dialogues-${name}`)).toMatchObject({ config: { instruction: "first turn" }, inputs: { policy } })
      expect(node(whole, `never-trained-${name}`).inputs).toMatchObject({ policy, dialogues: "never-trained-dialogues" })
    }
    expect(node(graph, graph.outputs["accuracy-judge-by-source"]!).inputs["scores"]).toHaveLength(9)
  })
  it("that labelled the pairs gives no ratings and no row of table 7, because they would not be independent", async () => {
    const labelled = await graphOf({ ...judge, annotator: "judge" })
    for (const stage of ["judge-ratings", "calibration", "judge-pairs"]) expect(ofStage(labelled, stage)).toEqual([])
  })
  it("without an address or a name is rejected before anything runs", async () => {
    for (const params of [{ url: judge.url }, { annotator: "judge" }, { annotator: "judge", judge: "m" }])
      expect(await refused(params)).toContain('Reading the parameters "url" and "judge": expected both')
    expect(ofStage(await graphOf({ ...judge, annotator: "judge" }), "annotate")[0]!.config).toMatchObject({ annotator: "judge" })
  })
})

describe("figures of the paper", () => {
  it("10: the attention of the last version and of the last one without Ghost Attention, in the same dialogue", () => {
    expect(node(whole, "ghost-attention-map").inputs).toEqual({ without: "rlhf-v3", with: "rlhf-v5", samples: "ghost-attention-samples" })
    expect(node(whole, "ghost-attention-samples").inputs).toMatchObject({ policy: "rlhf-v5" })
  })
  it("26: SFT's answers to each round's helpfulness prompts, scored by one reward model", () => {
    const rounds = [1, 2, 3, 4, 5]
    expect(node(whole, "curriculum").inputs["scored"]).toEqual(rounds.map((round) => `curriculum-scores-${round}`))
    for (const round of rounds) {
      expect(node(whole, `curriculum-answers-${round}`).inputs).toEqual({ policy: "sft", prompts: `curriculum-prompts-${round}` })
      expect(node(whole, `curriculum-prompts-${round}`).inputs).toEqual({ datasets: [`questions-helpfulness-${round}`] })
      expect(node(whole, `curriculum-scores-${round}`).inputs).toMatchObject({ reward: "best-helpfulness-5" })
    }
  })
  it("table 7: another open reward model is a row if its folder is given", async () => {
    const graph = await graphOf({ openReward: "./rm" })
    const scores = node(graph, graph.outputs["accuracy-open-reward-by-source"]!).inputs["scores"] as ReadonlyArray<string>
    expect(scores).toHaveLength(9)
    expect(new Set(scores.map((id) => node(graph, id).inputs["reward"]))).toEqual(new Set(["open-reward"]))
    expect(ofStage(whole, "import-general-reward")).toEqual([])
  })
  it("hobbies and public figures are listed by the model with ghostLists=model (§3.3)", async () => {
    const graph = await graphOf({ ghostLists: "model" })
    const [made] = ofStage(graph, "ghost-instructions").filter(({ inputs }) => inputs["lists"] !== null)
    expect(made!.inputs["lists"]).toBe("ghost-lists")
    expect(JSON.stringify(made!.config)).not.toContain("Napoleon")
    expect(node(graph, "ghost-lists").inputs).toEqual({ policy: "rlhf-v3" })
    expect(ofStage(whole, "ghost-lists")).toEqual([])
  })
})

it("keeps its files in a separate folder, not among this repository's sources", () => {
  const files = [...whole.nodes.values()].filter((one) => one.kind === "file").map(({ path }) => path)
  const data = files.filter((path) => path.endsWith(".jsonl"))
  expect(new Set(data.map(dirname))).toEqual(new Set([join(process.cwd(), "llama2-chat-data")]))
  expect(node(whole, "preferences-safety-1").config.pairsFile).toBe(join("llama2-chat-data", "to-label-safety-1.jsonl"))
})

describe("the model before Ghost Attention", () => {
  // With four rounds or more the data is from V3, otherwise from the last but one; with only one round from SFT.
  it.each([
    [1, "sft"],
    [2, "rlhf-v1"],
    [3, "rlhf-v2"],
    [4, "rlhf-v3"],
    [6, "rlhf-v3"]
  ])("with %i rounds is %s: it learnt from none of its data", async (rounds, before) => {
    const graph = await graphOf({ rounds })
    expect(node(graph, "ghost-attention-before").inputs.policy).toBe(before)
    expect(has(graph, before, "ghost-data")).toBe(false)
    expect(has(graph, node(graph, "ghost-attention-after").inputs.policy as string, "ghost-data")).toBe(true)
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
      ...{ weightDecay: 0.1, maxNorm: 1, klControl: "fixed", valueInit: "reward" }
    })
    for (const id of ["sft", "rlhf-v2"])
      expect(node(graph, id).config).toMatchObject({ learningRate: 2e-5, weightDecay: 0.1, batchSize: 64, sequenceLength: 4096, epochs: 2 })
  })

  it("of a local checkpoint are those of the size that it is said to resemble", async () => {
    const graph = await graphOf({ model: "some/model", like: "70b" })
    expect(graph.nodes.get("file:model")).toMatchObject({ kind: "file", path: `${process.cwd()}/some/model`, expected: undefined })
    expect(node(graph, "helpfulness-reward-1").config.learningRate).toBe(5e-6)
  })

  it("may name a size in upper or lower case; a word that is neither a size nor a folder is rejected", async () => {
    const graph = await graphOf({ model: "70B", sampler: "70b" })
    expect(node(graph, "rlhf-v5").config.beta).toBe(0.005)
    expect(graph.nodes.get("file:llama-2-70b")).toMatchObject({ expected: { model: "70b" } })
    expect(graph.nodes.has("file:70B")).toBe(false)
    for (const parameter of ["model", "sampler"]) {
      const message = await refused({ [parameter]: "8b" })
      expect(message).toContain(
        `Reading the parameter "${parameter}": expected one of 7b, 13b, 34b, 70b, or a folder, found "8b". Did you mean "7b"?`
      )
      expect(message).toContain("./8b")
    }
    // A folder is accepted: an existing one, and any given as a path.
    expect((await graphOf({ model: "tests" })).nodes.get("file:tests")).toMatchObject({ path: `${process.cwd()}/tests` })
    expect((await graphOf({ model: "./8b" })).nodes.get("file:8b")).toMatchObject({ path: `${process.cwd()}/8b` })
  })

  it("K is one number, or one per round: the sweep samples the maximum, and is evaluated at the round's own K", async () => {
    const ks = [4, 8, 16, 6, 2]
    const graph = await graphOf({ k: ks })
    for (const [i, k] of ks.entries()) {
      expect(node(graph, `samples-${i + 1}`).config.k).toBe(k)
      expect(node(graph, `sweep-${i + 1}`).config.n).toBe(k)
      expect(node(graph, `sweep-${i + 1}-at-1.2`).config.k).toBe(16)
    }
    expect(node(whole, "samples-4").config.k).toBe(10)
    expect(await refused({ k: [4, 8] })).toContain(
      'Reading the parameter "k": expected one number, or one for each of 5 rounds, found 2: [4,8].'
    )
    expect(await refused({ k: [4, 8, 1, 4, 4] })).toContain("k")
  })

  it("for human annotation: labels are connected for rounds up to `labelled`", async () => {
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
  it("a model is tuned from its own base on the larger one's samples, and only the larger one goes through the rounds", async () => {
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

it("works without open-source data, and with any number of rounds", async () => {
  const graph = await graphOf({ openSource: false, rounds: 1 })
  expect(graph.nodes.has("general-reward")).toBe(false)
  expect(node(graph, "rlhf-v1").stage.name).toBe("ppo")
})

it("compares an opponent with the last version, on its prompts", async () => {
  const graph = await graphOf({ opponent: "other" })
  expect(node(graph, graph.outputs["wins-over-opponent"]!).inputs).toEqual({ ours: "judged-rlhf-v5", opponent: "judged-opponent" })
  expect(node(graph, graph.outputs["wins-opponent"]!).inputs).toEqual({ ours: "judged-opponent", opponent: "judged-sft" })
  expect(node(graph, "answers-opponent").inputs.prompts).toBe("judged-on")
  expect(whole.outputs["wins-over-opponent"]).toBeUndefined()
})

describe("with tags by a classifier", async () => {
  const graph = await graphOf({ tags: "classifier" })
  const files = (one: Graph) =>
    [...one.nodes.keys()].filter((id) => /^file:(prompts|held-out)/.test(id) && !id.includes("borderline")).sort()

  it("prompts of a file without tags get tags from it, before rewards are combined", () => {
    expect(files(graph)).toEqual(["file:held-out.jsonl", "file:prompts.jsonl"])
    expect(files(whole)).toEqual(
      ["held-out-helpfulness", "held-out-safety", "prompts-helpfulness", "prompts-safety"].map((name) => `file:${name}.jsonl`)
    )
    for (const name of ["prompts", "held-out"]) {
      expect(node(graph, name).stage.name).toBe("classify-prompts")
      expect(node(graph, name)).toMatchObject({ inputs: { classifier: "tagger", prompts: `${name}-untagged` }, config: { keep: "all" } })
    }
    expect(node(graph, "samples-2").inputs.prompts).toBe("prompts")
    expect(node(graph, "rlhf-v5").inputs.prompts).toBe("prompts")
    // Context distillation uses only adversarial prompts.
    expect(node(graph, "distillation-original").inputs.prompts).toBe("prompts-safety")
    expect(node(graph, "prompts-safety")).toMatchObject({ inputs: { classifier: "tagger" }, config: { keep: "unsafe" } })
    expect([...whole.nodes.keys()].some((id) => id.startsWith("tagger"))).toBe(false)
  })
  it("trained on half of the prompts for which pairs are collected is evaluated on the other half; its tags do not train or evaluate another classifier", () => {
    expect(node(graph, "tagger-data").inputs.prompts).toEqual(["tagger-helpfulness-1", "tagger-safety-1"])
    expect(node(graph, graph.outputs["taggerQuality"]!).inputs).toMatchObject({
      classifier: "tagger",
      prompts: ["tagger-helpfulness-2", "tagger-safety-2"]
    })
    expect(node(graph, "tagger-safety-1").inputs).toEqual({ prompts: "pairs-safety" })
    expect(node(graph, "safety-classifier-data").inputs.prompts).toEqual([])
    expect(node(graph, graph.outputs["classifierQuality"]!).inputs).toMatchObject({ classifier: "safety-classifier", prompts: [] })
    expect(has(graph, "tagger", "rlhf-v1")).toBe(false)
  })
})

it("every user file is read with tags of the chat format rejected, or escaped", async () => {
  for (const chatTags of ["refuse", "escape"]) {
    const read = await Promise.all(["data", "classifier"].map((tags) => graphOf({ chatTags, tags })))
    const importers = read.flatMap((graph) =>
      ["import-demonstrations", "import-preferences", "import-prompts"].flatMap((stage) => ofStage(graph, stage))
    )
    expect(importers.length).toBeGreaterThan(30)
    expect(new Set(importers.map(({ config }) => config.chatTags))).toEqual(new Set([chatTags]))
  }
})
