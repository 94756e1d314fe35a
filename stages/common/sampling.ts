/** Completions of prompts by one checkpoint: what rejection sampling, preference collection and Ghost Attention share. */
import * as Effect from "effect/Effect"
import { formatOf } from "../../models/chat.ts"
import type { LoadedPolicy } from "../../models/checkpoint.ts"
import { generate, promptsAtOnce } from "../../models/sampler.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import type { Message } from "../../schemas/rows.ts"
import { type BatchLog, withoutLog } from "./batch-log.ts"
import { shortestForm } from "./dialogues.ts"
import { chunks } from "./sequences.ts"
import { type AskedPrompt, fitPrompts } from "./unfit.ts"

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
  /** The prompt's; with `maxNewTokens` more they fit the context. */
  readonly tokens: ReadonlyArray<number>
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

/** None of the prompts leaves room for an answer: a stage that went on would give an empty dataset, and what comes after would train on something else. */
export class NoRoomError extends ExplainedError<NoRoomError>()("NoRoomError") {}

const noRoom = (prompts: number, shortest: number | undefined, context: number, maxNewTokens: number): NoRoomError => {
  const doing = `Sampling answers to ${prompts} prompts`
  if (shortest === undefined)
    return NoRoomError.of({
      doing,
      expected: "dialogues that end with the user's message",
      found: "none that the chat format can hold",
      hint: "Look at the stage that made the prompts."
    })
  return NoRoomError.of({
    doing,
    expected: `some that fit ${context} tokens of the model's context less ${maxNewTokens} of an answer (maxNewTokens)`,
    found: `none: the shortest has ${shortest} tokens`,
    hint:
      shortest < context
        ? `Lower maxNewTokens to ${context - shortest} or less, or give shorter prompts.`
        : "Give shorter prompts, or a model with a longer context."
  })
}

/**
 * The prompts that leave room for an answer, with the tokens to continue: one that is too long loses its oldest exchanges. The others are skipped; where none
 * is left, that is a NoRoomError.
 */
export const promptsWithRoom = Effect.fn("promptsWithRoom")(function* <
  Prompt extends { readonly id: string; readonly messages: ReadonlyArray<Message> }
>(
  { model, tokenizer }: LoadedPolicy,
  prompts: ReadonlyArray<Prompt>,
  { maxNewTokens, skipped }: { readonly maxNewTokens: number; readonly skipped: SkippedRows }
): Effect.fn.Return<Array<AskedPrompt<Prompt>>, NoRoomError | StageError> {
  const context = model.config.maxPositions
  const asked = fitPrompts(tokenizer, prompts, context - maxNewTokens, skipped)
  if (prompts.length > 0 && asked.length === 0) {
    const lengths = prompts.flatMap(({ messages }) => shortestForm(tokenizer, messages) ?? [])
    const shortest = lengths.length === 0 ? undefined : lengths.reduce((least, length) => Math.min(least, length))
    return yield* noRoom(prompts.length, shortest, context, maxNewTokens)
  }
  yield* skipped.check("prompts", prompts.length)
  return asked
})

/** A completion for each draw, in their order. Prompts of like length share a batch: less padding. */
export const sampleAll = Effect.fn("sampleAll")(function* (
  { model, tokenizer }: LoadedPolicy,
  draws: ReadonlyArray<Draw>,
  options: SamplingOptions
): Effect.fn.Return<Array<Sampled>, ArtifactError> {
  const { maxNewTokens, topK, topP, log = withoutLog(options.progress) } = options
  const work = draws.map((draw, index) => ({ draw, index }))
  work.sort((a, b) => a.draw.temperature - b.draw.temperature || a.draw.tokens.length - b.draw.tokens.length || a.index - b.index)
  const batches = [...Map.groupBy(work, ({ draw }) => draw.temperature).values()].flatMap((items) =>
    chunks(items, promptsAtOnce(model, options.batchSize))
  )
  const out = new Array<Sampled>(draws.length)
  let done = 0
  for (const batch of batches) {
    done += batch.length
    const { seed, temperature } = batch[0]!.draw
    const generated = yield* log.next({
      name: `${batch.length} completions at ${temperature}, the first of seed ${seed}`,
      compute: Effect.sync(() =>
        generate(
          model,
          batch.map(({ draw }) => draw.tokens),
          {
            maxNewTokens,
            topK,
            topP,
            temperature,
            seeds: batch.map(({ draw }) => draw.seed),
            eosId: formatOf(tokenizer).stopIds,
            padId: tokenizer.padId,
            batchSize: options.batchSize
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
