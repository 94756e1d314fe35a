/** Tokenizers from tokenizer.json: the ids of Hugging Face's own library (golden/chat/make.py), and what is rejected. */
import { readFileSync } from "node:fs"
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { loadTokenizer, writeTokenizer } from "../../models/tokenizer/files.ts"
import { HuggingFaceTokenizer, UnsupportedTokenizer } from "../../models/tokenizer/hugging-face.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"

const golden = fileURLToPath(new URL("../golden/chat/", import.meta.url))
const kinds = ["llama3", "qwen2", "mistral", "llama2", "gemma", "smollm"] as const
type Kind = (typeof kinds)[number]
type Entry = { readonly text: string } & Readonly<Record<Kind, { readonly ids: ReadonlyArray<number>; readonly text: string }>>
const entries = JSON.parse(readFileSync(join(golden, "encodings.json"), "utf8")) as ReadonlyArray<Entry>
const jsonOf = (kind: Kind) => JSON.parse(readFileSync(join(golden, kind, "tokenizer.json"), "utf8")) as Record<string, any>
const names = {
  bos: undefined,
  eos: undefined,
  unk: undefined,
  pad: undefined,
  stops: [0],
  chat: undefined,
  files: new Map<string, Uint8Array>()
}
const folders: Array<string> = []
/** A copy of a golden tokenizer's folder, with a template so that it needs no BOS. */
const copyOf = async (kind: Kind): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), "caravan-tokenizer-"))
  folders.push(folder)
  await cp(join(golden, kind), folder, { recursive: true })
  return folder
}
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))))
const load = (path: string) => Effect.runPromise(loadTokenizer(path))
const loadBare = (kind: Kind) => new HuggingFaceTokenizer({ ...names, json: jsonOf(kind) })

describe.each(kinds)("a tokenizer of %s's kind", (kind) => {
  const tokenizer = loadBare(kind)
  it(`gives the ids of Hugging Face's library for ${entries.length} difficult strings`, () => {
    for (const entry of entries)
      expect({ text: entry.text, ids: tokenizer.encode(entry.text) }).toEqual({ text: entry.text, ids: entry[kind].ids })
  })
  it("decodes them to the same text as that library", () => {
    for (const entry of entries)
      expect({ text: entry.text, decoded: tokenizer.decode(entry[kind].ids) }).toEqual({ text: entry.text, decoded: entry[kind].text })
  })
  it("makes no control token from a text that spells one, and drops control tokens from texts", () => {
    for (const [text, id] of tokenizer.controls) {
      expect(tokenizer.encode(`a ${text}b${text}`)).not.toContain(id)
      expect(tokenizer.decode([id])).toBe("")
    }
    expect(tokenizer.controls.size).toBeGreaterThan(2)
  })
  it("makes no token from the library's internal names of tokens", () => {
    const [control] = tokenizer.controls.values()
    const spelled = `x\ufdd0${control}\ufdd1y`
    expect(tokenizer.encode(spelled)).not.toContain(control)
    expect(tokenizer.encode(spelled)).toEqual(tokenizer.encode(`x\ufffd${control}\ufdd1y`))
  })
  it("treats a lone surrogate as U+FFFD", () => expect(tokenizer.encode("a\ud800b")).toEqual(tokenizer.encode("a\ufffdb")))
  it("rejects ids outside its vocabulary", () => {
    expect(tokenizer.pieces.length).toBe(tokenizer.vocabSize)
    expect(() => tokenizer.decode([tokenizer.vocabSize])).toThrow(
      new RangeError(`token ${tokenizer.vocabSize} is not in the vocabulary of ${tokenizer.vocabSize}`)
    )
  })
})

describe("the beginning of a text", () => {
  const [mistral, llama2] = [loadBare("mistral"), loadBare("llama2")]
  it("gets a leading space after a control token if the tokenizer adds one to every text, and none if it does so only at the very beginning", () => {
    for (const [tokenizer, spaced] of [
      [mistral, false],
      [llama2, true]
    ] as const) {
      const out = new TokenBuffer()
      out.push(1)
      tokenizer.append("the", out)
      expect(tokenizer.decode(out.slice(1))).toBe("the")
      expect(tokenizer.pieces[out.ids[1]!]!.text.startsWith("▁")).toBe(spaced)
      expect(tokenizer.pieces[tokenizer.encode("the")[0]!]!.text.startsWith("▁")).toBe(true)
    }
  })
})

describe("decoding bytes that are not a character", () => {
  it("gives a U+FFFD for each, and keeps a byte-order mark", () => {
    const tokenizer = loadBare("mistral")
    const byte = (value: number) => tokenizer.pieces.findIndex(({ text }) => text === `<0x${value.toString(16).toUpperCase()}>`)
    // ByteFallback of the Rust library: one per byte.
    expect(tokenizer.decode([0xf0, 0x9f, 0xa6].map(byte))).toBe("\ufffd\ufffd\ufffd")
    expect(tokenizer.decode([0xef, 0xbb, 0xbf].map(byte))).toBe("\ufeff")
  })
})

