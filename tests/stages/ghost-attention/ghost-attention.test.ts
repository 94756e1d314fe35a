/** Ghost Attention (§3.3): where the instruction is when sampling and when training, what carries loss, and what is kept. */
import { describe, expect, it } from "vitest"
import { encodePrompt } from "../../../models/chat.ts"
import { Demonstrations, Prompts } from "../../../schemas/rows.ts"
import { evaluateGhostAttention, GhostAttentionReport } from "../../../stages/ghost-attention/evaluate.ts"
import { type GhostDialogue, GhostDialogues, ghostInstructions } from "../../../stages/ghost-attention/instructions.ts"
import { dialogueTo, type GhostSample, ghostSample, GhostSamples } from "../../../stages/ghost-attention/sample.ts"
import { ghostRows, ghostTrainingData } from "../../../stages/ghost-attention/training-data.ts"
import { encodeDemonstrations } from "../encoded.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"
import { ask, assistant, user } from "../samples.ts"

const dialogue: GhostDialogue = {
  id: "d",
  instruction: "bab",
  trainedInstruction: "bb",
  questions: ["a", "aa", "aaa"],
  mustContain: ["b"]
}
const answers = ["ba", "baa", "baaa"]
const sampled: GhostSample = { ...dialogue, answers, ended: null }

/** A row's exchanges as text: the text between BOS and EOS. */
const exchangesIn = (tokens: ReadonlyArray<number>): Array<string> =>
  tokens
    .reduce<Array<Array<number>>>((runs, id) => {
      if (id === tokenizer.bosId) runs.push([])
      else if (id !== tokenizer.eosId) runs.at(-1)!.push(id)
      return runs
    }, [])
    .map((run) => tokenizer.decode(run))

describe("the instruction", () => {
  it("is before every user message when sampling, and only before the first in training (statement 23)", () => {
    expect(dialogueTo(dialogue, answers, 2, "bab", "every turn")).toEqual([
      user("bab a"),
      assistant("ba"),
      user("bab aa"),
      assistant("baa"),
      user("bab aaa")
    ])
    expect(ghostRows([sampled], "every-turn")).toEqual([
      { id: "d-2", messages: [user("bb a"), assistant("ba"), user("aa"), assistant("baa")], loss: "last-answer" },
      {
        id: "d-3",
        messages: [user("bb a"), assistant("ba"), user("aa"), assistant("baa"), user("aaa"), assistant("baaa")],
        loss: "last-answer"
      }
    ])
  })
  it("is in the sampling tokens once per turn, and once in the training tokens (statement 23)", () => {
    const prompt = encodePrompt(tokenizer, dialogueTo(dialogue, answers, 2, "bab", "every turn"))
    expect(exchangesIn(prompt)).toEqual(["[INST] bab a [/INST] ba ", "[INST] bab aa [/INST] baa ", "[INST] bab aaa [/INST]"])
    const checked = encodePrompt(tokenizer, dialogueTo(dialogue, answers, 2, "bab", "first turn"))
    expect(exchangesIn(checked)).toEqual(["[INST] bab a [/INST] ba ", "[INST] aa [/INST] baa ", "[INST] aaa [/INST]"])
    const { examples } = encodeDemonstrations(tokenizer, ghostRows([sampled], "every-turn"), 1000)
    expect(examples.map(({ tokens }) => exchangesIn(tokens))).toEqual([
      ["[INST] bb a [/INST] ba ", "[INST] aa [/INST] baa "],
      ["[INST] bb a [/INST] ba ", "[INST] aa [/INST] baa ", "[INST] aaa [/INST] baaa "]
    ])
  })
  it("reaches training with loss only on the last answer and its end: zero on all earlier turns (statement 23)", () => {
    const { examples } = encodeDemonstrations(tokenizer, ghostRows([sampled], "every-turn"), 1000)
    const trained = examples.map(({ tokens, lossMask }) => tokens.filter((_, i) => lossMask[i]))
    expect(trained.map((ids) => tokenizer.decode(ids).trim())).toEqual(["baa", "baaa"])
    expect(trained.map((ids) => ids.filter((id) => id === tokenizer.eosId).length)).toEqual([1, 1])
    expect(trained.map((ids) => ids.at(-1))).toEqual([tokenizer.eosId, tokenizer.eosId])
    // The tokens with loss are the end of the row, without a gap.
    for (const { lossMask } of examples) expect(lossMask.slice(lossMask.indexOf(true)).every(Boolean)).toBe(true)
  })
  it("of a dialogue that ended early trains the existing turns; with a single answer, none", () => {
    const ids = (count: number) => ghostRows([{ ...sampled, answers: answers.slice(0, count) }], "every-turn").map(({ id }) => id)
    expect([3, 2, 1, 0].map(ids)).toEqual([["d-2", "d-3"], ["d-2"], [], []])
  })
  it("is trained once per dialogue, at its last turn, on request", () => {
    const every = ghostRows([sampled], "every-turn")
    expect(ghostRows([sampled, { ...sampled, answers: ["ba"] }], "last-turn")).toEqual(every.slice(1))
  })
})

