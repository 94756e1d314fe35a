/** A judge's verdicts on instructions: compared with the check by texts, for dialogues that ended early, and with answers that contain no verdict. */
import { describe, expect, it } from "vitest"
import { judgedOf, judgeGhostAttention, JudgedGhostAttentionReport, readKept } from "../../../stages/ghost-attention/judge.ts"
import { type GhostSample, GhostSamples } from "../../../stages/ghost-attention/sample.ts"
import { judgeServer } from "../judge-server.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"

const sample = (id: string, answers: ReadonlyArray<string>, over: Partial<GhostSample> = {}): GhostSample => ({
  ...{ id, instruction: "End with Amen.", trainedInstruction: "End: Amen.", questions: ["one", "two", "three"], mustContain: ["amen"] },
  ...{ answers, ended: answers.length < 3 ? ("unfinished" as const) : null },
  ...over
})

describe("verdicts on dialogues", () => {
  const samples = [
    sample("a", ["Yes. Amen", "No. Amen", "So"]),
    sample("b", ["Amen."]),
    sample("c", ["Hi", "AMEN", "Amen"], { mustContain: [], instruction: "Be kind." })
  ]
  const found = judgedOf("judge", samples, [[true, false, false], [true], [true, null, true]], 1)
  it("count a dialogue that ended early as not following its instruction from there on, and leave out missing verdicts", () => {
    // Turn 2: a no, b ended, c without a verdict: none of two. Turn 3: a no, b ended, c yes: one of three.
    expect(found.byTurn.map(({ answered, dialogues, kept, turn }) => [turn, dialogues, answered, kept.mean])).toEqual([
      [1, 3, 3, 1],
      [2, 2, 1, 0],
      [3, 3, 2, 1 / 3]
    ])
    expect(found).toMatchObject({ dialogues: 3, noVerdict: 1, endedEarly: { unfinished: 1 } })
  })
  it("are compared with the check by texts, for instructions that have texts", () => {
    // a: yes/yes, no/yes, no/no; b: yes/yes; c has no text.
    expect(found.besideText).toEqual({ both: 2, neither: 1, judgeAlone: 0, textAlone: 1 })
    expect(judgedOf("judge", samples.slice(2), [[true, true, true]], 0).besideText).toBeNull()
    expect(found.examples).toEqual([
      { instruction: "End with Amen.", questions: ["one", "two", "three"], answers: samples[0]!.answers, kept: [true, false, false] }
    ])
  })
  it("are read from JSON only", () => {
    expect(['{"kept": true}', '```json\n{"kept":false}\n```'].map(readKept)).toEqual([true, false])
    expect(['{"kept": "yes"}', "yes", "null", "{}", "[true]", ""].map(readKept)).toEqual(new Array(6).fill(null))
  })
})

describe("the stage", () => {
  it("asks about each answer once, with its instruction and question; too many answers without a verdict stop it", async () => {
    const server = await judgeServer((question) => (question.includes("odd") ? "Well..." : `{"kept": ${question.includes("Amen.")}}`))
    try {
      const samples = await rowsArtifact(GhostSamples, [sample("a", ["Amen.", "x", "odd"]), sample("b", [])])
      const config = { url: server.url, model: "judge" }
      const made = await runStage(judgeGhostAttention, { samples }, config)
      const report = await reportIn(made, JudgedGhostAttentionReport)
      expect(server.questions).toHaveLength(3)
      expect(server.questions[0]).toMatch(/# Instruction\nEnd with Amen\.\n\n# Question 1\none\n\n# Answer\nAmen\.$/)
      // "End with Amen." is in each question: this judge accepts the second answer, the check by texts does not.
      expect(report.byTurn.map(({ dialogues, kept }) => [dialogues, kept.mean])).toEqual([
        [2, 0.5],
        [2, 0.5],
        [1, 0]
      ])
      expect(report).toMatchObject({ judge: "judge", noVerdict: 1, besideText: { both: 1, judgeAlone: 1 } })
      expect(made.skippedRows).toMatchObject([{ reason: "on which the judge's answer is not a verdict", id: "a, turn 3" }])
      expect(await failureOf(judgeGhostAttention, { samples }, { ...config, maxUnreadable: 0 })).toMatch(
        /The judge judge gave 1 of \d answers without a readable verdict \(nonsense or a refusal\), more than the share 0 of 3 that maxUnreadable allows/
      )
    } finally {
      await server.close()
    }
  })
  it("has nothing to ask about dialogues without answers", async () => {
    const samples = await rowsArtifact(GhostSamples, [sample("b", [])])
    expect(await failureOf(judgeGhostAttention, { samples }, { url: "http://127.0.0.1:1/v1", model: "judge" })).toMatch(
      /1 dialogues without answers/
    )
  })
})
