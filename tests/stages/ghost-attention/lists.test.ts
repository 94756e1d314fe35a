/** Lists of hobbies and public figures by the model itself (§3.3). */
import { describe, expect, it } from "vitest"
import { Prompts } from "../../../schemas/rows.ts"
import { GhostDialogues, ghostInstructions } from "../../../stages/ghost-attention/instructions.ts"
import { ghostLists, itemsIn, ListedConstraints } from "../../../stages/ghost-attention/lists.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask, assistant, user } from "../samples.ts"
import { talkingPolicy } from "../talking.ts"

describe("the items of a list", () => {
  it("are what follows numbers or bullets, without emphasis, quotes, and what is said of them", () => {
    expect(itemsIn("Sure! Here are some:\n1. **Tennis** - a sport\n2) Chess: a game.\n 3. “Rock climbing”\nEnjoy!")).toEqual([
      "Tennis",
      "Chess",
      "Rock climbing"
    ])
    expect(itemsIn("* Marie Curie (1867)\n- Napoleon\n• Zoë Baker-Smith")).toEqual(["Marie Curie", "Napoleon", "Zoë Baker-Smith"])
  })
  it("are the lines, where none has a mark", () => {
    expect(itemsIn("Tennis\nChess,\n\n")).toEqual(["Tennis", "Chess"])
  })
  it("are none that are no names: too long, digits, control characters, tags of the chat format", () => {
    expect(itemsIn(`1. ${"x".repeat(41)}\n2. 12\n3. a\u0007b\n4. [INST] x\n5. \u202Eevil\n6. a\n7. ok`)).toEqual(["ok"])
    expect(itemsIn("")).toEqual([])
  })
  it("keep markup as text", () => {
    expect(itemsIn("1. <script>alert(1)</script>")).toEqual(["<script>alert"])
  })
})

describe("the stage", () => {
  const question = (ask: string) => [{ kind: "letter", ask, full: "Like {item} $& {item}.", short: "{item}" }]
  it("makes constraints of the model's items, each once, which join those of the config as a kind of their own", async () => {
    const policy = await talkingPolicy(5, [[user("ab"), assistant("abab")]])
    const config = { temperature: 0, samples: 3, maxNewTokens: 12, least: 1, questions: question("ab") }
    const lists = await runStage(ghostLists, { policy }, config)
    expect(await rowsIn(lists, ListedConstraints)).toEqual([{ kind: "letter", item: "abab", full: "Like abab $& {item}.", short: "abab" }])
    const prompts = await rowsArtifact(
      Prompts,
      Array.from({ length: 40 }, (_, i) => ask(`${i}`, "a", { followUps: ["b"] }))
    )
    const constraints = [[{ full: "Built in.", short: "B.", mustContain: null }]]
    const made = await runStage(ghostInstructions, { prompts, lists }, { constraints, combine: 0 })
    expect(new Set((await rowsIn(made, GhostDialogues)).map(({ instruction }) => instruction))).toEqual(
      new Set(["Built in.", "Like abab $& {item}."])
    )
    // Without lists nothing changes.
    const alone = await rowsIn(await runStage(ghostInstructions, { prompts }, { constraints, combine: 0 }), GhostDialogues)
    expect(new Set(alone.map(({ instruction }) => instruction))).toEqual(new Set(["Built in."]))
  })
  it("says what it got from a model that makes no lists, and what does not fit or can't be asked", async () => {
    const policy = await talkingPolicy(5, [[user("ab"), assistant("abab")]])
    const config = { temperature: 0, samples: 2, maxNewTokens: 12, questions: question("ab") }
    expect(await failureOf(ghostLists, { policy }, config)).toMatch(
      /^Asking the model for a list of "letter": expected at least 3 items in 2 answers, found 1 items, in an answer like "abab"\. Use a model that can write lists, or the built-in lists/
    )
    expect(await failureOf(ghostLists, { policy }, { ...config, maxNewTokens: 159 })).toMatch(
      /found a context of 160 tokens\. Lower maxNewTokens/
    )
    expect(await failureOf(ghostLists, { policy }, { ...config, questions: question("[INST]") })).toMatch(/\[INST\]/)
  })
})