describe("instructions", () => {
  const prompts = Array.from({ length: 400 }, (_, i) => ask(`${i}`, "a", { followUps: ["b", "c", "d"] }))
  const constraints = [
    [{ full: "Speak like one.", short: "One.", mustContain: "one" }],
    [
      { full: "Speak like two.", short: "Two.", mustContain: "two" },
      { full: "Speak like three.", short: "Three.", mustContain: null }
    ]
  ]
  const make = async (config: Record<string, unknown>) =>
    rowsIn(await runStage(ghostInstructions, { prompts: await rowsArtifact(Prompts, prompts) }, { constraints, ...config }), GhostDialogues)

  it("are shortened half the time for training, and in their long form for sampling", async () => {
    const rows = await make({ combine: 0 })
    expect(rows.every(({ instruction }) => instruction.startsWith("Speak like"))).toBe(true)
    const short = rows.filter(({ trainedInstruction }) => /^(One|Two|Three)\.$/.test(trainedInstruction)).length
    // Binomial(400, 1/2): three deviations are 30.
    expect(Math.abs(short - 200)).toBeLessThan(30)
    expect(
      rows.every(({ instruction, trainedInstruction }) => trainedInstruction === instruction || !trainedInstruction.includes("Speak"))
    ).toBe(true)
  })
  it("are combined from different kinds as often as requested", async () => {
    const rows = await make({ combine: 0.5, short: 0 })
    const combined = rows.filter(({ instruction }) => instruction.split("Speak").length === 3)
    expect(Math.abs(combined.length - 200)).toBeLessThan(30)
    expect(combined.every(({ instruction }) => instruction.includes("one"))).toBe(true)
    expect(combined.some(({ mustContain }) => mustContain.length === 2)).toBe(true)
  })
  it("come with the questions of a dialogue, as many as requested; prompts of several turns are left out and counted", async () => {
    expect((await make({ turns: 3 }))[0]!.questions).toEqual(["a", "b", "c"])
    const several = ask("x", "a", { messages: [user("a"), assistant("b"), user("c")] })
    const tagged = ask("y", "a", { followUps: ["b", "[INST]"] })
    const made = await runStage(
      ghostInstructions,
      { prompts: await rowsArtifact(Prompts, [several, tagged, prompts[0]!]) },
      { constraints }
    )
    expect(made.metrics).toMatchObject({ dialogues: 1, leftOut: 2 })
    expect(await failureOf(ghostInstructions, { prompts: await rowsArtifact(Prompts, [several]) })).toMatch(
      /Nothing to put instructions on/
    )
  })
  it("need a second turn: prompts without followUps are rejected", async () => {
    const alone = await rowsArtifact(Prompts, [ask("x", "a"), ask("y", "b")])
    expect(await failureOf(ghostInstructions, { prompts: alone })).toMatch(/expected prompts with followUps.*found none among 2/)
    expect((await runStage(ghostInstructions, { prompts: alone }, { constraints, turns: 1 })).metrics).toMatchObject({ dialogues: 2 })
  })
})

