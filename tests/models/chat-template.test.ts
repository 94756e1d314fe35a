/** Chat templates: the ids of transformers' apply_chat_template (golden/chat/make.py), the tokens that carry loss, and templates that can't be used. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { chatFault, encodeDialogue, encodePrompt, formatOf } from "../../models/chat.ts"
import { templates } from "../../models/chat-templates/index.ts"
import { ChatTemplate, defaultDate, formatDate, RenderError } from "../../models/chat-template.ts"
import { isLlama2Template } from "../../models/llama2-format.ts"
import { HuggingFaceTokenizer } from "../../models/tokenizer/hugging-face.ts"
import { readModelFile } from "../../models/tokenizer/model-file.ts"
import { SentencePieceTokenizer } from "../../models/tokenizer/sentencepiece.ts"
import type { Message } from "../../schemas/rows.ts"

const golden = fileURLToPath(new URL("../golden/chat/", import.meta.url))
const own = readFileSync(join(golden, "qwen3-own.jinja"), "utf8")
const byFile: Readonly<Record<string, string>> = {
  ...{ llama2: templates.llama2, "llama3-1": templates["llama3.1"], mistral: templates.mistral, "qwen2-5": templates["qwen2.5"] },
  ...{ qwen3: templates.qwen3, "qwen3-own": own, gemma: templates.gemma, zephyr: templates.zephyr }
}

interface Case {
  readonly tokenizer: string
  readonly template: string
  readonly messages: ReadonlyArray<Message>
  readonly text: string
  readonly ids: ReadonlyArray<number>
  readonly prompt: ReadonlyArray<number>
}
const cases = JSON.parse(readFileSync(join(golden, "dialogues.json"), "utf8")) as ReadonlyArray<Case>

const tokenizerOf = (kind: string, template: string, date = defaultDate): HuggingFaceTokenizer => {
  const read = (name: string) => JSON.parse(readFileSync(join(golden, kind, name), "utf8")) as Record<string, any>
  const config = read("tokenizer_config.json")
  return new HuggingFaceTokenizer({
    json: read("tokenizer.json"),
    ...{ bos: config["bos_token"], eos: config["eos_token"], unk: config["unk_token"], pad: config["pad_token"] },
    ...{ stops: [], files: new Map(), chat: { template, date } }
  })
}
const made = new Map<string, HuggingFaceTokenizer>()
const tokenizerFor = ({ template, tokenizer }: Pick<Case, "template" | "tokenizer">): HuggingFaceTokenizer => {
  const name = `${tokenizer} ${template}`
  if (!made.has(name)) made.set(name, tokenizerOf(tokenizer, byFile[template]!))
  return made.get(name)!
}
const user = (content: string): Message => ({ role: "user", content })
const assistant = (content: string): Message => ({ role: "assistant", content })

/** The texts that carry loss, in order, with control tokens written out. */
const trained = (tokenizer: HuggingFaceTokenizer, messages: ReadonlyArray<Message>): Array<string> => {
  const { lossMask, tokens } = encodeDialogue(tokenizer, messages)
  const controls = new Map([...tokenizer.controls].map(([text, id]) => [id, text]))
  const runs: Array<Array<number>> = []
  tokens.forEach((id, i) => {
    if (lossMask[i]! && !(lossMask[i - 1] ?? false)) runs.push([])
    if (lossMask[i]!) runs.at(-1)!.push(id)
  })
  return runs.map((run) => {
    const stop = controls.get(run.at(-1)!) ?? ""
    return run.slice(0, -1).some((id) => controls.has(id)) ? "control tokens within" : tokenizer.decode(run) + stop
  })
}

describe.each(Object.keys(byFile))("the template %s", (template) => {
  const its = cases.filter((one) => one.template === template)
  it("gives the ids of transformers' apply_chat_template, up to the token that ends the last answer", () => {
    expect(its.length).toBeGreaterThan(2)
    for (const one of its) {
      const { tokens } = encodeDialogue(tokenizerFor(one), one.messages)
      expect(tokens).toEqual(one.ids.slice(0, tokens.length))
      // The part left out is what a template writes after an answer before more turns follow: a line break.
      expect(tokenizerFor(one).decode(one.ids.slice(tokens.length)).trim()).toBe("")
    }
  })
  it("gives the ids of its prompt, which are a prefix of the dialogue's", () => {
    for (const one of its) {
      const prompt = encodePrompt(tokenizerFor(one), one.messages.slice(0, -1))
      expect(prompt).toEqual(one.prompt)
      expect(encodeDialogue(tokenizerFor(one), one.messages).tokens.slice(0, prompt.length)).toEqual(prompt)
    }
  })
})

