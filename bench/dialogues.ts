/** Tokenises dialogues in a model's chat format: `node bench/dialogues.ts <model or tokenizer folder> <hh-rlhf file>`. Prints dialogues and tokens per second of CPU time. */
import * as Effect from "effect/Effect"
import { readRecords } from "../data/records.ts"
import { parseHhRlhf } from "../data/shapes/pairs.ts"
import { readDialogue } from "../models/chat.ts"
import { loadTokenizer } from "../models/tokenizer/files.ts"
import { TokenBuffer } from "../models/tokenizer/token-buffer.ts"
import type { Message } from "../schemas/rows.ts"

const [folder, file] = process.argv.slice(2)
if (folder === undefined || file === undefined) throw new Error("Usage: node bench/dialogues.ts <model or tokenizer folder> <hh-rlhf file>")
const tokenizer = await Effect.runPromise(loadTokenizer(folder))
const dialogues: Array<ReadonlyArray<Message>> = []
let lines = 0
for await (const record of readRecords(file)) {
  lines++
  try {
    const { chosen, prompt } = parseHhRlhf(record.value, lines, "")
    dialogues.push([...prompt, { role: "assistant", content: chosen }])
  } catch {
    // An invalid row.
  }
}
const out = new TokenBuffer()
let [held, tokens] = [0, 0]
const before = process.cpuUsage()
for (const messages of dialogues) {
  const read = readDialogue(tokenizer, messages)
  if (read === undefined) continue
  out.length = 0
  read.appendDialogue(out)
  held++
  tokens += out.length
}
const { system, user } = process.cpuUsage(before)
const seconds = (system + user) / 1e6
console.log(
  `${held} of ${lines} dialogues, ${tokens} tokens: ${Math.round(held / seconds)} dialogues and ${Math.round(tokens / seconds)} tokens per second`
)
