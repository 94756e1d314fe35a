/**
 * Rows that stages can't use: every stage that leaves rows out counts them by reason, lists them and fails above a fifth of them; a model's answers
 * have no limit. Readers of users' files: tests/stages/data.
 */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { beforeAll, describe, expect, it } from "vitest"
import { saveCheckpoint } from "../../models/checkpoint.ts"
import { llamaConfig } from "../../models/config.ts"
import { initLlama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import type { AnyStage } from "../../runtime/define/stage.ts"
import { HelpfulnessReward, SafetyReward } from "../../schemas/checkpoint.ts"
import {
  type Completion,
  Completions,
  type Demonstration,
  Demonstrations,
  type Message,
  type Preference,
  Preferences,
  Prompts,
  ResponsePairs,
  ScoredCompletions
} from "../../schemas/rows.ts"
import { preferenceDemonstrations, preferencePrompts, preferenceTexts } from "../../stages/data/derive.ts"
import { evaluateBestOfN } from "../../stages/evaluation/evaluate-policy.ts"
import { pairCompletions } from "../../stages/evaluation/judged-win-rate.ts"
import { rewardHacking } from "../../stages/evaluation/reward-hacking.ts"
import { selfBleu } from "../../stages/evaluation/self-bleu.ts"
import { winRate } from "../../stages/evaluation/win-rate.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { GhostSamples } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { annotate } from "../../stages/preferences/annotate.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { temperatureSweep } from "../../stages/rejection-sampling/temperature-sweep.ts"
import { safetyRecall, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { score } from "../../stages/reward/score.ts"
import { safetyClassifierData } from "../../stages/safety/classifier-data.ts"
import { safetyClassifier } from "../../stages/safety/classifier-training.ts"
import { classifyCompletions, classifyPrompts } from "../../stages/safety/classify.ts"
import { evaluateClassifier } from "../../stages/safety/evaluate-classifier.ts"
import { safeDemonstrations } from "../../stages/safety/safety-sft.ts"
import { sft } from "../../stages/training/sft.ts"
import { artifact, failureOf, type Inputs, rowsArtifact, runStage } from "./running.ts"
import { ask, assistant, completion, responsePair, scored, user } from "./samples.ts"
import { talkingPolicy, tokenizer } from "./talking.ts"
import { sharpen } from "../models/tensors.ts"

const context = 160
const tag = "with a tag of the chat format in the text"
const tooLong = (tokens: number) => `longer than ${tokens} tokens`
const empty = "with an empty answer"

const words = ["ab", "ba ab", "b", "a ba"]
/** Four that fit, one with a tag, one too long. */
const texts = [...words, "a [INST] b", "ba".repeat(200)]
const demonstrations = texts.map((text, i): Demonstration => ({ id: `d${i}`, messages: [user(text), assistant("ab")], loss: "answers" }))
const pairs = texts.map((text, i): Preference => ({
  ...{ id: `q${i}`, prompt: [user(words[i % 4]!)], chosen: text, rejected: "b b", rating: 1 },
  ...{ chosenSafe: true, rejectedSafe: false, source: "test" }
}))
const prompts = texts.map((text, i) => ask(`p${i}`, text, { followUps: ["b"] }))
const completions = [...texts, ""].map((text, i): Completion => ({ ...completion(`p${i}`, 0, text), prompt: [user("b")] }))
/** One dialogue per pair, so that all answers differ. */
const answered = (messages: ReadonlyArray<Message>, answers: number) => ({
  ...{ id: "g", instruction: "b", trainedInstruction: "b", questions: messages.map(({ content }) => content), mustContain: [] },
  ...{ answers: Array.from({ length: answers }, () => "a"), ended: null }
})

const backbone = (seed: number) => {
  const config = llamaConfig({ vocabSize: tokenizer.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: context })
  return sharpen(initRewardModel(initLlama(config, { seed }), { seed }), 8)
}

interface Case {
  readonly stage: AnyStage
  readonly inputs: Inputs
  readonly config?: Record<string, unknown>
  readonly what: string
  readonly of: number
  readonly reasons: Readonly<Record<string, number>>
  /** The listed ids. */
  readonly ids: ReadonlyArray<string>
  /** Answers from a model. */
  readonly unlimited?: boolean
}
let cases: Readonly<Record<string, Case>>

beforeAll(async () => {
  const [policy, second] = [await talkingPolicy(1), await talkingPolicy(2)]
  const helpfulness = await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: backbone(3), tokenizer }))
  const safety = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: backbone(4), tokenizer }))
  const given = {
    demonstrations: await rowsArtifact(Demonstrations, demonstrations),
    pairs: await rowsArtifact(Preferences, pairs),
    prompts: await rowsArtifact(Prompts, prompts),
    completions: await rowsArtifact(Completions, completions)
  }
  const sampling = { maxNewTokens: 6 }
  const room = context - 6
  const task = { prompt: "P?", response: "R?", listed: false }
  const labelled = await rowsArtifact(Preferences, [...pairs.slice(0, 4), { ...pairs[4]!, chosen: " " }])
  const examples = await runStage(safetyClassifierData, { prompts: [given.prompts], preferences: [given.pairs] }, { task })
  const training = { learningRate: 1e-2, sequenceLength: context, batchSize: 2, microBatchSize: 2 }
  const classifier = await runStage(safetyClassifier, { init: policy, examples }, training)
  const rows = (...some: ReadonlyArray<ReturnType<typeof scored>>) => rowsArtifact(ScoredCompletions, some)
  const ours = await rows(scored("a", 0, 1), scored("b", 0, 1), scored("c", 0, 1))
  const theirs = await rows(scored("a", 0, 2), scored("d", 0, 2))
  const alone = {
    what: "answers",
    of: 5,
    reasons: { "without a counterpart on the other side": 3 },
    ids: ["b#0", "c#0", "d#0"],
    unlimited: true
  }

  const textual = { what: "pairs", of: 6, reasons: { [tag]: 1, [tooLong(context)]: 1 }, ids: ["q4", "q5"] }
  const pairCase = (stage: AnyStage): Case => ({
    ...textual,
    stage,
    inputs: { init: policy, pairs: given.pairs },
    config: { batchPairs: 2 }
  })
  const asked = { what: "prompts", of: 6, reasons: { [tag]: 1, [tooLong(room)]: 1 }, ids: ["p4", "p5"] }
  const ofCompletions = {
    ...{ what: "completions", of: 7, reasons: { [tag]: 1, [tooLong(context)]: 1, [empty]: 1 }, ids: ["p4#0", "p5#0", "p6#0"] },
    unlimited: true
  }
  const beyond = { [`that do not fit the classifier's ${context} tokens`]: 1 }
  cases = {
    sft: {
      ...textual,
      ...{ stage: sft, inputs: { init: policy, demonstrations: given.demonstrations }, config: training },
      ...{ what: "demonstrations", ids: ["d4", "d5"] }
    },
    "helpfulness-reward-model": pairCase(helpfulnessRewardModel),
    "safety-reward-model": pairCase(safetyRewardModel),
    "general-reward-model": pairCase(generalRewardModel),
    "score-pairs": { ...textual, stage: scorePairs, inputs: { reward: helpfulness, pairs: given.pairs } },
    "safety-recall": {
      ...{ stage: safetyRecall, inputs: { reward: safety, pairs: given.pairs } },
      ...{ what: "labelled responses", of: 12, reasons: { [tag]: 1, [tooLong(context)]: 1 }, ids: ["q4/chosen", "q5/chosen"] }
    },
    "preference-texts": {
      ...{ stage: preferenceTexts, inputs: { preferences: given.pairs } },
      ...{ what: "dialogues", of: 12, reasons: { [tag]: 1 }, ids: ["q4/chosen"] }
    },
    "preference-demonstrations": {
      ...{ stage: preferenceDemonstrations, inputs: { preferences: given.pairs } },
      ...{ what: "dialogues", of: 6, reasons: { [tag]: 1 }, ids: ["q4"] }
    },
    "preference-prompts": {
      stage: preferencePrompts,
      inputs: { preferences: await rowsArtifact(Preferences, [{ ...pairs[0]!, prompt: [user("<<SYS>>")] }, pairs[1]!]) },
      ...{ what: "prompts", of: 2, reasons: { [tag]: 1 }, ids: ["q0"] }
    },
    "safe-demonstrations": {
      ...{ stage: safeDemonstrations, inputs: { preferences: given.pairs } },
      ...{ what: "safe dialogues", of: 6, reasons: { [tag]: 1 }, ids: ["q4"] }
    },
    sample: { ...asked, stage: sample, inputs: { policy, prompts: given.prompts }, config: { ...sampling, k: 2 } },
    "collect-pairs": {
      ...asked,
      ...{ stage: collectPairs, inputs: { first: policy, second, prompts: given.prompts }, config: { ...sampling, redraws: 0 } }
    },
    ppo: {
      ...asked,
      // One for the token that values reach past the end, which only training needs.
      reasons: { [tag]: 1, [tooLong(room - 2)]: 1 },
      ...{ stage: ppo, inputs: { policy, helpfulness, prompts: given.prompts } },
      config: { ...sampling, iterations: 1, batchSize: 2, miniBatchSize: 2, microBatchSize: 1 }
    },
    "ghost-instructions": {
      stage: ghostInstructions,
      inputs: { prompts: await rowsArtifact(Prompts, [ask("a", "b", { followUps: ["a"] }), ask("t", "b", { followUps: ["[/INST]"] })]) },
      ...{ what: "prompts", of: 2, reasons: { [tag]: 1 }, ids: ["t"] }
    },
    "ghost-training-data": {
      stage: ghostTrainingData,
      inputs: { samples: await rowsArtifact(GhostSamples, [answered([user("a"), user("b")], 2), answered([user("a"), user("b")], 1)]) },
      ...{ what: "dialogues", of: 2, reasons: { "with fewer than two answers": 1 }, ids: ["g"], unlimited: true }
    },
    score: { ...ofCompletions, stage: score, inputs: { completions: given.completions, reward: helpfulness } },
    "score-combined": { ...ofCompletions, stage: scoreCombined, inputs: { completions: given.completions, helpfulness, safety } },
    "safety-classifier-data": {
      ...{ stage: safetyClassifierData, inputs: { prompts: [], preferences: [labelled] }, config: { task } },
      ...{ what: "labelled responses", of: 10, reasons: { [empty]: 1 }, ids: ["response/q4/chosen"] }
    },
    "safety-classifier": {
      ...{ stage: safetyClassifier, inputs: { init: policy, examples }, config: training },
      ...{ what: "examples", of: 18, reasons: { [tooLong(context)]: 2 }, ids: ["prompt/p5", "response/q5/chosen"] }
    },
    "classify-prompts": {
      ...{ stage: classifyPrompts, inputs: { classifier, prompts: given.prompts }, config: { task } },
      ...{ what: "prompts", of: 6, reasons: beyond, ids: ["p5"] }
    },
    "classify-completions": {
      ...{ stage: classifyCompletions, inputs: { classifier, completions: given.completions }, config: { task } },
      ...{ what: "completions", of: 7, reasons: beyond, ids: ["p5#0"], unlimited: true }
    },
    "evaluate-classifier": {
      ...{ stage: evaluateClassifier, inputs: { classifier, prompts: [given.prompts], preferences: [] }, config: { task } },
      ...{ what: "texts", of: 6, reasons: beyond, ids: ["prompt/p5"] }
    },
    "win-rate": { ...alone, stage: winRate, inputs: { ours, opponent: theirs } },
    "pair-completions": {
      ...alone,
      stage: pairCompletions,
      inputs: {
        ours: await rowsArtifact(
          Completions,
          ["a", "b", "c"].map((id) => completion(id, 0, "x"))
        ),
        opponent: await rowsArtifact(
          Completions,
          ["a", "d"].map((id) => completion(id, 0, "y"))
        )
      }
    },
    "reward-hacking": { ...alone, stage: rewardHacking, inputs: { scored: [ours], general: [theirs] }, config: { names: ["v1"] } },
    "evaluate-best-of-n": {
      ...{ stage: evaluateBestOfN, inputs: { selector: ours, evaluator: theirs } },
      ...{ what: "completions", of: 3, reasons: { "without a score from the evaluator": 2 }, ids: ["b#0", "c#0"], unlimited: true }
    },
    "self-bleu": {
      stage: selfBleu,
      inputs: {
        completions: [await rowsArtifact(Completions, [completion("a", 0, "x"), completion("a", 1, "y"), completion("b", 0, "x")])]
      },
      ...{ config: { names: ["v1"] }, what: 'prompts of "v1"', of: 2, ids: ["b"], unlimited: true },
      reasons: { "with fewer than two answers that are not empty": 1 }
    },
    "temperature-sweep": {
      stage: temperatureSweep,
      inputs: {
        scored: [
          await rows(scored("a", 0, 1), scored("b", 0, 1)),
          await rows(scored("a", 0, 1, { temperature: 2 }), scored("b", 0, 1, { temperature: 2, finished: false }))
        ]
      },
      ...{ what: "prompts", of: 2, ids: ["b"], unlimited: true },
      reasons: { "without a sample to choose at every temperature": 1 }
    }
  }
})

