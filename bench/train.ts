/**
 * Training steps with the peer's two shapes: 16 sequences of 128 tokens, forward, backward, AdamW. Prints tokens per second of the fastest of fifteen steps, to
 * exclude the effect of other load on the machine.
 */
import { AdamW } from "../engine/optimizer.ts"
import { scoped, tensor } from "../engine/tensor.ts"
import { presets } from "../models/config.ts"
import { initLlama } from "../models/llama.ts"

const batch = 16
const length = 128
for (const [name, config] of [
  ["s260k", presets["260k"]],
  ["m3", presets["3m"]]
] as const) {
  const model = initLlama(config, { seed: 1 })
  const draw = (factor: number) => Int32Array.from({ length: batch * length }, (_, i) => (i * factor) % config.vocabSize)
  const ids = tensor(draw(7919), { shape: [batch, length], dtype: "int64" })
  const targets = tensor(draw(104729), { dtype: "int64" })
  const optimizer = new AdamW({ parameters: model.parameters, epsilon: 1e-8, betas: [0.9, 0.999], weightDecay: 0.01 })
  const step = () => {
    const loss = scoped(() => {
      const states = model.hidden(ids).view(-1, config.dim)
      const loss = model
        .distribution(states, targets)
        .logProbabilities.sum()
        .div(-batch * length)
      loss.backward()
      return loss.item()
    })
    optimizer.step(1e-3)
    return loss
  }
  step()
  step()
  const times = Array.from({ length: 15 }, () => {
    const started = performance.now()
    step()
    return performance.now() - started
  })
  const milliseconds = Math.min(...times)
  process.stdout.write(`caravan ${name} step ms ${milliseconds.toFixed(1)} tok/s ${Math.round((batch * length * 1000) / milliseconds)}\n`)
}
