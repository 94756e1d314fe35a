/**
 * Generation with mixed lengths with a random Llama on a GPU: prompts of 16 to 512 tokens, several answers per prompt, each of which ends when one of `stops` tokens is sampled, after at most 1,024 tokens.
 * Prints a line of JSON with the share of the limit set by the GPU's bandwidth: reading the weights once per `batch` tokens and the cache up to each token, for the sampled lengths.
 *
 *     node bench/mixed-gpu.ts size=7b [prompts=512] [k=4] [batch=64] [stops=120] [device=cpu]
 *
 * The comparison, with a static cache and a captured step: bench/peers/torch_mixed_gpu.py.
 */
import { deviceMemory, environment, synchronize } from "../engine/device.ts"
import { Random } from "../engine/random.ts"
import { llamaConfig, parameterCount } from "../models/config.ts"
import { generate } from "../models/sampler.ts"
import { randomLlama, sizes } from "./random-llama.ts"

const given = Object.fromEntries(process.argv.slice(2).map((word) => word.split("=") as [string, string]))
const number = (name: string, otherwise: number) => Number(given[name] ?? otherwise)
const size = given.size ?? "7b"
const device = (given.device ?? "cuda") as "cuda" | "cpu"
const tiny = llamaConfig({ vocabSize: 32000, dim: 64, layers: 2, heads: 4, kvHeads: 4, ffn: 176 })
const config = { ...(size === "tiny" ? tiny : sizes[size]!), maxPositions: 4096 }
const [count, k, batch, stops, most] = [
  number("prompts", 512),
  number("k", 4),
  number("batch", 64),
  number("stops", 120),
  number("new", 1024)
]
const dtype = device === "cuda" ? "bfloat16" : "float32"
const model = randomLlama(config, { dtype, device })
const random = new Random(1, "mixed")
/** 16 to 512, with the same number in each octave. */
const length = () => Math.round(16 * 2 ** (5 * random.next()))
const prompts = Array.from({ length: count }, () => Array.from({ length: length() }, () => 3 + random.int(config.vocabSize - 3)))
const requests = prompts.flatMap((prompt) => Array.from({ length: k }, () => prompt))
/** With random weights all tokens are about equally likely: an answer has about vocabulary / stops tokens. */
const eosId = Array.from({ length: stops }, (_, i) => 3 + i * Math.floor(31_000 / stops))
const go = (some: ReadonlyArray<ReadonlyArray<number>>, maxNewTokens: number) =>
  generate(model, some, { maxNewTokens, temperature: 1, seeds: some.map((_, i) => i), eosId, padId: 0, batchSize: batch })
go(requests.slice(0, batch), 16)
synchronize()
deviceMemory({ resetPeak: true })
const started = performance.now()
const answers = go(requests, most)
synchronize()
const seconds = (performance.now() - started) / 1000
const tokens = answers.reduce((sum, answer) => sum + answer.tokens.length, 0)
const bytes = dtype === "bfloat16" ? 2 : 4
const cachePerToken = 2 * config.layers * config.kvHeads * (config.dim / config.heads) * bytes
// A token attends to all tokens before it; the embedding is not counted, because a step reads only a few of its rows.
const cacheRead = answers.reduce((sum, { tokens: { length: n } }, i) => sum + n * (requests[i]!.length + n / 2) * cachePerToken, 0)
const weightsRead = (tokens / batch) * (parameterCount(config) - config.vocabSize * config.dim) * bytes
const limit = (cacheRead + weightsRead) / 4.3e12
const { gpu, libtorch } = environment()
const line = {
  ...{ who: "caravan", size, dtype, prompts: count, k, batch, tokens, meanLength: tokens / answers.length },
  ...{ unfinished: answers.filter(({ finished }) => !finished).length, seconds, tokensPerSecond: Math.round(tokens / seconds) },
  ...{ limit: Math.round(tokens / limit), shareOfLimit: limit / seconds, peakGiB: (deviceMemory()?.peak ?? 0) / 2 ** 30, libtorch, gpu }
}
process.stdout.write(`${JSON.stringify(line)}\n`)