const names = [
  ...["sft", "helpfulness-reward-model", "safety-reward-model", "general-reward-model", "score-pairs", "safety-recall"],
  ...["preference-texts", "preference-demonstrations", "preference-prompts", "safe-demonstrations", "sample", "collect-pairs", "ppo"],
  ...["ghost-instructions", "ghost-training-data", "score", "score-combined", "safety-classifier-data", "safety-classifier"],
  ...["classify-prompts", "classify-completions", "evaluate-classifier", "win-rate", "pair-completions", "reward-hacking"],
  ...["evaluate-best-of-n", "self-bleu", "temperature-sweep"]
]

describe("rows that can't be used", () => {
  it.each(names)("by the stage %s are counted by reason and listed", async (name) => {
    const { config = {}, ids, inputs, of, reasons, stage, what } = cases[name]!
    const made = await runStage(stage, inputs, config)
    expect(made.skipped).toEqual([{ what, of, skipped: ids.length, reasons }])
    expect(made.skippedRows.map(({ id }) => id)).toEqual(ids)
    for (const { row } of made.skippedRows) expect(row).toBeTypeOf("object")
  })

  it("of every stage are tested here", () => {
    expect(Object.keys(cases)).toEqual(names)
  })

  it.each(names)("by the stage %s stop it above the limit, unless a model made them", async (name) => {
    const { config = {}, ids, inputs, of, stage, unlimited, what } = cases[name]!
    const made = unlimited === true ? (await runStage(stage, inputs, config, 1, null)).skipped : []
    expect(made).toHaveLength(unlimited === true ? 1 : 0)
    const message = await failureOf(stage, inputs, config, unlimited === true || ids.length / of <= 0.2 ? 0.01 : null)
    expect(message).toContain(`Stage ${name} skipped ${ids.length} of ${of} ${what}`)
    expect(message).toContain(`The first: "${ids[0]}"`)
    expect(message).not.toContain(".. At most")
  })

  it("of a judge's invalid answers are reported; the judge has its own limit for them", async () => {
    let asked = 0
    const verdict = JSON.stringify({ better: 1, rating: 0 })
    const server = createServer((_, response) => {
      const content = asked++ % 2 === 0 ? "I would rather not say." : verdict
      response.end(JSON.stringify({ choices: [{ message: { content } }] }))
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    try {
      const judged = await rowsArtifact(ResponsePairs, [responsePair("a", "q", "x", "y"), responsePair("b", "q", "y", "z")])
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
      const made = await runStage(
        annotate,
        { pairs: judged },
        { annotator: "judge", url, model: "m", maxUnreadable: 0.5, concurrency: 1 },
        1,
        null
      )
      expect(made.skipped).toMatchObject([{ what: "pairs", of: 2, reasons: { "on which the judge's answer is not a verdict": 1 } }])
      expect(made.skippedRows).toMatchObject([{ id: "a", row: { responseA: "x" } }])
    } finally {
      server.close()
    }
  })
})
