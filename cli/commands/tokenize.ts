/** `caravan tokenize`: converts lines of text to token ids. */
import * as Effect from "effect/Effect"
import { loadTokenizer } from "../../models/tokenizer/files.ts"
import { decodeUtf8 } from "../../models/tokenizer/utf8.ts"
import { type Command, exitCodes } from "../command.ts"
import { artifactPath } from "../artifact-path.ts"
import { write } from "../output.ts"

/** Lines of stdin. Only LF ends a line; the last one may lack it. */
const readLines = async (): Promise<Array<string>> => {
  const chunks: Array<Buffer> = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  const text = decodeUtf8(Buffer.concat(chunks))
  if (text === "") return []
  const lines = text.split("\n")
  if (lines.at(-1) === "") lines.pop()
  return lines
}

export const command: Command = {
  name: "tokenize",
  summary:
    "Prints the token ids of each line of stdin, without BOS or EOS. Only LF ends a line, white space is kept, and an empty line gives no ids.",
  positionals: ["<tokenizer>"],
  flags: { json: { help: "print a JSON array of arrays instead of one line of ids per line" } },
  examples: [
    "echo 'Hello world' | caravan tokenize hf:meta-llama/Llama-3.2-1B",
    "echo 'Hello world' | caravan tokenize tokenizer.model",
    "caravan tokenize sft --json < lines.txt"
  ],
  run: async (given) => {
    const tokenizer = await Effect.runPromise(loadTokenizer(await artifactPath(given.positionals[0]!, "tokenizer")))
    const ids = (await readLines()).map((line) => tokenizer.encode(line))
    write(given.has("json") ? `${JSON.stringify(ids)}\n` : ids.map((line) => `${line.join(" ")}\n`).join(""))
    return exitCodes.ok
  }
}
