/** The tokenizer compared with SentencePiece's own programs (tests/golden/tokenizer) and, if available, with Llama 2's own model. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { loadTokenizer, writeTokenizer } from "../../models/tokenizer/files.ts"
import { SentencePieceTokenizer } from "../../models/tokenizer/sentencepiece.ts"
import { readModelFile, writeModelFile } from "../../models/tokenizer/model-file.ts"
import { decodeUtf8 } from "../../models/tokenizer/utf8.ts"
import { makeCorpus, withUnused } from "../golden/tokenizer/corpus.ts"

const golden = new URL("../golden/tokenizer/", import.meta.url).pathname
const readJson = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"))
const bytesOf = (name: string): Buffer => readFileSync(join(golden, name))
const small = new SentencePieceTokenizer(readModelFile(bytesOf("small.model"), "small.model"))
const encodings = readJson(join(golden, "encodings.json")) as ReadonlyArray<{
  text: string
  ids: ReadonlyArray<number>
  unused: ReadonlyArray<number>
  withoutBytes: ReadonlyArray<number>
}>

const folder = mkdtempSync(join(tmpdir(), "caravan-tokenizer-"))
afterAll(() => rmSync(folder, { recursive: true }))
const errorOf = (path: string): Promise<string> =>
  Effect.runPromise(Effect.flip(loadTokenizer(path))).then((error) => `${error._tag}: ${error.message}`)

describe("encoding", () => {
  it("gives spm_encode's ids for every line", () => {
    expect(encodings.length).toBe(240)
    expect(encodings.map(({ text }) => [text, small.encode(text)])).toEqual(encodings.map(({ text, ids }) => [text, ids]))
  })
  it("splits pieces marked unused into their parts, like spm_encode", () => {
    const tokenizer = new SentencePieceTokenizer(withUnused(small.model))
    expect(encodings.map(({ text }) => [text, tokenizer.encode(text)])).toEqual(encodings.map(({ text, unused }) => [text, unused]))
  })
  it("gives one unknown piece for a run of unknown characters if the model has no bytes, like spm_encode", () => {
    const tokenizer = new SentencePieceTokenizer(readModelFile(bytesOf("without-bytes.model"), "without-bytes.model"))
    expect(encodings.map(({ text }) => [text, tokenizer.encode(text)])).toEqual(
      encodings.map(({ text, withoutBytes }) => [text, withoutBytes])
    )
  })
  it("never gives a control token, whatever the text", () => {
    for (const text of ["<s>", "</s>", "<unk>", "<s></s>", "▁<s>", "a </s> b"]) {
      const types = small.encode(text).map((id) => small.pieces[id]!.type)
      expect(types.every((type) => type === "normal" || type === "byte")).toBe(true)
      expect(small.decode(small.encode(text))).toBe(text.replaceAll("▁", " "))
    }
  })
  it("treats a lone surrogate as U+FFFD", () => {
    expect(small.encode("a\ud800b")).toEqual(small.encode("a\ufffdb"))
    expect(small.encode("\udc00")).toEqual(small.encode("\ufffd"))
  })
  it("gives the same ids the second time, from the cache", () => {
    const text = makeCorpus(20, 3)
    expect(small.encode(text)).toEqual(small.encode(text))
  })
  it("gives the same ids with more words than fit in the cache, and for words longer than it keeps", () => {
    const tokenizer = new SentencePieceTokenizer(small.model)
    const words = Array.from({ length: 300_000 }, (_, i) => `t${i * 7919}`)
    for (let i = 0; i < words.length; i += 1000) tokenizer.encode(words.slice(i, i + 1000).join(" "))
    for (let i = 0; i < words.length; i += 9973)
      expect(tokenizer.encode(words[i]!)).toEqual(new SentencePieceTokenizer(small.model).encode(words[i]!))
    const long = ["the ".repeat(100), "tea".repeat(400), "\u20ac".repeat(300), `${"n".repeat(255)} ${"n".repeat(256)}`]
    for (const text of long) expect(small.decode(tokenizer.encode(text))).toBe(text)
  })
  it("merges the best-scored neighbours first, and the leftmost for equal scores, in texts of any length", () => {
    const texts = ["ab", "ba", "abb", "bab", "aa", "aab", "abab", "bb", "abba"]
    const tokenizer = new SentencePieceTokenizer({
      ...small.model,
      pieces: [...small.pieces.slice(0, 259), ..."\u2581ab".split("").map((text) => ({ text, score: -9, type: "normal" as const }))].concat(
        texts.map((text, i) => ({ text, score: -(i % 3), type: "normal" }))
      )
    })
    const scores = new Map(tokenizer.pieces.slice(262).map(({ text, score }) => [text, score]))
    /** By trying every pair again after each merge. */
    const joined = (text: string): Array<string> => {
      const symbols = `\u2581${text}`.split("")
      const scoreAt = (i: number) => scores.get(`${symbols[i]}${symbols[i + 1]}`) ?? Number.NEGATIVE_INFINITY
      for (;;) {
        const best = symbols.slice(1).reduce((at, _, i) => (scoreAt(i) > scoreAt(at) ? i : at), 0)
        if (scoreAt(best) === Number.NEGATIVE_INFINITY) return symbols
        symbols.splice(best, 2, `${symbols[best]}${symbols[best + 1]}`)
      }
    }
    const random = new Random(1, "joins")
    for (const length of [1, 2, 3, 5, 8, 13, 100, 400, 400]) {
      const text = Array.from({ length }, () => random.pick(["a", "b"])).join("")
      expect(tokenizer.encode(text).map((id) => tokenizer.pieces[id]!.text)).toEqual(joined(text))
    }
  })
  it("tokenises the complete text at once if a piece crosses a space, with the same result if none does", () => {
    const crossing = { text: "e▁t", score: 1, type: "normal" as const }
    const tokenizer = new SentencePieceTokenizer({
      ...small.model,
      pieces: [...small.pieces, { text: "e▁", score: 1, type: "normal" }, crossing]
    })
    expect(tokenizer.encode("the tea").map((id) => tokenizer.pieces[id]!.text)).toContain("e▁t")
    const never = { text: "\u{10ffff}▁\u{10ffff}", score: 0, type: "normal" as const }
    const whole = new SentencePieceTokenizer({ ...small.model, pieces: [...small.pieces, never] })
    for (const { text, ids } of encodings) expect(whole.encode(text)).toEqual(ids)
  })
})