describe("dialogues with a policy", () => {
  const rows: ReadonlyArray<GhostDialogue> = Array.from({ length: 6 }, (_, i) => ({
    ...dialogue,
    id: `${i}`,
    questions: ["a", "ab", "aba"].slice(0, 1 + (i % 3))
  }))
  /** Answers "b" to messages that begin with "b", "a" to everything else: follows an instruction in the last message, and forgets it afterwards. */
  const forgetful = () =>
    talkingPolicy(3, [
      ...["a", "ab", "aba"].map((question) => [user(`bab ${question}`), assistant("b")]),
      ...["a", "ab", "aba"].map((question) => [user(question), assistant("a")]),
      ...["ab", "aba"].map((question) => [user("bab a"), assistant("b"), user(question), assistant("a")]),
      ...["ab", "aba"].map((question) => [user("bab a"), assistant("b"), user(`bab ${question}`), assistant("b")]),
      [user("bab a"), assistant("b"), user("bab ab"), assistant("b"), user("bab aba"), assistant("b")],
      [user("bab a"), assistant("b"), user("ab"), assistant("a"), user("aba"), assistant("a")]
    ])
  const sampling = { temperature: 0, maxNewTokens: 8 }

  it("are sampled turn by turn with the instruction everywhere, and become demonstrations that have it once", async () => {
    const policy = await forgetful()
    const dialogues = await rowsArtifact(GhostDialogues, rows)
    const samples = await runStage(ghostSample, { policy, dialogues }, sampling)
    const found = await rowsIn(samples, GhostSamples)
    expect(found.map(({ answers }) => answers)).toEqual(rows.map(({ questions }) => questions.map(() => "b")))
    expect(samples.metrics).toMatchObject({ dialogues: 6, whole: 6, tooLong: 0, unfinished: 0, empty: 0, format: 0 })
    expect(await rowsIn(await runStage(ghostSample, { policy, dialogues }, { ...sampling, batchSize: 1 }), GhostSamples)).toEqual(found)
    const trained = await runStage(ghostTrainingData, { samples })
    expect(trained.metrics).toMatchObject({ dialogues: 6, singleTurn: 2, rows: 6 })
    const data = await rowsIn(trained, Demonstrations)
    expect(
      (await rowsIn(await runStage(ghostTrainingData, { samples }, { rows: "last-turn" }), Demonstrations)).map(({ id }) => id)
    ).toEqual(["1-2", "2-3", "4-2", "5-3"])
    expect(data.map(({ id }) => id)).toEqual(["1-2", "2-2", "2-3", "4-2", "5-2", "5-3"])
    expect(
      data.every(({ messages, loss }) => loss === "last-answer" && messages.filter(({ content }) => content.includes("b a")).length <= 1)
    ).toBe(true)
  })
  it("are checked turn by turn with the instruction only in the first: a forgetful model keeps it there and no longer", async () => {
    const policy = await forgetful()
    const dialogues = await rowsArtifact(GhostDialogues, [...rows, { ...dialogue, id: "unchecked", mustContain: [] }])
    const report = await reportIn(await runStage(evaluateGhostAttention, { policy, dialogues }, sampling), GhostAttentionReport)
    expect(report).toMatchObject({ dialogues: 6, unchecked: 1, endedEarly: { tooLong: 0, unfinished: 0, empty: 0, format: 0 } })
    // Wilson: n / (n + z^2) for six of six with z = 1.96; and 1 minus that for none.
    expect(report.byTurn[0]!.kept.low).toBeCloseTo(6 / (6 + 1.96 ** 2), 4)
    expect(report.byTurn[1]!.kept.high).toBeCloseTo(1 - 4 / (4 + 1.96 ** 2), 4)
    expect(report.kept).toEqual(rows.map(({ id, questions }) => ({ id, byTurn: [true, false, false].slice(0, questions.length) })))
    expect(report.byTurn.map(({ turn, dialogues: n, kept }) => [turn, n, kept.mean])).toEqual([
      [1, 6, 1],
      [2, 4, 0],
      [3, 2, 0]
    ])
    expect(report.examples).toHaveLength(3)
    expect(report.examples[2]).toMatchObject({ instruction: "bab", answers: ["b", "a", "a"], kept: [true, false, false] })
  })
  it("sample each turn with random numbers from the dialogue and the turn, independent of other samples", async () => {
    const policy = await forgetful()
    // A third of the first answers are not "b", on any machine: the probability that none of 48 is one is about one in ten million.
    const many = Array.from({ length: 8 }, (_, i) => rows.map((row) => ({ ...row, id: `${i}-${row.id}` }))).flat()
    const sample = async (some: ReadonlyArray<GhostDialogue>, batchSize: number) => {
      const made = await runStage(
        ghostSample,
        { policy, dialogues: await rowsArtifact(GhostDialogues, some) },
        { ...sampling, batchSize, temperature: 1.6 }
      )
      return new Map((await rowsIn(made, GhostSamples)).map((row) => [row.id, row]))
    }
    const all = await sample(many, 64)
    const apart = await sample(many.slice(1).toReversed(), 5)
    expect([...apart.values()]).toEqual(
      many
        .slice(1)
        .toReversed()
        .map(({ id }) => all.get(id))
    )
    // At this temperature dialogues with the same instruction diverge, and some get far.
    const firsts = [...all.values()].flatMap(({ answers }) => answers.slice(0, 1))
    expect(new Set(firsts).size).toBeGreaterThan(1)
    expect([...all.values()].some(({ answers }) => answers.length > 1)).toBe(true)
  })
  it("end if there is no space for another answer, instead of losing the turn with the instruction", async () => {
    const policy = await forgetful()
    const long = { ...rows[2]!, questions: ["a", "ab", "aba".padEnd(100, "b")] }
    const dialogues = await rowsArtifact(GhostDialogues, [long, { ...rows[2]!, id: "short" }])
    const samples = await runStage(ghostSample, { policy, dialogues }, sampling)
    expect((await rowsIn(samples, GhostSamples)).map(({ answers, ended }) => [answers.length, ended])).toEqual([
      [2, "too long"],
      [3, null]
    ])
    expect(samples.metrics).toMatchObject({ dialogues: 2, whole: 1, tooLong: 1 })
    const report = await reportIn(await runStage(evaluateGhostAttention, { policy, dialogues }, sampling), GhostAttentionReport)
    expect(report.byTurn.map(({ turn, dialogues: n }) => [turn, n])).toEqual([
      [1, 2],
      [2, 2],
      [3, 1]
    ])
    expect(report.endedEarly).toMatchObject({ tooLong: 1 })
    const dropped = await runStage(ghostSample, { policy, dialogues }, { ...sampling, endedEarly: "drop" })
    expect((await rowsIn(dropped, GhostSamples)).map(({ id }) => id)).toEqual(["short"])
    expect(dropped.metrics).toMatchObject({ dialogues: 2, whole: 1, tooLong: 1 })
  })
  it("end before an answer that was truncated or that the chat format can't represent, and are kept up to there or dropped", async () => {
    const policy = await talkingPolicy(4, [
      [user("bab a"), assistant("b")],
      [user("bab a"), assistant("b"), user("bab b"), assistant("bababababababa")],
      [user("bab a"), assistant("b"), user("bab a"), assistant("b")]
    ])
    const dialogues = await rowsArtifact(GhostDialogues, [
      { ...dialogue, id: "cut", questions: ["a", "b", "a"] },
      { ...dialogue, id: "tag", questions: ["a", "[INST]", "a"] },
      { ...dialogue, id: "whole", questions: ["a", "a"] }
    ])
    const short = { temperature: 0, maxNewTokens: 5 }
    const samples = await runStage(ghostSample, { policy, dialogues }, short)
    expect((await rowsIn(samples, GhostSamples)).map(({ id, answers, ended }) => [id, answers, ended])).toEqual([
      ["cut", ["b"], "unfinished"],
      ["tag", ["b"], "format"],
      ["whole", ["b", "b"], null]
    ])
    expect(samples.metrics).toMatchObject({ dialogues: 3, whole: 1, unfinished: 1, format: 1 })
  })
  it("that can't be checked, or are empty, are an error", async () => {
    const policy = await talkingPolicy(1)
    const unchecked = await rowsArtifact(GhostDialogues, [{ ...dialogue, mustContain: [] }])
    expect(await failureOf(evaluateGhostAttention, { policy, dialogues: unchecked })).toMatch(
      /1 dialogues, none with a text that answers must contain/
    )
    expect(await failureOf(ghostSample, { policy, dialogues: await rowsArtifact(GhostDialogues, []) })).toMatch(/got no dialogues/)
  })
  it("none of which gets an answer are an error that says why", async () => {
    const policy = await talkingPolicy(1)
    const dialogues = await rowsArtifact(GhostDialogues, rows)
    // More new tokens than the context of 160 holds.
    for (const stage of [ghostSample, evaluateGhostAttention])
      expect(await failureOf(stage, { policy, dialogues }, { maxNewTokens: 160 })).toMatch(
        /6 dialogues, none with an answer to its first question \(6 leave no space.* Lower maxNewTokens, or use a model with a longer context\.$/
      )
    expect(await failureOf(ghostSample, { policy, dialogues }, { maxNewTokens: 1, temperature: 0 })).toMatch(
      /6 answers are truncated.* Raise maxNewTokens; if the answers never end, train the model for more steps\.$/
    )
  })
})
