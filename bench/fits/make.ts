/**
 * Makes the inputs of bench/fits/pipeline.ts: a random Llama in the Hugging Face layout, made on the device, and invented data.
 *
 *     node bench/fits/make.ts 7b <tokenizer.model> <folder> [cuda|cpu]
 *
 * <folder>/model (13.5 GB at 7B), <folder>/demonstrations.jsonl, preferences.jsonl, prompts.jsonl, prompts-best-of-k.jsonl.
 */
import { copyFile, mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { Random } from "../../engine/random.ts"
import { seedGenerator } from "../../engine/generator.ts"
import { writeCheckpoint } from "../../models/checkpoint.ts"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import { randomLlama, sizes } from "../random-llama.ts"

const [size, tokenizerFile, folder, device = "cuda"] = process.argv.slice(2) as [string, string, string, "cuda" | "cpu" | undefined]
const config = { ...sizes[size]!, maxPositions: 4096 }
const target = join(folder, "model")
await mkdir(target, { recursive: true })
await copyFile(tokenizerFile, join(target, "tokenizer.model"))
const tokenizer = await Effect.runPromise(loadTokenizer(target))
seedGenerator(device, 1)
const model = randomLlama(config, { dtype: "bfloat16", device })
await writeCheckpoint(target, { model, tokenizer, role: "policy" })

const random = new Random(1, "fits")
const vocabulary = [
  "a",
  "the",
  "what",
  "how",
  "river",
  "bread",
  "engine",
  "light",
  "winter",
  "green",
  "write",
  "explain",
  "number",
  "seven",
  "quickly",
  "because",
  "after",
  "people",
  "letter",
  "music"
]
const words = (count: number) => Array.from({ length: count }, () => vocabulary[random.int(vocabulary.length)]).join(" ")
const lines = (name: string, count: number, row: (i: number) => unknown) =>
  writeFile(join(folder, name), Array.from({ length: count }, (_, i) => `${JSON.stringify(row(i))}\n`).join(""))
await lines("demonstrations.jsonl", 1200, () => ({
  messages: [
    { role: "user", content: words(80) },
    { role: "assistant", content: words(180) }
  ]
}))
await lines("preferences.jsonl", 256, () => ({
  prompt: words(80),
  chosen: words(120 + random.int(120)),
  rejected: words(120 + random.int(120))
}))
for (const [name, count] of [
  ["prompts.jsonl", 1024],
  ["prompts-best-of-k.jsonl", 32]
] as const)
  await lines(name, count, (i) => ({ prompt: `${words(90)} ${i}`, safety: i % 2 === 0 }))