describe("decoding", () => {
  it("gives spm_decode's text for ids in any order", () => {
    const decodings = readJson(join(golden, "decodings.json")) as ReadonlyArray<{ ids: ReadonlyArray<number>; text: string }>
    expect(decodings.length).toBe(200)
    expect(decodings.map(({ ids }) => [ids, small.decode(ids)])).toEqual(decodings.map(({ ids, text }) => [ids, text]))
  })
  it("gives back the encoded text", () => {
    const text = makeCorpus(200, 5)
    expect(small.decode(small.encode(text))).toBe(text)
    for (const line of encodings) expect(small.decode(line.ids)).toBe(line.text.replaceAll("▁", " "))
  })
  it("rejects an id that is not in the vocabulary", () => {
    expect(() => small.decode([512])).toThrow("token 512 is not in the vocabulary of 512")
    expect(() => small.decode([-1])).toThrow(RangeError)
  })
  it("gives one U+FFFD for each byte that is not part of a character", () => {
    const bytes = [0xe2, 0x82, 0x41, 0xc0, 0xaf, 0xed, 0xa0, 0x80, 0xf4, 0x90, 0x80, 0x80, 0xef, 0xbf, 0xbd, 0xf0, 0x9f]
    expect(decodeUtf8(Uint8Array.from(bytes))).toBe(
      `${"\ufffd".repeat(2)}A${"\ufffd".repeat(2)}${"\ufffd".repeat(3)}${"\ufffd".repeat(4)}\ufffd${"\ufffd".repeat(2)}`
    )
    expect(decodeUtf8(Buffer.from("\ufeffa€🦙"))).toBe("\ufeffa€🦙")
  })
})

describe("special tokens", () => {
  it("are unknown 0, BOS 1, EOS 2; padding is never EOS", () => {
    expect([small.unkId, small.bosId, small.eosId, small.padId]).toEqual([0, 1, 2, 0])
  })
})

