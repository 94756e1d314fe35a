/** Samples completions of prompts from one checkpoint; used by rejection sampling, preference collection and Ghost Attention. */
import * as Effect from "effect/Effect"
import { formatOf } from "../../models/chat.ts"
import type { LoadedPolicy } from "../../models/checkpoint.ts"
import { type Generated, generate, promptsPerCall } from "../../models/sampler.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
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
import { fitPrompts, type TokenizedPrompt } from "./unfit.ts"

/** Hyperparameters of every stage that samples, except the temperature. */
export const samplingFields = {
  topP: hyper(1, "probability mass kept by nucleus sampling; 1 keeps the whole distribution", { min: 0, max: 1 }),
  topK: hyperInt(0, "number of most likely tokens kept when sampling; 0 keeps all", { min: 0 }),
  maxNewTokens: hyperInt(256, "maximum number of tokens per completion", { min: 1 }),
  batchSize: hyperInt(64, "number of sequences decoded in parallel", { min: 1 }),
  batchInvariant: hyper(
    false,
    "whether an answer must not depend, bit for bit, on batchSize and the other prompts; the stage fails where it would (docs/reproducibility.md)"
  )
}
/** The precision of a stage that samples. */
export const samplingPrecision = hyper("float32", "dtype of weights and activations; the sampling distribution is always float32", [
  "float32",
  "bfloat16"
])

/** One completion to draw. */
export interface Draw {
  /** The tokens of the prompt; there is space for `maxNewTokens` more in the context. */
  readonly tokens: ReadonlyArray<number>
  /** Seed of the completion's random numbers, which do not depend on its batch. */
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
  readonly batchInvariant: boolean
  readonly progress: (progress: Progress) => Effect.Effect<void>
  /** Where finished batches are stored; undefined: nowhere. */
  readonly log?: BatchLog
}

/** No prompt leaves space for an answer, so the dataset would be empty. */
export class NoRoomError extends ExplainedError<NoRoomError>()("NoRoomError") {}

const noRoom = (prompts: number, shortest: number | undefined, context: number, maxNewTokens: number): NoRoomError => {
  const doing = `Sampling answers to ${prompts} prompts`
  if (shortest === undefined)
    return NoRoomError.of({
      doing,
      expected: "dialogues that end with the user's message",
      found: "no dialogue that the chat format can represent",
      hint: "Check the stage that made the prompts."
    })
  return NoRoomError.of({
    doing,
    expected: `at least one that fits the model's context of ${context} tokens minus ${maxNewTokens} for the answer (maxNewTokens)`,
    found: `none: the shortest has ${shortest} tokens`,
    hint:
      shortest < context
        ? `Lower maxNewTokens to ${context - shortest} or less, or use shorter prompts.`
        : "Use shorter prompts, or a model with a longer context."
  })
}

/**
 * The prompts that leave space for an answer of `maxNewTokens`, each with its tokens; long ones lose their oldest exchanges. The others are skipped;
 * if none is left, fails with NoRoomError.
 */
export const promptsWithRoom = Effect.fn("promptsWithRoom")(function* <
  Prompt extends { readonly id: string; readonly messages: ReadonlyArray<Message> }
>(
  { model, tokenizer }: LoadedPolicy,
  prompts: ReadonlyArray<Prompt>,
  { maxNewTokens, skipped }: { readonly maxNewTokens: number; readonly skipped: SkippedRows }
): Effect.fn.Return<Array<TokenizedPrompt<Prompt>>, NoRoomError | StageError> {
  const context = model.config.maxPositions
  const tokenized = fitPrompts(tokenizer, prompts, context - maxNewTokens, skipped)
  if (prompts.length > 0 && tokenized.length === 0) {
    const lengths = prompts.flatMap(({ messages }) => shortestForm(tokenizer, messages) ?? [])
    const shortest = lengths.length === 0 ? undefined : lengths.reduce((least, length) => Math.min(least, length))
    return yield* noRoom(prompts.length, shortest, context, maxNewTokens)
  }
  yield* skipped.check("prompts", prompts.length)
  return tokenized
})

/** The text of an answer, without its end-of-sequence token. A padded embedding table has rows without a token: an answer with one can't be decoded, and counts as empty. */
export const textOf = (tokenizer: Tokenizer, { finished, tokens }: Pick<Generated, "finished" | "tokens">): string =>
  tokens.some((id) => id >= tokenizer.vocabSize) ? "" : tokenizer.decode(finished ? tokens.slice(0, -1) : tokens).trim()

/** One completion per draw, in order. Prompts of similar length share a batch to reduce padding. */
export const sampleAll = Effect.fn("sampleAll")(function* (
  { model, tokenizer }: LoadedPolicy,
  draws: ReadonlyArray<Draw>,
  options: SamplingOptions
): Effect.fn.Return<Array<Sampled>, ArtifactError> {
  const { maxNewTokens, topK, topP, log = withoutLog(options.progress) } = options
  const work = draws.map((draw, index) => ({ draw, index }))
  work.sort((a, b) => a.draw.temperature - b.draw.temperature || a.draw.tokens.length - b.draw.tokens.length || a.index - b.index)
  const batches = [...Map.groupBy(work, ({ draw }) => draw.temperature).values()].flatMap((items) =>
    chunks(items, promptsPerCall(model, options.batchSize))
  )
  const out = new Array<Sampled>(draws.length)
  let done = 0
  const computed = batches.map((batch) => {
    const step = (done += batch.length)
    const { seed, temperature } = batch[0]!.draw
    return {
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
            batchSize: options.batchSize,
            batchInvariant: options.batchInvariant
          }
        )
      ),
      progressOf: (generated: ReadonlyArray<Generated>) => ({
        step,
        total: work.length,
        tokens: generated.reduce((sum, { tokens }) => sum + tokens.length, 0)
      })
    }
  })
  const generated = (yield* log.all(computed)).flat()
  batches.flat().forEach(({ index }, i) => {
    const { finished, logProbabilities, tokens } = generated[i]!
    out[index] = { text: textOf(tokenizer, generated[i]!), tokens, logProbabilities, finished }
  })
  return out
})
