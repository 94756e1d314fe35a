/**
 * A process that generates with a small model until it is killed. Prints a line of JSON with the answers' tokens after each call of `generate`. Usage: generating.ts <device> [<calls>]
 */
import type { Device } from "../../engine/tensor.ts"
import { initLlama } from "../../models/llama.ts"
import { generate } from "../../models/sampler.ts"
import { smallConfig } from "./small.ts"

const [device = "cuda", calls = "Infinity"] = process.argv.slice(2)
const config = smallConfig({ dim: 128, heads: 8, kvHeads: 2, headDim: 64, vocabSize: 512, ffn: 64, maxPositions: 400 })
const model = initLlama(config, { seed: 3, device: device as Device, dtype: device === "cuda" ? "bfloat16" : "float32" })
const prompts = Array.from({ length: 16 }, (_, row) => Array.from({ length: 4 + row }, (__, i) => 3 + ((row * 31 + i * 7) % 500)))
const options = { maxNewTokens: 300, temperature: 1, seeds: prompts.map((_, i) => i), eosId: undefined, padId: 0 }
for (let call = 0; call < Number(calls); call++) {
  process.stdout.write(`${JSON.stringify(generate(model, prompts, options).map(({ tokens }) => tokens))}\n`)
}