describe("files", () => {
  it("are written again byte for byte", () => {
    for (const name of ["small.model", "without-bytes.model"]) {
      expect(writeModelFile(readModelFile(bytesOf(name), name)).equals(bytesOf(name))).toBe(true)
    }
  })
  it("are read from a folder or by name", async () => {
    await writeTokenizer(folder, small)
    for (const path of [folder, join(folder, "tokenizer.model")]) {
      const tokenizer = await Effect.runPromise(loadTokenizer(path))
      expect(tokenizer.pieces).toEqual(small.pieces)
    }
  })
  it("contain the pieces for Hugging Face's tokenizers, with each merge ranked by the piece it makes", async () => {
    await writeTokenizer(folder, small)
    const { model, added_tokens } = readJson(join(folder, "tokenizer.json")) as {
      model: { vocab: Record<string, number>; merges: ReadonlyArray<[string, string]>; byte_fallback: boolean }
      added_tokens: ReadonlyArray<{ id: number; content: string }>
    }
    expect(model.byte_fallback).toBe(true)
    expect(added_tokens.map(({ id, content }) => [id, content])).toEqual([
      [0, "<unk>"],
      [1, "<s>"],
      [2, "</s>"]
    ])
    expect(Object.keys(model.vocab).length).toBe(512)
    const config = readJson(join(folder, "tokenizer_config.json")) as Record<string, unknown>
    expect(config).toMatchObject({ bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: null })
    // Merging by rank gives the ids that merging by scores gives.
    const ranks = new Map(model.merges.map((merge, rank) => [merge.join(" "), rank]))
    for (const { text, ids } of encodings) {
      if (text === "") continue
      const symbols = Array.from(`▁${text.replaceAll(" ", "▁")}`)
      for (;;) {
        const rank = (i: number) => ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Number.POSITIVE_INFINITY
        const best = symbols.slice(1).reduce((least, _, i) => (rank(i) < rank(least) ? i : least), 0)
        if (rank(best) === Number.POSITIVE_INFINITY) break
        symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!)
      }
      const joined = symbols.flatMap((symbol) =>
        symbol in model.vocab
          ? [model.vocab[symbol]!]
          : [...Buffer.from(symbol)].map((byte) => model.vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`]!)
      )
      expect([text, joined]).toEqual([text, ids])
    }
  })
  it("truncated anywhere are an ArtifactError that says so", async () => {
    const bytes = bytesOf("small.model")
    const file = join(folder, "cut.model")
    for (const length of [0, 1, 2, 100, 5000, bytes.length - 90, bytes.length - 1]) {
      writeFileSync(file, bytes.subarray(0, length))
      expect(await errorOf(file)).toMatch(/^ArtifactError: Reading the tokenizer .*cut\.model: expected .*found .*Pass Llama 2's/)
    }
  })
  it("that claim more than they contain, or are of another kind, are an ArtifactError", async () => {
    const file = join(folder, "odd.model")
    const cases: ReadonlyArray<readonly [Uint8Array, string]> = [
      [Uint8Array.of(0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f), "a field of 34359738367 bytes where 0 are left"],
      [Uint8Array.of(0x0a, ...Array<number>(12).fill(0xff)), "a number that is too long"],
      [Uint8Array.of(0x0b), "a field of unknown type"],
      [Buffer.from("not a model at all"), "expected a SentencePiece model"],
      [Buffer.from('{"version": "1.0"}'), "expected a SentencePiece model"]
    ]
    for (const [bytes, message] of cases) {
      writeFileSync(file, bytes)
      expect(await errorOf(file)).toContain(message)
    }
  })
  it("of models that would be tokenised wrongly are rejected", () => {
    const { pieces, specification } = small.model
    const readWith = (change: Partial<typeof small.model>) => () => readModelFile(writeModelFile({ ...small.model, ...change }), "x.model")
    expect(readWith({ specification: new Uint8Array() })).toThrow("expected a BPE model, found model type unigram")
    // trainer_spec.model_type = BPE only: the normaliser's defaults remove spaces.
    expect(readWith({ specification: Uint8Array.of(0x12, 2, 0x18, 2) })).toThrow("expected a model that leaves text unchanged")
    expect(readWith({ pieces: pieces.slice(1) })).toThrow("expected one unknown piece, found 0")
    expect(readWith({ pieces: pieces.filter((_, id) => id !== 2) })).toThrow("expected a control piece </s>, found none")
    expect(readWith({ pieces: pieces.filter((_, id) => id !== 70) })).toThrow("expected 256 byte pieces")
    expect(readWith({ pieces: [...pieces, pieces[300]!] })).toThrow("expected unique pieces")
    expect(readWith({ pieces: [...pieces, { text: "x y", score: 0, type: "user-defined" }] })).toThrow("no user-defined pieces")
    expect(readWith({ pieces: [...pieces, { text: "x y", score: Number.NaN, type: "normal" }] })).toThrow("an invalid piece")
    expect(specification.length).toBeGreaterThan(0)
  })
  it("that are missing are an ArtifactError that names them", async () => {
    expect(await errorOf(join(folder, "nowhere"))).toContain("found nothing at this path")
    const empty = mkdtempSync(join(folder, "empty-"))
    expect(await errorOf(empty)).toContain("expected a file tokenizer.model (SentencePiece) or tokenizer.json, found neither")
    writeFileSync(join(empty, "tokenizer.json"), "{}")
    expect(await errorOf(empty)).toContain("expected a Hugging Face tokenizer, found added_tokens: missing key")
  })
})

const data = process.env.CARAVAN_TEST_DATA
describe.skipIf(data === undefined)("Llama 2's tokenizer (CARAVAN_TEST_DATA)", () => {
  const path = join(data ?? "", "llama2-tokenizer")
  it("gives every expected encoding and decoding", async () => {
    const tokenizer = await Effect.runPromise(loadTokenizer(path))
    const expected = readJson(join(path, "expected.json")) as ReadonlyArray<{
      text: string
      ids: ReadonlyArray<number>
      pieces: ReadonlyArray<string>
      decoded: string
    }>
    expect(tokenizer.vocabSize).toBe(32000)
    expect(expected.length).toBeGreaterThan(60)
    for (const { text, ids, pieces, decoded } of expected) {
      expect(tokenizer.encode(text)).toEqual(ids)
      expect(ids.map((id) => tokenizer.pieces[id]!.text)).toEqual(pieces)
      expect(tokenizer.decode(ids)).toBe(decoded)
    }
  })
  it("is written again byte for byte", () => {
    const bytes = readFileSync(join(path, "tokenizer.model"))
    expect(writeModelFile(readModelFile(bytes, "tokenizer.model")).equals(bytes)).toBe(true)
  })
})