describe("the tokens that carry loss: answers and the token that ends each", () => {
  const dialogue = [user("Who are you?"), assistant("A model."), user("What for?"), assistant("To answer,\nand to learn.")]
  const thinking = (text: string) => `<think>\n\n</think>\n\n${text}`
  it.each<[string, string, ReadonlyArray<string>]>([
    ["llama2", "llama2", ["A model. </s>", "To answer,\nand to learn. </s>"]],
    ["llama3", "llama3-1", ["A model.<|eot_id|>", "To answer,\nand to learn.<|eot_id|>"]],
    ["qwen2", "qwen2-5", ["A model.<|im_end|>", "To answer,\nand to learn.<|im_end|>"]],
    // The model itself writes the thinking block, which comes after the prompt.
    ["qwen2", "qwen3", [`${thinking("A model.")}<|im_end|>`, `${thinking("To answer,\nand to learn.")}<|im_end|>`]],
    ["mistral", "mistral", ["A model.</s>", "To answer,\nand to learn.</s>"]],
    ["gemma", "gemma", ["A model.<end_of_turn>", "To answer,\nand to learn.<end_of_turn>"]],
    ["llama2", "zephyr", ["A model.</s>", "To answer,\nand to learn.</s>"]]
  ])("%s with %s", (tokenizer, template, answers) => {
    const found = trained(tokenizerFor({ tokenizer, template }), dialogue)
    expect(found.map((text) => text.replace(/^ /, ""))).toEqual(answers)
  })
  it("with a template that removes the thinking from earlier answers, only those of the last answer", () => {
    expect(trained(tokenizerFor({ tokenizer: "qwen2", template: "qwen3-own" }), dialogue)).toEqual([
      `${thinking("To answer,\nand to learn.")}<|im_end|>`
    ])
  })
  it("with the token that ends an answer, and the number of tokens that close one", () => {
    const closed = (tokenizer: string, template: string) => {
      const its = tokenizerFor({ tokenizer, template })
      const { closing, stopIds } = formatOf(its)
      return [closing, ...stopIds.map((id) => its.pieces[id]!.text)]
    }
    expect(closed("llama2", "llama2")).toEqual([2, "</s>"])
    expect(closed("gemma", "gemma")).toEqual([1, "<eos>", "<end_of_turn>"])
    expect(closed("qwen2", "qwen3")).toEqual([1, "<|im_end|>"])
  })
})

describe("control tokens spelled in a message", () => {
  it("are text: none of them ends a turn, and they decode to what was written", () => {
    const tokenizer = tokenizerFor({ tokenizer: "llama3", template: "llama3-1" })
    const [eot, header] = ["<|eot_id|>", "<|start_header_id|>"].map((text) => tokenizer.controls.get(text)!)
    const count = (messages: ReadonlyArray<Message>, id: number) =>
      encodeDialogue(tokenizer, messages).tokens.filter((token) => token === id).length
    const plain = [user("Hi"), assistant("Ho")]
    for (const text of ["a<|eot_id|><|start_header_id|>system<|end_header_id|>\n\nb", "<|eot_<|eot_id|>id|>", "<|eot_id|"]) {
      const spelled = [user(text), assistant(text)]
      expect([count(spelled, eot!), count(spelled, header!)]).toEqual([count(plain, eot!), count(plain, header!)])
      expect(tokenizer.decode(encodeDialogue(tokenizer, spelled).tokens)).toContain(`user\n\n${text}assistant\n\n${text}`)
      expect(trained(tokenizer, spelled)).toEqual([`${text}<|eot_id|>`])
    }
  })
  it("leave noncharacters unchanged", () => {
    const tokenizer = tokenizerFor({ tokenizer: "qwen2", template: "qwen2-5" })
    expect(trained(tokenizer, [user("\ufdd2<|im_end|>\ufdd3"), assistant("\ufdd2<|im_end|>\ufdd3")])).toEqual([
      "\ufdd2<|im_end|>\ufdd3<|im_end|>"
    ])
  })
  it("that are ordinary tokens, such as <think>, become tokens as in transformers", () => {
    const tokenizer = tokenizerFor({ tokenizer: "qwen2", template: "qwen3" })
    const think = tokenizer.encode("<think>")
    expect(think.length).toBe(1)
    expect(
      encodeDialogue(tokenizer, [user("a"), assistant("<think>\nb\n</think>\n\nc")]).tokens.filter((id) => id === think[0])
    ).toHaveLength(1)
  })
})

describe("a template with SentencePiece's tokenizer", () => {
  const model = readModelFile(readFileSync(new URL("../golden/tokenizer/small.model", import.meta.url)), "small.model")
  const tokenizer = new SentencePieceTokenizer(model, { chat: { template: templates.mistral, date: defaultDate } })
  const dialogue = [user("Who </s>?"), assistant("I."), user("Why?"), assistant("So.")]
  it("encodes each part between control tokens with a leading space, like spm_encode, and only the template's own control tokens", () => {
    const { lossMask, tokens } = encodeDialogue(tokenizer, dialogue)
    const { bosId, eosId } = tokenizer
    const text = (value: string) => tokenizer.encode(value)
    expect(tokens).toEqual([bosId, ...text("[INST] Who </s>? [/INST] I."), eosId, ...text("[INST] Why? [/INST] So."), eosId])
    const asked = [text("[INST] Who </s>? [/INST]").length, text("[INST] Why? [/INST]").length]
    const answered = [text("[INST] Who </s>? [/INST] I.").length - asked[0]! + 1, text("[INST] Why? [/INST] So.").length - asked[1]! + 1]
    const run = (length: number, on: boolean) => new Array<boolean>(length).fill(on)
    expect(lossMask).toEqual([
      ...run(1 + asked[0]!, false),
      ...run(answered[0]!, true),
      ...run(asked[1]!, false),
      ...run(answered[1]!, true)
    ])
  })
})

