/**
 * Tokenises with tokenizer.json: `node bench/tokenizer-json.ts <folder> <text file>`. Each line is a text. Prints megabytes of UTF-8 per second of CPU time for the first and a second pass.
 * bench/tokenizer-json.py does the same with Hugging Face's own library.
 */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { loadTokenizer } from "../models/tokenizer/files.ts"

const [folder, file] = process.argv.slice(2)
if (folder === undefined || file === undefined) throw new Error("Usage: node bench/tokenizer-json.ts <folder> <text file>")
const lines = readFileSync(file, "utf8").split("\n")
const bytes = lines.reduce((sum, line) => sum + Buffer.byteLength(line), 0)
const cpuSeconds = (run: () => void): number => {
  const before = process.cpuUsage()
  run()
  const { system, user } = process.cpuUsage(before)
  return (user + system) / 1e6
}
const loading = process.cpuUsage()
const tokenizer = await Effect.runPromise(loadTokenizer(folder))
const loaded = process.cpuUsage(loading)
let tokens = 0
const pass = () => {
  tokens = 0
  for (const line of lines) tokens += tokenizer.encode(line).length
}
const [first, second] = [cpuSeconds(pass), cpuSeconds(pass)]
const speed = (seconds: number) => (bytes / 1e6 / seconds).toFixed(2)
console.log(
  `load ${((loaded.user + loaded.system) / 1e6).toFixed(2)} s; ${tokens} tokens; ${speed(first)} MB/s first pass, ${speed(second)} MB/s second pass`
)
