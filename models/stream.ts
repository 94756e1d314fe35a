/**
 * Streaming generation: yields the tokens of one answer as they are drawn, the same tokens that `generate` returns for that prompt alone. The event loop runs
 * between two tokens (for key presses and signals), and the generation ends when the consumer stops listening.
 */
import { setImmediate } from "node:timers/promises"
import { Random } from "../engine/random.ts"
import { noGrad, scoped, tensor } from "../engine/tensor.ts"
import { Decoder } from "./decoder.ts"
import type { Llama } from "./llama.ts"
import { checkOptions, draw, type GenerateOptions, notFiniteLogits } from "./sampler.ts"

export interface StreamOptions extends Pick<GenerateOptions, "maxNewTokens" | "temperature" | "topK" | "topP" | "eosId"> {
  readonly seed: number
}

export interface StreamedToken {
  readonly token: number
  readonly logProbability: number
}

/** The packed weights live as long as the process: create one per model and use it for every answer, one at a time. */
export class Streamer {
  readonly #model: Llama
  readonly #decoder: Decoder
  /** Number of answers started: the decoder holds the cache of the last one. */
  #begun = 0

  constructor(model: Llama) {
    this.#model = model
    this.#decoder = noGrad(() => new Decoder(model))
  }

  /**
   * Continues a prompt (T,); yields the end-of-sequence token too. On the first read, throws RangeError for an option out of range, an
   * empty prompt, or a prompt that leaves no space in the model's context; throws Error when the model's logits are not finite, or when another
   * answer has started in the meantime.
   */
  async *answer(prompt: ReadonlyArray<number>, options: StreamOptions): AsyncGenerator<StreamedToken, void, void> {
    const { maxNewTokens, seed } = options
    const stops = new Set([options.eosId ?? []].flat())
    checkOptions(options, "stream")
    const { config, device } = this.#model
    if (prompt.length === 0) throw new RangeError("stream: the prompt has no tokens; start it with the beginning-of-sequence token")
    if (prompt.length + maxNewTokens > config.maxPositions)
      throw new RangeError(
        `stream: a prompt of ${prompt.length} tokens and ${maxNewTokens} new tokens exceed the model's context of ${config.maxPositions}; shorten the prompt or reduce maxNewTokens`
      )
    if (maxNewTokens === 0) return
    const decoder = this.#decoder
    const mine = ++this.#begun
    const randoms = [new Random(seed, "sampling")]
    const idsOf = (tokens: ReadonlyArray<number>) => tensor(Int32Array.from(tokens), { shape: [1, tokens.length], dtype: "int64", device })
    // The cache outlives the first step's scope; it is freed at the end, however the generation ends.
    const first = scoped(() =>
      noGrad(() => {
        const logits = decoder.prefill(idsOf(prompt), undefined, prompt.length + maxNewTokens)
        return { drawn: draw(logits, [0], randoms, options), cache: decoder.state() }
      })
    )
    let { drawn } = first
    try {
      for (let count = 1; ; count++) {
        const [token, logProbability] = [drawn.tokens[0]!, drawn.logProbabilities[0]!]
        if (!Number.isFinite(logProbability)) throw notFiniteLogits("stream", `token ${count}`)
        yield { token, logProbability }
        if (stops.has(token) || count === maxNewTokens) return
        await setImmediate()
        if (this.#begun !== mine)
          throw new Error(
            "stream: another answer of this streamer started before this one ended; read one at a time, or create two streamers"
          )
        drawn = scoped(() => noGrad(() => draw(decoder.step(idsOf([token]), undefined), [0], randoms, options)))
      }
    } finally {
      for (const part of first.cache) part.free()
    }
  }
}
