/** Whether an instruction is kept, according to the small world's oracle. */
import { describe, expect, it } from "vitest"
import { GhostAttentionReport } from "../../../stages/ghost-attention/evaluate.ts"
import { type GhostDialogue, GhostDialogues } from "../../../stages/ghost-attention/instructions.ts"
import { evaluateWorldGhostAttention } from "../../../stages/world/ghost-attention.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { talkingPolicy } from "../talking.ts"
import { assistant, user } from "../samples.ts"

describe("the small world's oracle as a check", () => {
  const world: GhostDialogue = {
    id: "w",
    instruction: "Start each answer with Yo.",
    trainedInstruction: "Start: Yo.",
    questions: ["Spell cat.", "Spell dog."],
    mustContain: []
  }
  const known = "Ann has a red cup and a blue box. What colour is the cup?"
  const heeding = () =>
    talkingPolicy(2, [
      [user("Start each answer with Yo. Spell cat."), assistant("Yo! b.")],
      [user(`Be brief. ${known}`), assistant("b.")],
      [user("Start each answer with Yo. Spell cat"), assistant("Yo! b.")],
      [user("Start each answer with Yo. Spell cat."), assistant("Yo! b."), user("Spell dog."), assistant("b.")]
    ])
  const sampling = { temperature: 0, maxNewTokens: 16 }

  it("reads the instruction from the first turn at every turn, and needs no texts", async () => {
    const report = await reportIn(
      await runStage(
        evaluateWorldGhostAttention,
        { policy: await heeding(), dialogues: await rowsArtifact(GhostDialogues, [world]) },
        sampling
      ),
      GhostAttentionReport
    )
    expect(report).toMatchObject({ dialogues: 1, unchecked: 0 })
    expect(report.examples[0]).toMatchObject({ answers: ["Yo! b.", "b."], kept: [true, false] })
  })
  it("fails on a foreign question or instruction, instead of counting it as not kept", async () => {
    // It must end its answers, otherwise there is nothing to check.
    const policy = await talkingPolicy(3, [
      [user(`Be brief. ${known}`), assistant("a")],
      [user(`${world.instruction} Spell cat`), assistant("a")]
    ])
    const fails = async (over: Partial<GhostDialogue>) =>
      failureOf(evaluateWorldGhostAttention, { policy, dialogues: await rowsArtifact(GhostDialogues, [{ ...world, ...over }]) }, sampling)
    expect(await fails({ instruction: "Be brief.", questions: [known] })).toMatch(
      /turn 1 of dialogue "w".*knows no instruction in "Be brief/
    )
    expect(await fails({ questions: ["Spell cat"] })).toMatch(/turn 1 of dialogue "w".*small world/)
  })
})
