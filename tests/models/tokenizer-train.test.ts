/** Training a tokenizer, compared with spm_train's result on the same text (tests/golden/tokenizer/manifest.json has the command). */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import { SentencePieceTokenizer } from "../../models/tokenizer/sentencepiece.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"
import { readModelFile, writeModelFile } from "../../models/tokenizer/model-file.ts"
import { makeCorpus } from "../golden/tokenizer/corpus.ts"

const golden = new URL("../golden/tokenizer/", import.meta.url).pathname
const corpus = makeCorpus(6000)
const texts = corpus.split("\n").slice(0, -1)
const train = (text: ReadonlyArray<string>, vocabSize: number, characterCoverage = 1) =>
  trainTokenizer(text, { vocabSize, characterCoverage })
    .pieces.map((piece) => piece.text)
    .slice(259)

describe("a trained tokenizer", () => {
  it("is trained here on spm_train's text", () => {
    const manifest = JSON.parse(readFileSync(join(golden, "manifest.json"), "utf8")) as { corpus: { sha256: string } }
    expect(createHash("sha256").update(corpus).digest("hex")).toBe(manifest.corpus.sha256)
  })
  it("has spm_train's 2000 pieces in the same order", () => {
    const expected = readFileSync(join(golden, "pieces-2000.txt"), "utf8").split("\n").slice(0, -1)
    expect(trainTokenizer(texts, { vocabSize: 2000, characterCoverage: 0.9995 }).pieces.map((piece) => piece.text)).toEqual(expected)
  })
  it("has spm_train's 512 pieces with their scores and types", () => {
    const expected = readModelFile(readFileSync(join(golden, "small.model")), "small.model")
    expect(trainTokenizer(texts, { vocabSize: 512, characterCoverage: 0.99 }).pieces).toEqual(expected.pieces)
  })
  it("gives the same file again from the same text, in one piece or in lines", () => {
    const options = { vocabSize: 600, characterCoverage: 0.99 }
    const file = writeModelFile(trainTokenizer(texts, options).model)
    expect(writeModelFile(trainTokenizer([corpus], options).model).equals(file)).toBe(true)
    expect(writeModelFile(readModelFile(file, "tokenizer.model")).equals(file)).toBe(true)
  })
  it("is read back as it was written", () => {
    const tokenizer = trainTokenizer(texts, { vocabSize: 600, characterCoverage: 0.99 })
    const again = new SentencePieceTokenizer(readModelFile(writeModelFile(tokenizer.model), "tokenizer.model"))
    for (const text of texts.slice(0, 200)) expect(again.encode(text)).toEqual(tokenizer.encode(text))
  })
  it("does not merge digits, different scripts, or words across a space", () => {
    const pieces = train(texts, 2000, 0.9995)
    for (const piece of pieces.filter((text) => Array.from(text).length > 1)) {
      expect(piece).not.toMatch(/[0-9０-９]/)
      expect(piece).not.toMatch(/[^▁]▁/)
      expect(piece).not.toMatch(/\p{Script=Latin}.*\p{Script=Cyrillic}|\p{Script=Cyrillic}.*\p{Script=Latin}/u)
    }
    expect(pieces).toContain("▁▁")
  })
  it("has bytes for the characters outside the coverage", () => {
    const tokenizer = trainTokenizer(["aaaa bbbb aaaa bbbb aaaa bbbb aaaa bbbb é"], { vocabSize: 264, characterCoverage: 0.97 })
    expect(tokenizer.encode("é").map((id) => tokenizer.pieces[id]!.text)).toEqual(["▁", "<0xC3>", "<0xA9>"])
  })
  it("learns nothing from tabs, NUL and the names of reserved pieces, like spm_train", () => {
    // From spm_train --hard_vocab_limit=false --vocab_size=275 on five such lines each.
    expect(train(Array<string>(5).fill("ab\0cd ab\0cd xy xyz\nhello hello"), 275)).toEqual([
      "ab",
      "cd",
      "el",
      "lo",
      "▁",
      "l",
      "a",
      "b",
      "c",
      "d",
      "e",
      "h",
      "o",
      "x",
      "y",
      "z"
    ])
    const pieces = train(["a\tb <s>a</s> <unk>c <0x41>d ab"], 265)
    expect(pieces.some((piece) => /[\t<>]/.test(piece))).toBe(false)
  })
  it("with too little text is an error that says how much there is", () => {
    expect(() => trainTokenizer(["ab ab"], { vocabSize: 400 })).toThrow(
      expect.objectContaining({
        _tag: "ConfigError",
        message:
          "Training a tokenizer: these texts give a vocabulary of at most 264 pieces, not 400. Lower vocabSize, or provide more text."
      })
    )
    expect(() => trainTokenizer(["ab ab"], { vocabSize: 260 })).toThrow(
      expect.objectContaining({
        _tag: "ConfigError",
        message: "Training a tokenizer: a vocabulary of 260 is too small: 259 reserved pieces and 3 characters need 262. Raise vocabSize."
      })
    )
    expect(() => trainTokenizer([], { vocabSize: 260 })).toThrow("at most 259 pieces")
  })
})

const data = process.env.CARAVAN_TEST_DATA
describe.skipIf(data === undefined)("HH-RLHF (CARAVAN_TEST_DATA)", () => {
  it("gives 4000 pieces in a few seconds, which decode every text", { timeout: 60_000 }, () => {
    const rows = gunzipSync(readFileSync(join(data!, "hh-rlhf/harmless-base-test.jsonl.gz")))
      .toString()
      .trim()
      .split("\n")
    const chosen = rows.map((row) => (JSON.parse(row) as { chosen: string }).chosen)
    const started = performance.now()
    const tokenizer = trainTokenizer(chosen, { vocabSize: 4000 })
    expect(performance.now() - started).toBeLessThan(20_000)
    expect(tokenizer.vocabSize).toBe(4000)
    for (const text of chosen.slice(0, 300)) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
  })
})
