/** The report's figures on Ghost Attention: dialogues that end early, instructions not used in training, attention maps; and texts are escaped. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { type AttentionMap, AttentionMapReport } from "../../../stages/ghost-attention/attention-map.ts"
import { GhostAttentionReport } from "../../../stages/ghost-attention/evaluate.ts"
import { type GhostDialogue, GhostDialogues } from "../../../stages/ghost-attention/instructions.ts"
import { JudgedGhostAttentionReport, judgedOf } from "../../../stages/ghost-attention/judge.ts"
import { GhostSamples } from "../../../stages/ghost-attention/sample.ts"
import { chapters } from "../../../stages/report/chapters.ts"
import { drawFigure } from "../../../stages/report/draw.ts"
import { pageOf } from "../../../stages/report/page.ts"
import { type Result, Results } from "../../../stages/report/results.ts"
import { rowsArtifact } from "../running.ts"
import { reportArtifact, result } from "./run-results.ts"

const policy = (node: string): Result => ({
  ...{ node, stage: "sft", inputs: {}, config: {}, type: "checkpoint:policy", path: "/nowhere", digest: node, contentDigest: node }
})
const evil = "<script>alert(1)</script>\u202E"
const dialogue = (id: string, instruction: string, questions = 2): GhostDialogue => ({
  ...{ id, instruction, trainedInstruction: instruction, questions: ["q", "q", "q"].slice(0, questions), mustContain: ["x"] }
})
const evaluation = (kept: Record<string, Array<boolean>>, instruction: string) => ({
  ...{ dialogues: Object.keys(kept).length, unchecked: 0, byTurn: [], endedEarly: { tooLong: 0, unfinished: 1, empty: 0, format: 0 } },
  kept: Object.entries(kept).map(([id, byTurn]) => ({ id, byTurn })),
  examples: [{ instruction, questions: [evil, "q"], answers: [evil], kept: [true] }]
})
const map: AttentionMap = {
  ...{ dialogue: evil, instruction: evil, tokens: 4, tokensPerBin: 2 },
  parts: [
    { kind: "instruction", turn: 0, from: 0, to: 1 },
    { kind: "question", turn: 1, from: 1, to: 2 },
    { kind: "answer", turn: 1, from: 2, to: 4 }
  ],
  maps: (["without", "with"] as const).map((model) => ({ model, layers: 1, heads: 2, rows: [[1], [0.25, 0.5]] })),
  byAnswer: [{ turn: 1, without: 0.25, with: 0.75 }]
}
const shownIn = async (results: ReadonlyArray<Result>) => {
  const sections = await Effect.runPromise(chapters(new Results(results), []))
  const section = sections.find(({ title }) => title === "Ghost Attention")!
  return { ...section, all: [...(section.figures ?? []), ...(section.tables ?? [])] }
}

describe("the report on Ghost Attention", async () => {
  const seen = await rowsArtifact(GhostDialogues, [dialogue("a", "Trained."), dialogue("b", "Trained.")])
  const never = await rowsArtifact(GhostDialogues, [dialogue("a", evil), dialogue("b", evil, 1)])
  const samples = await rowsArtifact(GhostSamples, [
    { ...dialogue("t", "Trained. And more."), answers: ["x", "y"], ended: null },
    { ...dialogue("u", evil), answers: ["x"], ended: "unfinished" }
  ])
  const trainedOn = await rowsArtifact(GhostSamples, [{ ...dialogue("t", "Trained. And more."), answers: ["x"], ended: "unfinished" }])
  const evaluated = async (node: string, of: string, dialogues: string, kept: Record<string, Array<boolean>>) =>
    result(node, "evaluate-ghost-attention", await reportArtifact(GhostAttentionReport, evaluation(kept, evil)), { policy: of, dialogues })
  const results = [
    policy("before"),
    policy("after"),
    result("seen", "ghost-instructions", seen),
    result("never", "ghost-instructions", never),
    result("samples", "ghost-sample", samples, { policy: "after", dialogues: "seen" }),
    result("trained-on", "ghost-sample", trainedOn, { policy: "before", dialogues: "seen" }),
    result("data", "ghost-training-data", trainedOn, { samples: ["trained-on"] }),
    await evaluated("seen-before", "before", "seen", { a: [true, true], b: [true] }),
    await evaluated("never-after", "after", "never", { a: [true, false], b: [true] }),
    result(
      "judged",
      "judge-ghost-attention",
      await reportArtifact(
        JudgedGhostAttentionReport,
        judgedOf(evil, [{ ...dialogue("t", evil), answers: ["x", "y"], ended: null }], [[true, true]], 1)
      ),
      { samples: "samples" }
    ),
    result("map", "attention-map", await reportArtifact(AttentionMapReport, map))
  ]
  const shown = await shownIn(results)
  const rowsOf = (id: string) => shown.all.find((one) => one.id === id)!.rows

  it("counts a dialogue that ended early as not following its instruction, and shows the dialogues that continued next to it (table 30)", () => {
    const rows = rowsOf("ghost-attention").filter(({ model }) => model === "before")
    expect(rows.map(({ counted, dialogues, kept, turn }) => [turn, counted, dialogues, kept])).toEqual([
      [1, "of all dialogues with that turn", 2, 1],
      [2, "of all dialogues with that turn", 2, 0.5],
      [2, "of those that reached it", 1, 1]
    ])
  })
  it("shows instructions that occur in no training dialogue separately, and a dialogue of each model (figure 28)", () => {
    // The second dialogue has one question: at turn 2, one dialogue counts.
    expect(rowsOf("never-trained-instructions").map(({ dialogues, kept, model, turn }) => [model, turn, dialogues, kept])).toEqual([
      ["after", 1, 2, 1],
      ["after", 2, 1, 0]
    ])
    expect(shown.all.filter(({ id }) => id === "never-trained-instructions")).toHaveLength(2)
    // Values from the training data are found inside longer instructions.
    expect(rowsOf("ghost-attention").map(({ model }) => model)).toContain("before")
  })
  it("shows the judge's verdicts as a line, and next to those of the texts", () => {
    expect(rowsOf("ghost-attention").some(({ model }) => String(model).startsWith("after, by "))).toBe(true)
    const table = shown.tables!.find(({ id }) => id === "ghost-attention")!
    expect(table.rows).toMatchObject([{ model: "after", answers: 2, "agree on": 1, "only the judge": 1 }])
  })
  it("shows the maps of both models, and the attention to the instruction for each answer (figure 10)", () => {
    const rows = rowsOf("attention-map")
    expect(rows.map(({ key, model, query, weight }) => [model, query, key, weight])).toEqual(
      ["without Ghost Attention", "with it"].flatMap((model) => [
        [model, 0, 0, 1],
        [model, 1, 0, 0.25],
        [model, 1, 1, 0.5]
      ])
    )
    expect(rowsOf("instruction-attention").map(({ attention }) => attention)).toEqual([0.25, 0.75])
  })
  it("escapes texts of a model or a user", async () => {
    const page = await pageOf({ title: "x", about: [], sections: [shown] })
    expect(page).not.toContain("<script")
    expect(page).not.toContain("\u202E")
    expect(page).toContain("&lt;script&gt;")
    // The judge's name labels a line and has its colour.
    expect(page).toContain("after, by &lt;script&gt;")
  })
  it("uses all evaluations for table 30 if nothing was trained", async () => {
    const alone = await shownIn(results.filter(({ node }) => node !== "data"))
    expect(alone.all.some(({ id }) => id === "never-trained-instructions")).toBe(false)
  })
  it("shows a gap where a number is missing", async () => {
    const [figure] = shown.figures!.filter(({ id }) => id === "instruction-attention")
    const gap = { ...figure!, rows: figure!.rows.map((row, i) => (i === 0 ? { ...row, attention: NaN } : row)) }
    expect(await drawFigure(gap, "page")).not.toContain("NaN")
  })
})
