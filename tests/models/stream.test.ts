/** Streams the tokens of an answer: the same as from `generate`, with nothing left behind when the reader stops. */
import { setImmediate } from "node:timers/promises"
import { describe, expect, it } from "vitest"
import { liveTensors, noGrad } from "../../engine/tensor.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { generate } from "../../models/sampler.ts"
import { type StreamedToken, Streamer, type StreamOptions } from "../../models/stream.ts"
import { devices } from "../devices.ts"
import { smallConfig } from "./small.ts"
import { sharpen } from "./tensors.ts"

const eosId = 2
const prompts = [[1, 5, 9, 13, 60, 3, 7], [1], [1, 8, 8, 30, 21]]
const base: StreamOptions = { maxNewTokens: 30, temperature: 1, seed: 7, eosId }

const collect = async (answer: AsyncIterable<StreamedToken>): Promise<Array<StreamedToken>> => {
  const all: Array<StreamedToken> = []
  for await (const one of answer) all.push(one)
  return all
}

for (const { device, skip } of devices)
  describe.skipIf(skip)(`a stream of tokens on ${device}`, () => {
    /** Some tokens are likely and some are unlikely. */
    const sharp = (over = {}): Llama => sharpen(initLlama(smallConfig(over), { seed: 3, device }), 10)

    /** Call after a first answer: the model keeps the tables of its rotary embedding. */
    const used = async (model: Llama): Promise<Streamer> => {
      const streamer = new Streamer(model)
      await collect(streamer.answer([1], base))
      return streamer
    }

    it.each([
      ["greedy", { temperature: 0 }],
      ["sampled", { temperature: 1 }],
      ["of the ten likeliest", { temperature: 1.3, topK: 10 }],
      ["of the nucleus", { temperature: 0.8, topP: 0.8 }],
      ["of both, without an end", { temperature: 1, topK: 12, topP: 0.9, eosId: undefined }]
    ])("equals generate's result for that prompt alone, whatever was answered before: %s", async (_, over) => {
      for (const shape of [{}, { kvHeads: 6 }, { kvHeads: 1, tiedEmbeddings: true }]) {
        const model = sharp(shape)
        const streamer = new Streamer(model)
        for (const [i, prompt] of [...prompts, ...prompts.toReversed()].entries()) {
          const options = { ...base, ...over, seed: 100 + i }
          const [whole] = generate(model, [prompt], { ...options, seeds: [options.seed], padId: 0 })
          const streamed = await collect(streamer.answer(prompt, options))
          expect(streamed.map(({ token }) => token)).toEqual(whole!.tokens)
          expect(streamed.map(({ logProbability }) => logProbability)).toEqual(whole!.logProbabilities)
        }
      }
    })

    it("ends with the end-of-sequence token, or after the requested number of tokens", async () => {
      const streamer = new Streamer(sharp())
      const lengths = new Set<number>()
      for (let seed = 0; seed < 20; seed++) {
        const tokens = (await collect(streamer.answer([1, 5], { ...base, seed }))).map(({ token }) => token)
        lengths.add(tokens.length)
        expect([-1, tokens.length - 1]).toContain(tokens.indexOf(eosId))
        expect(tokens.includes(eosId) || tokens.length === 30).toBe(true)
      }
      expect(lengths.size).toBeGreaterThan(3)
      expect(await collect(streamer.answer([1, 5], { ...base, maxNewTokens: 0 }))).toEqual([])
    })

    it("yields to others between two tokens", async () => {
      const streamer = new Streamer(sharp())
      const seen = { turns: 0, reading: true }
      const other = (async () => {
        for (; seen.reading; seen.turns++) await setImmediate()
      })()
      const tokens = await collect(streamer.answer([1, 5], { ...base, eosId: undefined }))
      seen.reading = false
      await other
      expect(tokens).toHaveLength(30)
      expect(seen.turns).toBeGreaterThanOrEqual(29)
    })

    it("frees its cache at the end, when the reader stops early, and when the reader fails", async () => {
      const streamer = await used(sharp())
      const endless = { ...base, eosId: undefined }
      const before = liveTensors()
      await collect(streamer.answer([1, 5, 6], endless))
      expect(liveTensors()).toBe(before)
      for await (const _ of streamer.answer([1, 5, 6], endless)) {
        expect(liveTensors()).toBeGreaterThan(before)
        break
      }
      expect(liveTensors()).toBe(before)
      const failing = (async () => {
        for await (const _ of streamer.answer([1, 5, 6], endless)) throw new Error("enough")
      })()
      await expect(failing).rejects.toThrow("enough")
      expect(liveTensors()).toBe(before)
      // Its later answers are not affected by the interruption.
      const [whole] = generate(sharp(), [[1, 9]], { ...endless, seeds: [7], padId: 0 })
      expect((await collect(streamer.answer([1, 9], endless))).map(({ token }) => token)).toEqual(whole!.tokens)
    })

    it("rejects continuing an answer after another has begun, while the other continues", async () => {
      const model = sharp()
      const streamer = await used(model)
      const before = liveTensors()
      const endless = { ...base, eosId: undefined }
      const first = streamer.answer([1, 5], endless)
      await first.next()
      const second = streamer.answer([1, 9], endless)
      const { value } = await second.next()
      await expect(first.next()).rejects.toThrow("another answer of this streamer started")
      const [whole] = generate(model, [[1, 9]], { ...endless, seeds: [7], padId: 0 })
      expect([value as StreamedToken, ...(await collect(second))].map(({ token }) => token)).toEqual(whole!.tokens)
      expect(liveTensors()).toBe(before)
    })

    it("reports what it can't do, and leaves nothing behind", async () => {
      const model = sharp()
      const streamer = await used(model)
      const before = liveTensors()
      const attempt = (over: Partial<StreamOptions>, prompt: ReadonlyArray<number> = [1]) =>
        collect(streamer.answer(prompt, { ...base, ...over }))
      await expect(attempt({ temperature: -1 })).rejects.toThrow("stream: temperature must be a number of 0 or more, got -1")
      await expect(attempt({ topK: 1.5 })).rejects.toThrow("stream: topK must be an integer of 0 or more, got 1.5")
      await expect(attempt({ topP: 1.1 })).rejects.toThrow("stream: topP must be between 0 and 1, got 1.1")
      await expect(attempt({ maxNewTokens: -1 })).rejects.toThrow("stream: maxNewTokens must be an integer of 0 or more, got -1")
      await expect(attempt({}, [])).rejects.toThrow("stream: the prompt has no tokens")
      const { maxPositions } = model.config
      const long = Array.from({ length: maxPositions - 3 }, (_, i) => 3 + (i % 50))
      expect(await attempt({ maxNewTokens: 3, eosId: undefined }, long)).toHaveLength(3)
      await expect(attempt({ maxNewTokens: 4 }, long)).rejects.toThrow(
        `a prompt of ${maxPositions - 3} tokens and 4 new tokens exceed the model's context of ${maxPositions}`
      )
      expect(liveTensors()).toBe(before)
    })

    it("stops if the model gives NaN", async () => {
      for (const temperature of [0, 1]) {
        const broken = sharp()
        const streamer = await used(broken)
        noGrad(() => broken.parameter("model.norm.weight").fill_(NaN))
        const before = liveTensors()
        await expect(collect(streamer.answer([1, 5], { ...base, temperature }))).rejects.toThrow(/not numbers|above 0/)
        expect(liveTensors()).toBe(before)
      }
    })
  })
