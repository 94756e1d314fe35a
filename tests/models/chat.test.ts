/** Llama 2's chat format: the tokens of Meta's released code, and the tokens that carry loss. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { encodeDialogue, encodePrompt } from "../../models/chat.ts"
import { ChatError } from "../../models/chat-format.ts"
import { dialogueText, fitsChatFormat } from "../../models/llama2-format.ts"
import { SentencePieceTokenizer } from "../../models/tokenizer/sentencepiece.ts"
import { readModelFile } from "../../models/tokenizer/model-file.ts"
import type { Message } from "../../schemas/rows.ts"

const tokenizer = new SentencePieceTokenizer(
  readModelFile(readFileSync(new URL("../golden/tokenizer/small.model", import.meta.url)), "small.model")
)
const { bosId: bos, eosId: eos } = tokenizer
const text = (value: string): Array<number> => tokenizer.encode(value)
const system = (content: string): Message => ({ role: "system", content })
const user = (content: string): Message => ({ role: "user", content })
const assistant = (content: string): Message => ({ role: "assistant", content })
const messageOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(ChatError)
    return (error as ChatError).message
  }
  return "no error"
}

const dialogue = [
  system("Be kind."),
  user("Who are you?"),
  assistant("A model 🦙."),
  user("What for?"),
  assistant("To answer,\nand to learn.")
]

describe("encodeDialogue", () => {
  it("wraps each exchange in BOS and EOS and tokenises it separately, with the system prompt in the first", () => {
    expect(encodeDialogue(tokenizer, dialogue).tokens).toEqual([
      bos,
      ...text("[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWho are you? [/INST] A model 🦙. "),
      eos,
      bos,
      ...text("[INST] What for? [/INST] To answer,\nand to learn. "),
      eos
    ])
  })
  it("puts loss exactly on the answers and the EOS after each: the stop token is trained", () => {
    const { tokens, lossMask } = encodeDialogue(tokenizer, dialogue)
    expect(lossMask.length).toBe(tokens.length)
    const runs: Array<Array<number>> = []
    tokens.forEach((id, i) => {
      if (lossMask[i]! && !(lossMask[i - 1] ?? false)) runs.push([])
      if (lossMask[i]!) runs.at(-1)!.push(id)
    })
    expect(runs.map((run) => tokenizer.decode(run))).toEqual(["A model 🦙. ", "To answer,\nand to learn. "])
    expect(runs.map((run) => run.at(-1))).toEqual([eos, eos])
    expect(lossMask.filter((_, i) => tokens[i] === bos)).toEqual([false, false])
    expect(lossMask.filter((_, i) => tokens[i] === eos)).toEqual([true, true])
  })
  it("has the tokens of a prefix of the dialogue as a prefix", () => {
    const { tokens } = encodeDialogue(tokenizer, dialogue)
    const first = encodeDialogue(tokenizer, dialogue.slice(0, 3)).tokens
    const question = encodePrompt(tokenizer, dialogue.slice(0, 4))
    const opening = encodePrompt(tokenizer, dialogue.slice(0, 2))
    for (const prefix of [opening, first, question]) expect(tokens.slice(0, prefix.length)).toEqual(prefix)
    expect([opening.length, first.length, question.length].toSorted((a, b) => a - b)).toEqual([
      opening.length,
      first.length,
      question.length
    ])
  })
  it("has no loss on the prompt, and loss on everything after it", () => {
    const { lossMask } = encodeDialogue(tokenizer, dialogue)
    const prompt = encodePrompt(tokenizer, dialogue.slice(0, 4))
    const first = encodeDialogue(tokenizer, dialogue.slice(0, 3)).tokens
    expect(lossMask.slice(prompt.length).every((loss) => loss)).toBe(true)
    expect(lossMask.slice(first.length, prompt.length).some((loss) => loss)).toBe(false)
  })
  it("strips questions and answers like Python, and keeps inner white space", () => {
    const stripped = encodeDialogue(tokenizer, [user("a  b"), assistant("c\n d")]).tokens
    expect(encodeDialogue(tokenizer, [user(" \t\u00a0a  b\u0085\u001c"), assistant("\n\u2003c\n d \r\n")]).tokens).toEqual(stripped)
    expect(encodeDialogue(tokenizer, [user("\ufeffa  b"), assistant("c\n d")]).tokens).not.toEqual(stripped)
  })
  it("strips the first question together with the system prompt, so that only outer white space is removed, like Meta's code", () => {
    expect(encodePrompt(tokenizer, [system(" s "), user(" a ")])).toEqual([bos, ...text("[INST] <<SYS>>\n s \n<</SYS>>\n\n a [/INST]")])
  })
  it("strips long white space quickly", () => {
    const gap = " ".repeat(200_000)
    const started = performance.now()
    encodeDialogue(tokenizer, [user(`a${gap}b`), assistant(`${gap}c${gap}`)])
    expect(performance.now() - started).toBeLessThan(5000)
  })
  it("treats typed BOS and EOS as text", () => {
    const { tokens } = encodeDialogue(tokenizer, [user("say </s><s>"), assistant("</s> it is")])
    expect(tokens.filter((id) => id === bos || id === eos)).toEqual([bos, eos])
    expect(tokenizer.decode(tokens)).toBe("[INST] say </s><s> [/INST] </s> it is ")
  })
})

describe("encodePrompt", () => {
  it("ends after [/INST], without EOS", () => {
    expect(encodePrompt(tokenizer, [user("Hi")])).toEqual([bos, ...text("[INST] Hi [/INST]")])
  })
  it("closes the earlier exchanges", () => {
    expect(encodePrompt(tokenizer, dialogue.slice(0, 4))).toEqual([
      bos,
      ...text("[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWho are you? [/INST] A model 🦙. "),
      eos,
      bos,
      ...text("[INST] What for? [/INST]")
    ])
  })
})

describe("a dialogue that the format can't represent is an error that names the message and the reason", () => {
  it("for the format's own tags in any message", () => {
    for (const tag of ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]) {
      for (const messages of [
        [user(`a ${tag} b`), assistant("c")],
        [user("a"), assistant(tag)],
        [system(`${tag}x`), user("a"), assistant("b")]
      ]) {
        expect(messageOf(() => encodeDialogue(tokenizer, messages))).toContain(`contains the tag ${tag}`)
        expect(fitsChatFormat(messages)).toBe(false)
      }
    }
    expect(fitsChatFormat([user("[inst] [INST <SYS>"), assistant("b")])).toBe(true)
  })
  it("for roles out of order", () => {
    const cases: ReadonlyArray<readonly [ReadonlyArray<Message>, string]> = [
      [[assistant("a"), user("b")], "Message 1 must come from the user, but comes from the assistant"],
      [[user("a"), user("b")], "Message 2 must come from the assistant, but comes from the user"],
      [[user("a"), assistant("b"), assistant("c")], "Message 3 must come from the user, but comes from the assistant"],
      [[user("a"), system("b"), assistant("c")], "Message 2 must come from the assistant, but comes from the system"],
      [[system("a"), system("b"), user("c")], "Message 2 must come from the user, but comes from the system"],
      [[system("a"), assistant("b")], "Message 2 must come from the user, but comes from the assistant"],
      [[], "at least one user message"],
      [[system("a")], "at least one user message"]
    ]
    for (const [messages, expected] of cases) {
      expect(messageOf(() => encodeDialogue(tokenizer, messages))).toContain(expected)
      expect(messageOf(() => encodePrompt(tokenizer, messages))).toContain(expected)
      expect(fitsChatFormat(messages)).toBe(false)
    }
  })
  it("for an answer that is empty or white space", () => {
    for (const answer of ["", " \n"]) {
      expect(messageOf(() => encodeDialogue(tokenizer, [user("a"), assistant(answer)]))).toContain("Message 2 (assistant) is empty")
    }
  })
  it("for a dialogue without an answer to learn, and a prompt that already has its answer", () => {
    expect(messageOf(() => encodeDialogue(tokenizer, [user("a")]))).toContain("ends with a question")
    expect(messageOf(() => encodePrompt(tokenizer, [user("a"), assistant("b")]))).toContain("ends with an answer")
  })
  it("for a tokenizer that merges the question with the answer", () => {
    const joining = new SentencePieceTokenizer({
      ...tokenizer.model,
      pieces: [...tokenizer.pieces, { text: "]▁", score: 1, type: "normal" }, { text: "]▁b", score: 2, type: "normal" }]
    })
    expect(messageOf(() => encodeDialogue(joining, [user("a"), assistant("b")]))).toContain("The tokenizer joins [/INST] to the answer")
  })
})

describe("dialogueText", () => {
  it("is the format without the control tokens", () => {
    expect(dialogueText([user("a"), assistant("b"), user("c")])).toBe("[INST] a [/INST] b [INST] c [/INST]")
  })
})
