/** Ghost Attention (§3.3), dialogue by dialogue: turns are sampled independently, and an instruction of two parts is kept if both are. */
import { describe, expect, it } from "vitest"
import type { Message } from "../../../schemas/rows.ts"
import { evaluateGhostAttention, GhostAttentionReport } from "../../../stages/ghost-attention/evaluate.ts"
import { type GhostDialogue, GhostDialogues } from "../../../stages/ghost-attention/instructions.ts"
import { ghostSample, GhostSamples } from "../../../stages/ghost-attention/sample.ts"
import { reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { talkingPolicy } from "../talking.ts"

const turn = (question: string, answer: string): Array<Message> => [
  { role: "user", content: question },
  { role: "assistant", content: answer }
]
const dialogue = (id: string, over: Partial<GhostDialogue> = {}): GhostDialogue => ({
  ...{ id, instruction: "ab", trainedInstruction: "ab", questions: ["a", "a", "a"], mustContain: [] },
  ...over
})

describe("the turns of a dialogue", () => {
  it("agree with each other as often as independently sampled answers", async () => {
    // Says one of three things whatever the question, so that answers of turns are independent.
    const policy = await talkingPolicy(
      1,
      ["a", "b", "ba"].flatMap((one) => ["a", "b", "ba"].map((two) => [...turn("ab a", one), ...turn("ab a", two)]))
    )
    const dialogues = await rowsArtifact(
      GhostDialogues,
      Array.from({ length: 120 }, (_, i) => dialogue(`${i}`, { questions: ["a", "a"] }))
    )
    const rows = await rowsIn(await runStage(ghostSample, { policy, dialogues }, { temperature: 1, maxNewTokens: 6 }), GhostSamples)
    const pairs = rows.flatMap(({ answers: [first, second] }) => (second === undefined ? [] : [[first!, second] as const]))
    expect(pairs.length).toBeGreaterThan(60)
    // Of n independent pairs, n sum(p1 p2) agree, where p1 and p2 are the shares of an answer among first and second ones.
    const share = (place: 0 | 1, text: string) => pairs.filter((pair) => pair[place] === text).length / pairs.length
    const q = [...new Set(pairs.map(([first]) => first))].reduce((sum, text) => sum + share(0, text) * share(1, text), 0)
    const agree = pairs.filter(([first, second]) => first === second).length
    console.log(
      pairs.length,
      q,
      agree,
      rows
        .slice(0, 20)
        .map((r) => r.answers.join("|") + r.ended)
        .join(" ")
    )
    expect(q).toBeLessThan(0.6)
    expect(Math.abs(agree - pairs.length * q)).toBeLessThan(4 * Math.sqrt(pairs.length * q * (1 - q)))
  })
})

describe("an answer that must contain several texts", () => {
  it("keeps its instruction if it contains all of them, ignoring case, and not if it contains some", async () => {
    // Answers "ab" to everything.
    const policy = await talkingPolicy(
      2,
      ["a", "b", "ba"].map((question) => turn(`ab ${question}`, "ab"))
    )
    const asked = [["a", "b"], ["A", "aB"], ["a", "c"], ["c", "a"], ["c"]]
    const dialogues = await rowsArtifact(
      GhostDialogues,
      asked.map((mustContain, i) => dialogue(`${i}`, { mustContain, questions: ["a"] }))
    )
    const report = await reportIn(
      await runStage(evaluateGhostAttention, { policy, dialogues }, { temperature: 0, maxNewTokens: 8, examples: 5 }),
      GhostAttentionReport
    )
    expect(report.examples.map(({ answers }) => answers)).toEqual(asked.map(() => ["ab"]))
    expect(report.kept.map(({ byTurn }) => byTurn)).toEqual([[true], [true], [false], [false], [false]])
    expect(report.byTurn[0]!.kept.mean).toBe(2 / 5)
  })
})
