/**
 * Generation for a reader: the tokens of one answer as they are drawn, the same ones that `generate` gives for that prompt alone. Between two
 * tokens everything else that waits gets its turn (a key that was pressed, a signal), and who stops listening ends the generation.
 */
import { setImmediate } from "node:timers/promises"
import { Random } from "../engine/random.ts"
import { noGrad, scoped, tensor } from "../engine/tensor.ts"
import { Decoder } from "./decoder.ts"
import type { Llama } from "./llama.ts"
import { checkOptions, draw, type GenerateOptions, NotFiniteLogitsError } from "./sampler.ts"

export interface StreamOptions extends Pick<GenerateOptions, "maxNewTokens" | "temperature" | "topK" | "topP" | "eosId"> {
  readonly seed: number
}

export interface StreamedToken {
  readonly token: number
  readonly logProbability: number
}

/** Its packed weights live as long as the process: make one for a model, and use it for every answer, one at a time. */
export class Streamer {
  readonly #model: Llama
  readonly #decoder: Decoder
  /** How many answers were begun: the decoder holds the last one's cache. */
  #begun = 0

  constructor(model: Llama) {
    this.#model = model
    this.#decoder = noGrad(() => new Decoder(model))
  }

  /**
   * Continues a prompt (T,), the end-of-sequence token included. Throws, when it is first read from, a RangeError for an option out of its range, an
   * empty prompt, or one that leaves no room in the model's context; an Error when the model gives no numbers (NaN), or when another answer has
   * begun in between.
   */
  async *answer(prompt: ReadonlyArray<number>, options: StreamOptions): AsyncGenerator<StreamedToken, void, void> {
    const { maxNewTokens, seed } = options
    const stops = new Set([options.eosId ?? []].flat())
    checkOptions(options, "stream")
    const { config, device } = this.#model
    if (prompt.length === 0) throw new RangeError("stream: the prompt has no tokens; begin it with the beginning-of-sequence token")
    if (prompt.length + maxNewTokens > config.maxPositions)
      throw new RangeError(
        `stream: a prompt of ${prompt.length} tokens and ${maxNewTokens} new ones exceed the model's context of ${config.maxPositions}; shorten the prompt or ask for fewer`
      )
    if (maxNewTokens === 0) return
    const decoder = this.#decoder
    const mine = ++this.#begun
    const randoms = [new Random(seed, "sampling")]
    const idsOf = (tokens: ReadonlyArray<number>) => tensor(Int32Array.from(tokens), { shape: [1, tokens.length], dtype: "int64", device })
    // The cache outlives the first step's scope and is freed at the end, however that comes.
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
        if (!Number.isFinite(logProbability))
          throw new NotFiniteLogitsError(
            `stream: the model's logits are not numbers (token ${count}); its weights are damaged or its training diverged`
          )
        yield { token, logProbability }
        if (stops.has(token) || count === maxNewTokens) return
        await setImmediate()
        if (this.#begun !== mine)
          throw new Error(
            "stream: another answer of this streamer has begun before this one ended; read one at a time, or make two streamers"
          )
        drawn = scoped(() => noGrad(() => draw(decoder.step(idsOf([token]), undefined), [0], randoms, options)))
      }
    } finally {
      for (const part of first.cache) part.free()
    }
  }
}
