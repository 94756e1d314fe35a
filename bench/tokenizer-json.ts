/**
 * Tokenising by tokenizer.json: `node bench/tokenizer-json.ts <folder> <text file>`. Each line is a text; megabytes of UTF-8 a second of CPU time, of the first pass and of one after it.
 * The same by Hugging Face's own library is bench/tokenizer-json.py.
 */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { loadTokenizer } from "../models/tokenizer/files.ts"

const [folder, file] = process.argv.slice(2)
if (folder === undefined || file === undefined) throw new Error("Give a tokenizer's folder and a file of text.")
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
  `load ${((loaded.user + loaded.system) / 1e6).toFixed(2)} s; ${tokens} tokens; ${speed(first)} MB/s at first, ${speed(second)} MB/s after`
)
