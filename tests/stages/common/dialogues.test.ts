/** Dialogues cut to a model's context: the oldest exchanges are removed first. */
import { describe, expect, it } from "vitest"
import { encodeDialogue, encodePrompt } from "../../../models/chat.ts"
import type { Message } from "../../../schemas/rows.ts"
import { fitDialogue, fitPrompt } from "../../../stages/common/dialogues.ts"
import { smallTokenizer } from "../../models/small.ts"
import { encodeDemonstrations } from "../encoded.ts"
import { assistant, user } from "../samples.ts"

const tokenizer = smallTokenizer()
const system: Message = { role: "system", content: "be ab" }
const exchanges = [user("ab ab ab?"), assistant("ba."), user("why"), assistant("ab"), user("and then"), assistant("no more of it")]

describe.each([
  ["with a system prompt", [system]],
  ["without a system prompt", []]
])("a dialogue %s that ends with an answer", (_, first) => {
  const encoded = (kept: number) => encodeDialogue(tokenizer, [...first, ...exchanges.slice(-2 * kept)])
  const fitted = (length: number) => fitDialogue(tokenizer, [...first, ...exchanges], length)

  it("that fits is kept completely", () => {
    expect(fitted(encoded(3).tokens.length)).toEqual(encoded(3))
    expect(fitted(10_000)).toEqual(encoded(3))
  })
  it("loses its oldest exchanges until it fits, but never the system prompt", () => {
    expect(fitted(encoded(3).tokens.length - 1)).toEqual(encoded(2))
    expect(fitted(encoded(2).tokens.length - 1)).toEqual(encoded(1))
  })
  it("is dropped if the last exchange alone is too long", () => {
    expect(fitted(encoded(1).tokens.length)).toEqual(encoded(1))
    expect(fitted(encoded(1).tokens.length - 1)).toBeUndefined()
  })
})

describe.each([
  ["with a system prompt", [system]],
  ["without a system prompt", []]
])("a dialogue %s that ends with a question", (_, first) => {
  const asked = exchanges.slice(0, 5)
  const encoded = (kept: number) => encodePrompt(tokenizer, [...first, ...asked.slice(5 - kept)])
  const fitted = (length: number) => fitPrompt(tokenizer, [...first, ...asked], length)

  it("loses its oldest exchanges until it fits, but never the question", () => {
    expect(fitted(encoded(5).length)).toEqual(encoded(5))
    expect(fitted(encoded(5).length - 1)).toEqual(encoded(3))
    expect(fitted(encoded(3).length - 1)).toEqual(encoded(1))
    expect(fitted(encoded(1).length - 1)).toBeUndefined()
  })
})

describe("a dialogue that the chat format can't represent", () => {
  it("is dropped, whatever its length", () => {
    expect(fitDialogue(tokenizer, [user("a"), user("b"), assistant("c")], 1000)).toBeUndefined()
    expect(fitDialogue(tokenizer, [user("[INST]"), assistant("c")], 1000)).toBeUndefined()
    expect(fitPrompt(tokenizer, [assistant("a")], 1000)).toBeUndefined()
    expect(fitPrompt(tokenizer, [], 1000)).toBeUndefined()
  })
})

describe("demonstrations", () => {
  it("are examples in the given order, and those that do not fit are counted", () => {
    const short = [user("ab"), assistant("ba")]
    const long = [user("ab"), assistant("z".repeat(200))]
    const rows = [short, long, [user("ba"), assistant("ab")]].map((messages) => ({ messages, loss: "answers" as const }))
    const { examples, tooLong } = encodeDemonstrations(tokenizer, rows, 100)
    expect(examples).toEqual([encodeDialogue(tokenizer, short), encodeDialogue(tokenizer, [user("ba"), assistant("ab")])])
    expect(tooLong).toBe(1)
  })
  it("that the chat format can't represent are counted separately from long ones, and the first is named", () => {
    const rows = [
      { id: "long", messages: [user("ab"), assistant("z".repeat(200))] },
      { id: "tagged", messages: [user("see [INST]"), assistant("ba")] },
      { id: "both", messages: [user("see [INST]"), assistant("z".repeat(200))] },
      { id: "empty", messages: [user("ab"), assistant(" ")] },
      { id: "good", messages: [user("ab"), assistant("ba")] }
    ].map((row) => ({ ...row, loss: "answers" as const }))
    const { examples, ...leftOut } = encodeDemonstrations(tokenizer, rows, 100)
    expect(examples).toHaveLength(1)
    expect(leftOut).toEqual({
      ...{ tooLong: 1, format: 3 },
      firstFault: '"tagged": Message 1 (user) contains the tag [INST] of Llama 2\'s chat format. Remove the tag or the dialogue.'
    })
  })

  const turns = [user("ab"), assistant("ba"), user("aab"), assistant("bba"), user("b"), assistant("a")]
  const answered = (messages: typeof turns) => {
    const { tokens, lossMask } = encodeDialogue(tokenizer, messages)
    return tokens.filter((_, i) => lossMask[i])
  }

  it("carry loss on every answer and its end, or only on the last one's (§3.3: zero on all tokens of previous turns)", () => {
    const lossOf = (loss: "answers" | "last-answer") => {
      const { examples } = encodeDemonstrations(tokenizer, [{ messages: turns, loss }], 1000)
      const { tokens, lossMask } = examples[0]!
      expect(tokens).toEqual(encodeDialogue(tokenizer, turns).tokens)
      return tokens.filter((_, i) => lossMask[i])
    }
    const [first, second, third] = [turns.slice(0, 2), turns.slice(2, 4), turns.slice(4)].map(answered) as [number[], number[], number[]]
    expect([first, second, third].map((ids) => ids.at(-1))).toEqual([tokenizer.eosId, tokenizer.eosId, tokenizer.eosId])
    expect(lossOf("answers")).toEqual([...first, ...second, ...third])
    expect(lossOf("last-answer")).toEqual(third)
  })

  it("with loss on the last answer are left out if too long: without the first turn they would have another meaning", () => {
    const length = encodeDialogue(tokenizer, turns).tokens.length - 1
    const count = (loss: "answers" | "last-answer") => encodeDemonstrations(tokenizer, [{ messages: turns, loss }], length)
    expect(count("answers")).toMatchObject({ examples: [{}], tooLong: 0 })
    expect(count("last-answer")).toEqual({ examples: [], tooLong: 1, format: 0, firstFault: "" })
  })
})
