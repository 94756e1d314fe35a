/** Batched sampling with the peer's shapes: 32 prompt tokens, 64 new tokens. Prints tokens per second. */
import { presets } from "../models/config.ts"
import { initLlama } from "../models/llama.ts"
import { generate } from "../models/sampler.ts"

const maxNewTokens = 64
for (const batch of [1, 64]) {
  for (const [name, config] of [
    ["s260k", presets["260k"]],
    ["m3", presets["3m"]]
  ] as const) {
    const model = initLlama(config, { seed: 1 })
    const prompts = Array.from({ length: batch }, (_, b) => Array.from({ length: 32 }, (_, i) => 3 + ((b * 31 + i * 7) % 500)))
    const go = () => generate(model, prompts, { maxNewTokens, temperature: 1, seeds: prompts.map((_, i) => i), eosId: undefined, padId: 0 })
    go()
    const started = performance.now()
    go()
    process.stdout.write(
      `caravan generate ${name} B${batch}: ${Math.round((batch * maxNewTokens * 1000) / (performance.now() - started))} tok/s\n`
    )
  }
}