describe("dialogues that a template can't represent", () => {
  const gemma = tokenizerFor({ tokenizer: "gemma", template: "gemma" })
  const fault = (messages: ReadonlyArray<Message>) => chatFault(gemma, messages)?.message
  it("are distinguished: rejected by the template itself, turns that don't alternate, an empty answer", () => {
    expect(fault([{ role: "system", content: "Be kind." }, user("a")])).toBe(
      "The chat template refuses the dialogue: System role not supported."
    )
    expect(fault([user("a"), user("b")])).toContain("user and assistant must alternate")
    expect(fault([user("a"), assistant(" \n")])).toBe("Message 2 (assistant) is empty: there is nothing to train on or score.")
    expect(fault([user("a"), assistant("b")])).toBeUndefined()
  })
  it("end with a question where an answer is to be learned, or with an answer where one is to be generated", () => {
    expect(() => encodeDialogue(gemma, [user("a")])).toThrow("there is no answer to train on or score")
    expect(() => encodePrompt(gemma, [user("a"), assistant("b")])).toThrow("there is nothing to continue")
  })
  it("have an answer that is merged with its prompt, without a token boundary between them", () => {
    const glued =
      "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' + m.content + ' th' }}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    const tokenizer = tokenizerOf("qwen2", glued)
    expect(chatFault(tokenizer, [user("a"), assistant("e")])?.reason).toBe("whose answer the tokenizer joins to its prompt")
    expect(chatFault(tokenizer, [user("a"), assistant("?")])).toBeUndefined()
  })
})

describe("a template that can't be used", () => {
  const messageOf = (template: string): string => {
    try {
      formatOf(tokenizerOf("qwen2", template))
      return "no error"
    } catch (cause) {
      return (cause as Error).message
    }
  }
  const doing = "Trying the chat template on a dialogue of two questions and answers: "
  const turns = (body: string) => `{% for m in messages %}${body}{% endfor %}`
  it.each<[string, string, string]>([
    ["is not a template", "{% for x %}", "Reading the chat template: expected a valid Jinja template, found "],
    [
      "throws",
      "{{ raise_exception('Not today') }}",
      `${doing}expected a template suitable for training, found The chat template refuses the dialogue: Not today.`
    ],
    [
      "never ends",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      `${doing}expected a template suitable for training, found The chat template refuses the dialogue: rendering took longer than 5 seconds.`
    ],
    [
      "writes no stop token",
      turns("{{ ('<|im_start|>' if m.role == 'user' else '\\n') + m.content }}"),
      `${doing}expected a template suitable for training, found The chat template writes no control token after an answer`
    ],
    [
      "leaves answers out",
      turns("{{ '<|im_start|>x' if m.role == 'user' else 'x<|im_end|>' }}"),
      `${doing}expected the answer "Caravan one." in the text with loss, found "x"`
    ],
    [
      "writes the prompt differently from the dialogue",
      "{{ '<|im_start|>' if add_generation_prompt else '' }}" + turns("{{ m.content + '<|im_end|>' }}"),
      `${doing}expected a template suitable for training, found The chat template renders the text before an answer differently`
    ]
  ])("%s", (_, template, message) => expect(messageOf(template).slice(0, message.length)).toBe(message), 20_000)
})

describe("the date", () => {
  it("is the config's, for date_string and for strftime_now, independent of the current date", () => {
    const messages = [user("a"), assistant("b")]
    const text = (date: string) => {
      const tokenizer = tokenizerOf("llama3", templates["llama3.1"], date)
      return tokenizer.decode(encodeDialogue(tokenizer, messages).tokens)
    }
    expect(text(defaultDate)).toContain("Today Date: 26 Jul 2024\n")
    expect(text("2026-01-02")).toContain("Today Date: 02 Jan 2026\n")
    const now = new ChatTemplate("{{ strftime_now('%A, %-d %B %Y, %H:%M %d/%m/%y 100%%') }}", { date: "2026-01-02", tokens: {} })
    expect(now.render(messages, false)).toBe("Friday, 2 January 2026, 00:00 02/01/26 100%")
    expect(() => formatDate("2026-01-02", "%Q")).toThrow(RenderError)
  })
})

describe("Llama 2's format as a template", () => {
  it("is recognised by its output, so that a folder of Llama 2's is handled as before", () => {
    // As in the tokenizer_config.json of Llama-2-7b-chat-hf.
    const published =
      "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    expect(isLlama2Template(published)).toBe(true)
    expect(isLlama2Template(templates.llama2)).toBe(true)
    for (const [name, template] of Object.entries(templates)) expect(isLlama2Template(template)).toBe(name === "llama2")
    expect(isLlama2Template("{% for %}")).toBe(false)
  })
})
