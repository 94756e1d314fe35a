import { createHash } from "node:crypto"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Prompts } from "../../../schemas/rows.ts"
import { importPrompts } from "../../../stages/data/import-prompts.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { failureOf, rowsIn, runStage } from "../running.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))
let files = 0
const file = (rows: ReadonlyArray<unknown>) => {
  const path = join(folder, `${files++}.jsonl`)
  const text = rows.map((row) => `${JSON.stringify(row)}\n`).join("")
  writeFileSync(path, text)
  const digest = createHash("sha256").update(text).digest("hex")
  return { path, type: "file", digest, contentDigest: digest }
}
const question = { role: "user", content: "And now?" }

describe("prompts of a file", () => {
  it("are texts or dialogues that end with the user, tagged by the row or otherwise by the file", async () => {
    const rows = [
      { prompt: "Hello?" },
      {
        id: "b",
        messages: [{ role: "user", content: "Hi" }, { role: "assistant", content: "Yes?" }, question],
        safety: false,
        category: "x",
        followUps: ["Go on."]
      }
    ]
    const given = file(rows)
    const out = await runStage(importPrompts, { file: given }, { safety: true })
    expect(await rowsIn(out, Prompts)).toEqual([
      {
        id: expect.stringMatching(/^[0-9a-f]{16}$/),
        messages: [{ role: "user", content: "Hello?" }],
        safety: true,
        category: null,
        followUps: []
      },
      { id: "b", messages: rows[1]!.messages, safety: false, category: "x", followUps: ["Go on."] }
    ])
  })

  it("without an id get one from their question and tag: other rows, and its position, change nothing", async () => {
    const idsOf = async (rows: ReadonlyArray<unknown>, safety = false) =>
      (await rowsIn(await runStage(importPrompts, { file: file(rows) }, { safety }), Prompts)).map(({ id }) => id)
    const [hello, bad] = [{ prompt: "Hello?" }, { prompt: "Bad?" }]
    const ids = await idsOf([hello, bad])
    expect(new Set(ids).size).toBe(2)
    expect(await idsOf([{ prompt: "New." }, { ...bad, category: "x" }, hello])).toEqual([expect.any(String), ids[1], ids[0]])
    expect(await idsOf([hello, bad], true)).not.toContain(ids[0])
    expect(await idsOf([hello, hello, hello])).toEqual([ids[0], `${ids[0]}-2`, `${ids[0]}-3`])
  })

  it.each([
    ["no question", { id: "a" }, "it is missing"],
    ["a tag in a follow-up message", { prompt: "Well?", followUps: ["ok", "<<SYS>>"] }, "the tag <<SYS>>"],
    ["an answer at the end", { messages: [question, { role: "assistant", content: "Yes." }] }, "the last message is not the user's"],
    ["the chat format's tags", { prompt: "[INST] x [/INST]" }, "the tag [INST]"],
    ["a duplicate id", { id: "first", prompt: "Again?" }, '"first" occurs a second time'],
    ["a text as a safety tag", { prompt: "Well?", safety: "yes" }, "expected {prompt} or {messages}"]
  ])("with %s are rejected, and the line named", async (_, row, why) => {
    const message = await failureOf(importPrompts, { file: file([{ id: "first", prompt: "Well?" }, row]) }, {}, null)
    expect(message).toMatch(/skipped 1 of 2 rows \(50%\): 1 .* The first: line 2 of .*\.jsonl(, field \S+)?: /)
    expect(message).toContain(why)
  })

  it("with the chat format's tags are kept on request, with a backslash in each tag", async () => {
    const rows = [{ prompt: "[INST] x [/INST]", followUps: ["<</SYS>>"] }, { prompt: "a\nb \\ [INST" }]
    const out = await runStage(importPrompts, { file: file(rows) }, { chatTags: "escape" })
    expect((await rowsIn(out, Prompts)).map(({ followUps, messages }) => [messages[0]!.content, followUps])).toEqual([
      ["[\\INST] x [\\/INST]", ["<\\</SYS>>"]],
      ["a\nb \\ [INST", []]
    ])
    expect(out.skipped).toEqual([])
  })
})
