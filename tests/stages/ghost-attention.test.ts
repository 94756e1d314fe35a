/** Ghost Attention (§3.3): where the instruction stands when sampling and when training, what carries loss, and what is kept. */
import { describe, expect, it } from "vitest"
import { Demonstrations, type Message, Prompts } from "../../schemas/rows.ts"
import {
  dialogueTo,
  evaluateGhostAttention,
  GhostAttentionReport,
  type GhostDialogue,
  GhostDialogues,
  ghostInstructions,
  ghostRows,
  ghostSample,
  GhostSamples,
  ghostTrainingData
} from "../../stages/ghost-attention.ts"
import { encodeDemonstrations } from "../../stages/sft.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "./running.ts"
import { ask, talkingPolicy, tokenizer } from "./talking.ts"

const dialogue: GhostDialogue = {
  id: "d",
  instruction: "bab",
  trainedInstruction: "bb",
  questions: ["a", "aa", "aaa"],
  mustContain: ["b"]
}
const answers = ["ba", "baa", "baaa"]
const user = (content: string): Message => ({ role: "user", content })
const assistant = (content: string): Message => ({ role: "assistant", content })

describe("the instruction", () => {
  it("is in front of every user message when sampling, and of the first alone in training (statement 23)", () => {
    expect(dialogueTo(dialogue, answers, 2, "bab", "every turn")).toEqual([
      user("bab a"),
      assistant("ba"),
      user("bab aa"),
      assistant("baa"),
      user("bab aaa")
    ])
    expect(ghostRows([{ ...dialogue, answers }])).toEqual([
      { id: "d-2", messages: [user("bb a"), assistant("ba"), user("aa"), assistant("baa")], loss: "last-answer" },
      {
        id: "d-3",
        messages: [user("bb a"), assistant("ba"), user("aa"), assistant("baa"), user("aaa"), assistant("baaa")],
        loss: "last-answer"
      }
    ])
  })
  it("reaches training with loss on the last answer and its end alone: zero on all earlier turns (statement 23)", () => {
    const { examples } = encodeDemonstrations(tokenizer, ghostRows([{ ...dialogue, answers }]), 1000)
    const trained = examples.map(({ tokens, lossMask }) => tokens.filter((_, i) => lossMask[i]))
    const ids = (answer: string) => [
      ...tokenizer.encode(`[INST] x [/INST] ${answer} `).slice(tokenizer.encode("[INST] x [/INST]").length),
      tokenizer.eosId
    ]
    expect(trained).toEqual([ids("baa"), ids("baaa")])
  })
  it("of a dialogue that ended early trains the turns that are there; of one answer, none", () => {
    expect(ghostRows([{ ...dialogue, answers: answers.slice(0, 2) }]).map(({ id }) => id)).toEqual(["d-2"])
    expect(
      ghostRows([
        { ...dialogue, answers: ["ba"] },
        { ...dialogue, answers: [] }
      ])
    ).toEqual([])
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

  it("are shortened half the time for training, and stand in full for sampling", async () => {
    const rows = await make({ combine: 0 })
    expect(rows.every(({ instruction }) => instruction.startsWith("Speak like"))).toBe(true)
    const short = rows.filter(({ trainedInstruction }) => /^(One|Two|Three)\.$/.test(trainedInstruction)).length
    // Binomial(400, 1/2): three deviations are 30.
    expect(Math.abs(short - 200)).toBeLessThan(30)
    expect(
      rows.every(({ instruction, trainedInstruction }) => trainedInstruction === instruction || !trainedInstruction.includes("Speak"))
    ).toBe(true)
  })
  it("are combined of different kinds as often as asked", async () => {
    const rows = await make({ combine: 0.5, short: 0 })
    const combined = rows.filter(({ instruction }) => instruction.split("Speak").length === 3)
    expect(Math.abs(combined.length - 200)).toBeLessThan(30)
    expect(combined.every(({ instruction }) => instruction.includes("one"))).toBe(true)
    expect(combined.some(({ mustContain }) => mustContain.length === 2)).toBe(true)
  })
  it("come with the questions of a dialogue, as many as asked; prompts of several turns are left out and counted", async () => {
    expect((await make({ turns: 3 }))[0]!.questions).toEqual(["a", "b", "c"])
    const several = ask("x", "a", { messages: [user("a"), assistant("b"), user("c")] })
    const made = await runStage(ghostInstructions, { prompts: await rowsArtifact(Prompts, [several, prompts[0]!]) }, { constraints })
    expect(made.metrics).toMatchObject({ dialogues: 1, leftOut: 1 })
    expect(await failureOf(ghostInstructions, { prompts: await rowsArtifact(Prompts, [several]) })).toMatch(
      /Nothing to put instructions on/
    )
  })
})

describe("dialogues with a policy", () => {
  const rows: ReadonlyArray<GhostDialogue> = Array.from({ length: 6 }, (_, i) => ({
    ...dialogue,
    id: `${i}`,
    questions: ["a", "ab", "aba"].slice(0, 1 + (i % 3))
  }))
  /** Answers "b" to what begins with "b", "a" to everything else: heeds an instruction in the last message, and forgets it after. */
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
    expect(samples.metrics).toMatchObject({ dialogues: 6, whole: 6, endedEarly: 0 })
    expect(await rowsIn(await runStage(ghostSample, { policy, dialogues }, { ...sampling, batchSize: 1 }), GhostSamples)).toEqual(found)
    const data = await rowsIn(await runStage(ghostTrainingData, { samples }), Demonstrations)
    expect(data.map(({ id }) => id)).toEqual(["1-2", "2-2", "2-3", "4-2", "5-2", "5-3"])
    expect(
      data.every(({ messages, loss }) => loss === "last-answer" && messages.filter(({ content }) => content.includes("b a")).length <= 1)
    ).toBe(true)
  })
  it("are checked turn by turn with the instruction in the first alone: a forgetful model keeps it there and no longer", async () => {
    const policy = await forgetful()
    const dialogues = await rowsArtifact(GhostDialogues, [...rows, { ...dialogue, id: "unchecked", mustContain: [] }])
    const report = await reportIn(await runStage(evaluateGhostAttention, { policy, dialogues }, sampling), GhostAttentionReport)
    expect(report.dialogues).toBe(6)
    expect(report.byTurn.map(({ turn, dialogues: n, kept }) => [turn, n, kept.mean])).toEqual([
      [1, 6, 1],
      [2, 4, 0],
      [3, 2, 0]
    ])
    expect(report.examples).toHaveLength(3)
    expect(report.examples[2]).toMatchObject({ instruction: "bab", answers: ["b", "a", "a"], kept: [true, false, false] })
  })
  it("that can't be checked, or are none, are an error", async () => {
    const policy = await talkingPolicy(1)
    const unchecked = await rowsArtifact(GhostDialogues, [{ ...dialogue, mustContain: [] }])
    expect(await failureOf(evaluateGhostAttention, { policy, dialogues: unchecked })).toMatch(
      /1 dialogues, none with a text that answers must contain/
    )
    expect(await failureOf(ghostSample, { policy, dialogues: await rowsArtifact(GhostDialogues, []) })).toMatch(/got no dialogues/)
  })
})
