/** Completions of prompts by one checkpoint: what rejection sampling, preference collection and Ghost Attention share. */
import * as Effect from "effect/Effect"
import type { LoadedPolicy } from "../../models/checkpoint.ts"
import { generate } from "../../models/sampler.ts"
import type { Progress } from "../../runtime/stage.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import type { Message } from "../../schemas/rows.ts"
import { type BatchLog, withoutLog } from "./batch-log.ts"
import { fitPrompt } from "./dialogues.ts"
import { chunks } from "./sequences.ts"

/** Hyperparameters of every stage that samples, but for the temperature. */
export const samplingFields = {
  topP: hyper(1, "nucleus; 1 keeps the whole distribution", { min: 0, max: 1 }),
  topK: hyperInt(0, "most likely tokens kept; 0 keeps all", { min: 0 }),
  maxNewTokens: hyperInt(256, "tokens a completion at most", { min: 1 }),
  batchSize: hyperInt(64, "sequences decoded at once", { min: 1 })
}
/** How a stage that samples computes. */
export const samplingPrecision = hyper("float32", "of weights and activations; what is drawn from is float32 either way", [
  "float32",
  "bfloat16"
])

/** One completion to be drawn. */
export interface Draw {
  readonly messages: ReadonlyArray<Message>
  /** Its own random numbers, whatever batch it is in. */
  readonly seed: number
  readonly temperature: number
}
export interface Sampled {
  readonly text: string
  readonly tokens: ReadonlyArray<number>
  readonly logProbabilities: ReadonlyArray<number>
  /** Whether it ended with the end-of-sequence token. */
  readonly finished: boolean
}
export interface SamplingOptions {
  readonly topP: number
  readonly topK: number
  readonly maxNewTokens: number
  readonly batchSize: number
  readonly progress: (progress: Progress) => Effect.Effect<void>
  /** Where finished batches are kept; none: nowhere. */
  readonly log?: BatchLog
}

/** A completion for each draw, in their order; undefined where the prompt does not fit the context. Prompts of like length share a batch: less padding. */
export const sampleAll = Effect.fn("sampleAll")(function* (
  { model, tokenizer }: LoadedPolicy,
  draws: ReadonlyArray<Draw>,
  options: SamplingOptions
): Effect.fn.Return<Array<Sampled | undefined>, ArtifactError> {
  const { maxNewTokens, topK, topP, log = withoutLog(options.progress) } = options
  const room = model.config.maxPositions - maxNewTokens
  const encoded = new Map<ReadonlyArray<Message>, ReadonlyArray<number> | undefined>()
  const tokensOf = (messages: ReadonlyArray<Message>) => {
    if (!encoded.has(messages)) encoded.set(messages, fitPrompt(tokenizer, messages, room))
    return encoded.get(messages)
  }
  const work = draws.flatMap((draw, index) => {
    const tokens = tokensOf(draw.messages)
    return tokens === undefined ? [] : [{ draw, index, tokens }]
  })
  work.sort((a, b) => a.draw.temperature - b.draw.temperature || a.tokens.length - b.tokens.length || a.index - b.index)
  const batches = [...Map.groupBy(work, ({ draw }) => draw.temperature).values()].flatMap((items) => chunks(items, options.batchSize))
  const out = new Array<Sampled | undefined>(draws.length).fill(undefined)
  let done = 0
  for (const batch of batches) {
    done += batch.length
    const { seed, temperature } = batch[0]!.draw
    const generated = yield* log.next({
      name: `${batch.length} completions at ${temperature}, the first of seed ${seed}`,
      compute: Effect.sync(() =>
        generate(
          model,
          batch.map(({ tokens }) => tokens),
          {
            maxNewTokens,
            topK,
            topP,
            temperature,
            seeds: batch.map(({ draw }) => draw.seed),
            eosId: tokenizer.eosId,
            padId: tokenizer.padId
          }
        )
      ),
      tell: (generated) => ({
        step: done,
        total: work.length,
        tokens: generated.reduce((sum, { tokens }) => sum + tokens.length, 0)
      })
    })
    generated.forEach(({ tokens, logProbabilities, finished }, i) => {
      const text = tokenizer.decode(finished ? tokens.slice(0, -1) : tokens).trim()
      out[batch[i]!.index] = { text, tokens, logProbabilities, finished }
    })
  }
  return out
})
