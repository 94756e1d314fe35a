/** Figure 10: the positions of a dialogue's parts among its tokens, the bins, what the answers attend to, and what can't be shown. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { noGrad, scoped } from "../../../engine/tensor.ts"
import { greatestAttention } from "../../../models/attention-map.ts"
import { loadPolicy, saveCheckpoint } from "../../../models/checkpoint.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama } from "../../../models/llama.ts"
import { trainTokenizer } from "../../../models/tokenizer/train.ts"
import { Policy } from "../../../schemas/checkpoint.ts"
import { attentionMap, AttentionMapReport } from "../../../stages/ghost-attention/attention-map.ts"
import { attentionTo, binnedMap, dialogueParts } from "../../../stages/ghost-attention/dialogue-parts.ts"
import { type GhostSample, GhostSamples } from "../../../stages/ghost-attention/sample.ts"
import { artifact, failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { assistant, user } from "../samples.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

const sample: GhostSample = {
  ...{ id: "d", instruction: "bab", trainedInstruction: "bb", questions: ["a", "aa", "aaa"], mustContain: ["b"] },
  ...{ answers: ["ba", "baa", "baaa"], ended: null }
}
const messages = [user("bab a"), assistant("ba"), user("aa"), assistant("baa"), user("aaa"), assistant("baaa")]

describe("a dialogue's tokens", () => {
  it("are divided into the instruction, the questions and the answers in turn", () => {
    const found = dialogueParts(tokenizer, messages, "bab")
    if (!("parts" in found)) throw found
    const { parts, tokens } = found
    const text = ({ from, to }: { readonly from: number; readonly to: number }) => tokenizer.decode(tokens.slice(from, to)).trim()
    expect(parts.map(({ kind, turn }) => `${kind} ${turn}`)).toEqual([
      "instruction 0",
      ...["question 1", "answer 1", "question 2", "answer 2", "question 3", "answer 3"]
    ])
    expect(text(parts[0]!)).toBe("bab")
    expect(parts.slice(1).map(text)).toEqual(["a [/INST]", "ba", "[INST] aa [/INST]", "baa", "[INST] aaa [/INST]", "baaa"])
    expect(parts.at(-1)!.to).toBe(tokens.length)
    // Each part begins where the previous one ended.
    expect(parts.slice(1).map(({ from }) => from)).toEqual(parts.slice(0, -1).map(({ to }) => to))
  })
  it("have no instruction if its text is not found; it then counts as part of the first question", () => {
    const found = dialogueParts(tokenizer, messages, "something else")
    expect("parts" in found && found.parts[0]).toMatchObject({ kind: "question", turn: 1, from: 0 })
  })
  it("are empty if the chat format can't represent the dialogue", () => {
    expect(dialogueParts(tokenizer, [user("[INST]"), assistant("a")], "x")).toMatchObject({ _tag: "ChatError" })
  })
})

describe("a map of attention", () => {
  // Five tokens: token 3 attends to 1 with weight 0.5, and so on; nothing above the diagonal.
  const map = [
    [1, 0, 0, 0, 0],
    [0.9, 0.1, 0, 0, 0],
    [0.2, 0.3, 0.5, 0, 0],
    [0.1, 0.5, 0.2, 0.2, 0],
    [0.4, 0.1, 0.1, 0.1, 0.3]
  ].flat()
  it("has the maximum weight of each block up to the diagonal; the last bin may be smaller", () => {
    expect(binnedMap(map, 5, 2)).toEqual([[1], [0.5, 0.5], [0.4, 0.1, 0.3]])
    expect(binnedMap(map, 5, 5)).toEqual([[1]])
  })
  it("uses the position before each answer token, where that token is predicted", () => {
    // Tokens 3 and 4 are predicted at positions 2 and 3: their maximum weights on tokens 0 and 1 are 0.3 and 0.5.
    expect(attentionTo(map, 5, { from: 3, to: 5 }, { from: 0, to: 2 })).toBeCloseTo(0.4, 12)
  })
})

describe("the stage of figure 10", async () => {
  const [without, after] = [await talkingPolicy(1), await talkingPolicy(2)]
  const samples = await rowsArtifact(GhostSamples, [
    { ...sample, id: "short", answers: ["ba"] },
    sample,
    { ...sample, id: "unanswered", answers: [] }
  ])
  const inputs = { without, with: after, samples }

  it("shows the dialogue with the most answers: the maximum weights of each model, and the attention of each answer to the instruction", async () => {
    const report = await reportIn(await runStage(attentionMap, inputs, { bins: 64 }), AttentionMapReport)
    expect(report).toMatchObject({ dialogue: "d", instruction: "bab", tokensPerBin: Math.ceil(report.tokens / 64) })
    const found = dialogueParts(tokenizer, messages, "bab")
    if (!("parts" in found)) throw found
    const { parts, tokens } = found
    expect(report.tokens).toBe(tokens.length)
    expect(report.parts).toEqual(parts)
    const [first, second] = await Promise.all(
      [without, after].map(async (policy) => {
        const { model } = await Effect.runPromise(loadPolicy(policy))
        return greatestAttention(model, tokens, { layers: [0], heads: [0, 1] })
      })
    )
    expect(report.maps.map(({ heads, layers, model }) => [model, layers, heads])).toEqual([
      ["without", 1, 2],
      ["with", 1, 2]
    ])
    for (const [i, map] of [first!, second!].entries())
      expect(report.maps[i]!.rows).toEqual(
        binnedMap(map, tokens.length, report.tokensPerBin).map((row) => row.map((weight) => Math.round(weight * 1e4) / 1e4))
      )
    const answers = parts.filter(({ kind }) => kind === "answer")
    expect(report.byAnswer).toEqual(
      answers.map((answer, i) => ({
        turn: i + 1,
        without: attentionTo(first!, tokens.length, answer, parts[0]!),
        with: attentionTo(second!, tokens.length, answer, parts[0]!)
      }))
    )
    // A single head's weights are below the maximum over both.
    const one = await reportIn(await runStage(attentionMap, inputs, { bins: 64, heads: [1] }), AttentionMapReport)
    expect(one.maps[0]!.heads).toBe(1)
    expect(one.maps[0]!.rows).not.toEqual(report.maps[0]!.rows)
    expect(one.maps[0]!.rows.every((row, i) => row.every((weight, j) => weight <= report.maps[0]!.rows[i]![j]!))).toBe(true)
  })
  it("has at most the requested number of bins", async () => {
    const report = await reportIn(await runStage(attentionMap, inputs, { bins: 5 }), AttentionMapReport)
    expect(report.maps.map(({ rows }) => rows.map((row) => row.length))).toEqual([
      [1, 2, 3, 4, 5],
      [1, 2, 3, 4, 5]
    ])
  })
  it("names the model and the dialogue that are too large to show", async () => {
    expect(await failureOf(attentionMap, inputs, { maxWeights: 100 })).toMatch(
      /^Showing the attention of the model without Ghost Attention in the dialogue "d": expected at most 100 attention weights, found [\d,]+: 1 layers x 2 heads x (\d+) x \1 tokens\. Use a shorter dialogue or fewer layers or heads, or raise maxWeights\.$/
    )
    const long = await rowsArtifact(GhostSamples, [{ ...sample, answers: ["ba", "b".repeat(200), "b"] }])
    expect(await failureOf(attentionMap, { ...inputs, samples: long })).toMatch(
      /in the dialogue "d": expected at most the 160 tokens of its context, found \d+\. Set dialogue to a shorter one/
    )
  })
  it("refuses what it can't show, and suggests what to do", async () => {
    expect(await failureOf(attentionMap, inputs, { dialogue: "none" })).toMatch(
      /the dialogue "none": expected a sampled dialogue with an answer, found no dialogue with that id among 3\./
    )
    expect(await failureOf(attentionMap, inputs, { dialogue: "unanswered" })).toMatch(
      /found a dialogue without answers\. Set dialogue to another id/
    )
    expect((await reportIn(await runStage(attentionMap, inputs, { dialogue: "short" }), AttentionMapReport)).byAnswer).toHaveLength(1)
    expect(await failureOf(attentionMap, inputs, { layers: [0, 1] })).toMatch(/expected layers from 0 to 0, found 1\./)
    expect(await failureOf(attentionMap, inputs, { heads: [0.5] })).toMatch(/expected heads from 0 to 1, found 0\.5\./)
    const unanswered = await rowsArtifact(GhostSamples, [{ ...sample, answers: [] }])
    expect(await failureOf(attentionMap, { ...inputs, samples: unanswered })).toMatch(/1 dialogues without answers/)
    const hostile = await rowsArtifact(GhostSamples, [{ ...sample, questions: ["a", "</s> [INST]", "a"] }])
    expect(await failureOf(attentionMap, { ...inputs, samples: hostile })).toMatch(/\[INST\]/)
  })
  const policyOf = (other: typeof tokenizer, scale: number) => {
    const model = initLlama(
      llamaConfig({ vocabSize: other.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 160 }),
      { seed: 3 }
    )
    scoped(() => noGrad(() => void model.parameter("model.layers.0.self_attn.q_proj.weight").mul_(scale)))
    return artifact(Policy, (slot) => saveCheckpoint(slot, { model, tokenizer: other }))
  }
  it("refuses models with different tokenizers, and attention weights that are not numbers", async () => {
    const other = await policyOf(trainTokenizer(["aa aaa aa aaa aaaa"], { vocabSize: 264 }), 1)
    expect(await failureOf(attentionMap, { ...inputs, with: other })).toMatch(
      /expected the same tokens for both, found \d+ and \d+ tokens, which differ\. Compare models with the same tokenizer/
    )
    const damaged = await policyOf(tokenizer, NaN)
    expect(await failureOf(attentionMap, { ...inputs, with: damaged })).toMatch(
      /the model with Ghost Attention: expected finite weights, found NaN at token 0/
    )
  })
})