describe("a vocabulary as large as Gemma's", () => {
  it("is read", () => {
    const json = jsonOf("smollm")
    const size = Object.keys(json["model"].vocab as object).length
    for (let id = size; id < 262_144; id++) json["model"].vocab[`never ${id}`] = id
    const tokenizer = new HuggingFaceTokenizer({ ...names, json })
    expect([tokenizer.vocabSize, tokenizer.pieces.length]).toEqual([262_144, 262_144])
    expect(tokenizer.encode(entries[40]!.text)).toEqual(entries[40]!.smollm.ids)
  })
})

describe("a tokenizer.json that is rejected, with the reason", () => {
  const refused = (change: (json: Record<string, any>) => void, kind: Kind = "qwen2"): string => {
    const json = jsonOf(kind)
    change(json)
    try {
      void new HuggingFaceTokenizer({ ...names, json })
    } catch (cause) {
      expect(cause).toBeInstanceOf(UnsupportedTokenizer)
      return (cause as Error).message
    }
    return "nothing"
  }
  it.each<[string, (json: Record<string, any>) => void, string]>([
    [
      "Unigram, whose byte fallback the library ignores",
      (json) => (json["model"].type = "Unigram"),
      'expected a model of type "BPE", found "Unigram"'
    ],
    ["dropout", (json) => (json["model"].dropout = 0.1), "expected no dropout, found 0.1"],
    ["a suffix for words", (json) => (json["model"].end_of_word_suffix = "</w>"), "expected no end_of_word_suffix, found </w>"],
    [
      "SentencePiece's normalizer",
      (json) => (json["normalizer"] = { type: "Precompiled", precompiled_charsmap: "" }),
      "expected a normalizer of Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, found Precompiled"
    ],
    [
      "words split by \\w",
      (json) => (json["pre_tokenizer"] = { type: "Whitespace" }),
      "expected a pre_tokenizer of Sequence, Split, ByteLevel, Metaspace, Digits, found Whitespace"
    ],
    [
      "an unsupported part within a sequence",
      (json) => (json["decoder"] = { type: "Sequence", decoders: [{ type: "WordPiece" }] }),
      "expected a decoder of Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, found WordPiece"
    ],
    [
      "tokens that strip the white space next to them",
      (json) => (json["added_tokens"][0].rstrip = true),
      "expected added tokens without rstrip, found <|endoftext|>"
    ],
    ["a duplicate id", (json) => (json["model"].vocab["twice"] = 5), "expected unique ids, found an id that occurs twice"],
    [
      "merges of three pieces",
      (json) => json["model"].merges.push(["a", "b", "c"]),
      'expected merges of two pieces each, found ["a","b","c"]'
    ]
  ])("%s", (_, change, message) => expect(refused(change)).toBe(message))
  it("a control token that ordinary text is encoded to", () => {
    const json = jsonOf("llama3")
    json["added_tokens"] = [{ ...json["added_tokens"][0], content: "the", id: json["model"].vocab["the"] }]
    expect(() => new HuggingFaceTokenizer({ ...names, json })).toThrow(
      'expected control tokens that text cannot produce, found "the", which its own text produces'
    )
  })
})

describe("a folder", () => {
  it("without tokenizer.model is read from tokenizer.json, with its named tokens from tokenizer_config.json or special_tokens_map.json", async () => {
    const folder = await copyOf("llama3")
    const tokenizer = await load(folder)
    expect(tokenizer).toBeInstanceOf(HuggingFaceTokenizer)
    expect({ bos: tokenizer.pieces[tokenizer.bosId!]!.text, eos: tokenizer.pieces[tokenizer.eosId]!.text }).toEqual({
      bos: "<|begin_of_text|>",
      eos: "<|eot_id|>"
    })
    await writeFile(join(folder, "tokenizer_config.json"), "{}")
    await writeFile(
      join(folder, "special_tokens_map.json"),
      JSON.stringify({ bos_token: { content: "<|end_of_text|>" }, eos_token: "<|eom_id|>" })
    )
    const other = await load(folder)
    expect([other.bosId, other.eosId].map((id) => other.pieces[id!]!.text)).toEqual(["<|end_of_text|>", "<|eom_id|>"])
  })
  it("has the stop tokens of generation_config.json, all of which are written with the tokenizer's files", async () => {
    const folder = await copyOf("llama3")
    await writeFile(join(folder, "generation_config.json"), JSON.stringify({ eos_token_id: [601, 605, 606] }))
    const tokenizer = await load(folder)
    expect(tokenizer.stopIds).toEqual([606, 601, 605])
    const out = await mkdtemp(join(tmpdir(), "caravan-tokenizer-"))
    folders.push(out)
    await writeTokenizer(out, tokenizer)
    expect((await readdir(out)).sort()).toEqual(["tokenizer.json", "tokenizer_config.json"])
    expect(await readFile(join(out, "tokenizer.json"))).toEqual(await readFile(join(golden, "llama3", "tokenizer.json")))
  })
  it("with an unsupported tokenizer.json is rejected with the folder's name and a hint", async () => {
    const folder = await copyOf("mistral")
    await writeFile(
      join(folder, "tokenizer.json"),
      JSON.stringify({ ...jsonOf("mistral"), model: { type: "Unigram", vocab: [], byte_fallback: true } })
    )
    await expect(load(folder)).rejects.toThrow(
      `Reading the tokenizer ${join(folder, "tokenizer.json")}: expected a model of type "BPE", found "Unigram". Tokenizers like`
    )
  })
})
