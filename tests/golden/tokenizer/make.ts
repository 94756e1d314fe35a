/**
 * Makes the golden values here with SentencePiece's own programs (Debian's package `sentencepiece`): node tests/golden/tokenizer/make.ts
 *
 * small.model: a BPE of 512 pieces; encodings.json: what spm_encode makes of 240 lines with it, with a copy in which
 * some pieces are marked unused, and with without-bytes.model (400 pieces, no byte fallback); decodings.json: what spm_decode makes of ids;
 * pieces-2000.txt: the piece list of a BPE of 2000.
 */
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readModelFile, writeModelFile } from "../../../models/tokenizer/model-file.ts"
import { makeCorpus, withUnused } from "./corpus.ts"

const here = import.meta.dirname
const work = mkdtempSync(join(tmpdir(), "caravan-tokenizer-"))
const corpus = makeCorpus(6000)
writeFileSync(join(work, "corpus.txt"), corpus)

const flags = [
  ...["--model_type=bpe", "--byte_fallback", "--split_digits", "--allow_whitespace_only_pieces"],
  ...["--normalization_rule_name=identity", "--remove_extra_whitespaces=false", "--add_dummy_prefix=true"],
  ...["--input=corpus.txt", "--num_threads=1", "--shuffle_input_sentence=false", "--minloglevel=1"]
]
const train = (vocabSize: number, coverage: number, ...more: ReadonlyArray<string>): string => {
  const all = [...flags, ...more, `--vocab_size=${vocabSize}`, `--character_coverage=${coverage}`, `--model_prefix=${vocabSize}`]
  execFileSync("spm_train", all, { cwd: work, stdio: "ignore" })
  return `spm_train ${all.join(" ")}`
}
const commands = [train(512, 0.99), train(2000, 0.9995), train(400, 0.99, "--byte_fallback=false")]

/** What a line may be and is likely to go wrong. */
const odd = [
  ...["", " ", "  ", "   ", "\t", "\t\t", " \t ", "\r", "a\r", "\u0000", "\u0000null\u0007bell", "\u00a0", "\u3000", "\u200b", "\ufeff", "\ufeffbom", "a\ufeff", "\ufffd", "\u2585", "\u0085\u001c"],
  ...["<s>", "</s>", "<unk>", "<s>text</s>", "a<s>b", "<0x41>", "<pad>", "[INST] <<SYS>> x <</SYS>> [/INST]", "[INST]", "\u2581", "\u2581\u2581a\u2581", "a\u2581b", " a", "a ", "  a  b   c    "],
  ...["1", "2023", "3.14159", "１２３", "0x1F", "1,000,000", "a1b2c3", "½⅓", "²", "٣٤"],
  ...["🦙", "🦙🦙🦙", "👨‍👩‍👧", "👩🏽‍🚀", "🇩🇪", "é", "e\u0301", "ﬁ ſ", "Ω∑√", "𝕏𝔸", "𐍈", "नमस्ते", "ありがとう", "東京ラーメン", "그리고 나는", "كتاب مدرسة", "музыка", "θάλασσα", "ሰላም", "ก็"],
  ...["a".repeat(50), "the".repeat(40), "-".repeat(33), " ".repeat(40), "x" + " ".repeat(17) + "y", "www.www.www", "Hmmmm", "wwwwwwww", "the the the the", "The THE tHe", "isn't it’s", "for (let i = 0; i < 10; i++) { x[i] += 0x1F; }", "\\n\\t", '{"a": [1, 2]}', "https://example.org/?q=a+b&c=%20"]
]
const lines = [...odd, ...makeCorpus(240 - odd.length, 7).split("\n").slice(0, -1)]
const encode = (model: string): Array<Array<number>> =>
  execFileSync("spm_encode", [`--model=${model}`, "--output_format=id"], { cwd: work, input: lines.map((line) => `${line}\n`).join("") })
    .toString()
    .split("\n")
    .map((line) => (line === "" ? [] : line.split(" ").map(Number)))
writeFileSync(join(work, "unused.model"), writeModelFile(withUnused(readModelFile(readFileSync(join(work, "512.model")), "512.model"))))
const [ids, unused, withoutBytes] = [encode("512.model"), encode("unused.model"), encode("400.model")]
const encodings = lines.map((text, i) => ({ text, ids: ids[i]!, unused: unused[i]!, withoutBytes: withoutBytes[i]! }))

// Ids in any order, so that bytes needn't be UTF-8 and control tokens stand anywhere; no line feed (id 13), which ends spm_decode's line.
let state = 1
const below = (limit: number): number => {
  state = Math.imul(state, 1664525) + 1013904223
  return Math.floor(((state >>> 0) / 2 ** 32) * limit)
}
const sequences = Array.from({ length: 200 }, (_, i) => Array.from({ length: 1 + below(12) }, () => below(i % 2 === 0 ? 512 : 259)).map((id) => (id === 13 ? 14 : id)))
const decoded = execFileSync("spm_decode", ["--model=512.model", "--input_format=id"], { cwd: work, input: sequences.map((ids) => `${ids.join(" ")}\n`).join("") })
  .toString()
  .split("\n")
const decodings = sequences.map((ids, i) => ({ ids, text: decoded[i]! }))

const list = (rows: ReadonlyArray<unknown>): string => `[\n${rows.map((row) => JSON.stringify(row)).join(",\n")}\n]\n`
writeFileSync(join(here, "small.model"), readFileSync(join(work, "512.model")))
writeFileSync(join(here, "without-bytes.model"), readFileSync(join(work, "400.model")))
writeFileSync(join(here, "encodings.json"), list(encodings))
writeFileSync(join(here, "decodings.json"), list(decodings))
const pieces = (file: string): Array<string> => readFileSync(join(work, file), "utf8").split("\n").slice(0, -1).map((line) => line.slice(0, line.lastIndexOf("\t")))
writeFileSync(join(here, "pieces-2000.txt"), pieces("2000.vocab").map((piece) => `${piece}\n`).join(""))
writeFileSync(
  join(here, "manifest.json"),
  `${JSON.stringify(
    {
      tool: execFileSync("spm_train", ["--version"]).toString().trim(),
      commands: [...commands, "spm_encode --model=512.model --output_format=id", "spm_decode --model=512.model --input_format=id"],
      corpus: { made: "makeCorpus(6000) of corpus.ts", bytes: Buffer.byteLength(corpus), sha256: createHash("sha256").update(corpus).digest("hex") },
      files: ["small.model (of the first command)", "without-bytes.model (of the third command)", "encodings.json", "decodings.json", "pieces-2000.txt (of the second command)"]
    },
    undefined,
    2
  )}\n`
)
rmSync(work, { recursive: true })
