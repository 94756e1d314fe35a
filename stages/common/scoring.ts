/** Scores token sequences and sets of completions with a reward model, or with a scorer that replaces one. */
import * as Effect from "effect/Effect"
import { arange, type Device, type DType, linear, noGrad, scoped, tensor, type Tensor } from "../../engine/tensor.ts"
import { type LoadedReward, loadReward } from "../../models/checkpoint.ts"
import { formatOf } from "../../models/chat.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import type { ArtifactError, ArtifactRef, Checkpoint } from "../../schemas/artifact.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { Completion, Message } from "../../schemas/rows.ts"
import { type BatchLog, withoutLog } from "./batch-log.ts"
import { fitDialogue } from "./dialogues.ts"
import { sampleId } from "./pairing.ts"
import { isScorer, openScorer, type ScorableAnswer, type Scorer, type ScorerError } from "./scorer.ts"
import { chunks } from "./sequences.ts"
import { anyShare, type SkippableRows, whyUnfit } from "./unfit.ts"

/**
 * The score of each sequence, (B,) float32: the head's output at the sequence's last token (the EOS, or the last token of a truncated response).
 * Sequences are padded on the right to the longest. The head runs in float32 for any dtype of the backbone: rounded to bfloat16's 8 significant
 * bits, different scores would tie and small margins would be lost.
 */
export const scoreSequences = (
  model: RewardModel,
  sequences: ReadonlyArray<ReadonlyArray<number>>,
  options: { readonly padId: number; readonly device: Device }
): Tensor => {
  const { device, padId } = options
  const length = Math.max(...sequences.map((sequence) => sequence.length))
  const ids = new Int32Array(sequences.length * length).fill(padId)
  sequences.forEach((sequence, i) => ids.set(sequence, i * length))
  const last = Int32Array.from(sequences, (sequence) => sequence.length - 1)
  const hidden = model.backbone.hidden(tensor(ids, { shape: [sequences.length, length], dtype: "int64", device })) // (B, T, D)
  const rows = arange(0, sequences.length, { device })
    .mul(length)
    .add(tensor(last, { dtype: "int64", device })) // (B,)
  const ends = hidden.reshape(-1, hidden.size(-1)).indexSelect(0, rows) // (B, D)
  return linear(ends.to({ dtype: "float32" }), model.head.to({ dtype: "float32" })).squeeze(-1)
}

/** Config fields of stages that score with a reward model. */
export const scoringFields = {
  batchSize: hyperInt(32, "number of responses scored in parallel", { min: 1 }),
  precision: hyper("float32", "dtype of the model's weights and activations; scores are always float32", ["float32", "bfloat16"])
}

export type AnyReward = Checkpoint<"helpfulness-reward"> | Checkpoint<"safety-reward"> | Checkpoint<"general-reward">

/** A dialogue that ends with a response, and whether the response is complete or was truncated. */
export interface Scorable {
  readonly prompt: ReadonlyArray<Message>
  readonly text: string
  readonly finished: boolean
  /** Whether its prompt is meant to elicit something unsafe, if known. */
  readonly safety?: boolean
}

/** A reward model returned a score that is NaN or infinite. */
export class NotFiniteScoreError extends ExplainedError<NotFiniteScoreError>()("NotFiniteScoreError") {}

export interface ScoringOptions {
  readonly batchSize: number
  readonly precision: DType
  readonly device: Device
  readonly progress: (progress: Progress) => Effect.Effect<void>
  /** Where finished batches are stored; undefined: nowhere. */
  readonly log?: BatchLog
}

/** Loads a reward model for the duration of `use`, then frees its weights, so that two models don't have to fit in memory together. */
export const withReward = <A, E>(
  reward: ArtifactRef<AnyReward>,
  options: ScoringOptions,
  use: (loaded: LoadedReward) => Effect.Effect<A, E>
): Effect.Effect<A, E | ArtifactError> =>
  Effect.acquireUseRelease(loadReward(reward, { device: options.device, dtype: options.precision }), use, ({ model }) =>
    Effect.sync(() => Object.values(model.parameters).forEach((parameter) => parameter.free()))
  )

/** The score of every sequence, in order. Sequences of similar length share a batch to reduce padding. Fails with NotFiniteScoreError if a score is NaN or infinite. */
export const scoreAll = Effect.fn("scoreAll")(function* (
  { model, tokenizer }: LoadedReward,
  sequences: ReadonlyArray<ReadonlyArray<number>>,
  options: ScoringOptions
): Effect.fn.Return<Array<number>, NotFiniteScoreError | ArtifactError> {
  const { log = withoutLog(options.progress) } = options
  const scores = new Array<number>(sequences.length)
  const order = sequences.map((_, i) => i).sort((a, b) => sequences[a]!.length - sequences[b]!.length || a - b)
  let done = 0
  const batches = chunks(order, options.batchSize).map((batch) => {
    const part = batch.map((i) => sequences[i]!)
    const step = (done += batch.length)
    return {
      name: `scores of ${part.length} sequences of up to ${part.at(-1)!.length} tokens, the first number ${batch[0]!}`,
      compute: Effect.suspend(() => {
        const values = scoped(() =>
          noGrad(() => scoreSequences(model, part, { padId: tokenizer.padId, device: options.device }).toNumbers())
        )
        const bad = values.findIndex((value) => !Number.isFinite(value))
        return bad === -1
          ? Effect.succeed(values)
          : NotFiniteScoreError.of({
              doing: `Scoring response ${batch[bad]! + 1}`,
              expected: "a finite score",
              found: `${values[bad]!}`,
              hint: "The reward model's weights are damaged or have diverged: train it again with a lower learning rate, or score in float32."
            })
      }),
      progressOf: () => ({ step, total: sequences.length, tokens: part.reduce((sum, tokens) => sum + tokens.length, 0) })
    }
  })
  const values = (yield* log.all(batches)).flat()
  order.forEach((index, i) => (scores[index] = values[i]!))
  return scores
})

export interface RawScores {
  /** The model's scalar for each response, in order; undefined if the response has no score. */
  readonly scores: ReadonlyArray<number | undefined>
  /** Number of empty responses (only white space). They are neither scored nor chosen. */
  readonly empty: number
  /** Number of other responses without a score: they do not fit the model's context, the chat format cannot represent them, or a judge gave no grade. */
  readonly unfit: number
}

/** A scorer's number for each answer, in order; undefined where a judge's reply contained no grade. */
export const scoreByScorer = Effect.fn("scoreByScorer")(function* (
  scorer: Scorer,
  answers: ReadonlyArray<ScorableAnswer>,
  options: Pick<ScoringOptions, "batchSize" | "progress" | "log">
): Effect.fn.Return<Array<number | undefined>, ScorerError | ArtifactError> {
  const { batchSize, log = withoutLog(options.progress), progress } = options
  let done = 0
  const batches = chunks(answers, batchSize).map((batch) => {
    const step = (done += batch.length)
    return {
      name: `numbers of ${batch.length} answers, the first ${batch[0]!.id}`,
      compute: scorer.score(batch, progress),
      progressOf: () => ({ step, total: answers.length }),
      onRankZero: true
    }
  })
  return (yield* log.all(batches)).flat()
})

/** Scores responses with a scorer. As with a reward model, an empty response has no score. */
const scoreAnswers = Effect.fnUntraced(function* (
  reward: ArtifactRef<AnyReward>,
  responses: ReadonlyArray<Scorable>,
  { idOf, maxShare, skipped, what }: SkippableRows,
  options: ScoringOptions
) {
  const scorer = yield* openScorer(reward)
  const isEmpty = ({ text }: Scorable) => text.trim() === ""
  const work = responses.flatMap((response, index) => (isEmpty(response) ? [] : [{ index, ...response, id: idOf(index) }]))
  const values = yield* scoreByScorer(scorer, work, options)
  const scores = new Array<number | undefined>(responses.length).fill(undefined)
  work.forEach(({ index }, i) => (scores[index] = values[i]))
  responses.forEach((response, index) => {
    if (scores[index] !== undefined) return
    const reason = isEmpty(response) ? "without a word" : `of which ${scorer.name} gave no grade`
    skipped.add({ what, reason, id: idOf(index), row: { prompt: response.prompt, text: response.text } })
  })
  yield* skipped.check(what, responses.length, maxShare)
  const empty = responses.length - work.length
  return { scores, empty, unfit: values.filter((value) => value === undefined).length }
}, Effect.scoped)

/**
 * The raw scalar of every response from one reward model, or from a scorer that replaces it. The text is tokenised with the reward model's own
 * tokenizer, which may differ from the policy's. Responses without a score are skipped. It is an error if too many are skipped; with a reward model, it is
 * found before any response is scored.
 */
export const scoreResponses = (
  reward: ArtifactRef<AnyReward>,
  responses: ReadonlyArray<Scorable>,
  rows: SkippableRows,
  options: ScoringOptions
): Effect.Effect<RawScores, ArtifactError | NotFiniteScoreError | ScorerError | StageError> =>
  isScorer(reward) ? scoreAnswers(reward, responses, rows, options) : scoreByModel(reward, responses, rows, options)

const scoreByModel = (
  reward: ArtifactRef<AnyReward>,
  responses: ReadonlyArray<Scorable>,
  { skipped, what, idOf, maxShare }: SkippableRows,
  options: ScoringOptions
): Effect.Effect<RawScores, ArtifactError | NotFiniteScoreError | StageError> =>
  withReward(
    reward,
    options,
    Effect.fnUntraced(function* (loaded: LoadedReward) {
      const length = loaded.model.config.maxPositions
      const { closing } = formatOf(loaded.tokenizer)
      const work = responses.flatMap((response, index) => {
        const { finished, prompt, text } = response
        const messages: ReadonlyArray<Message> = [...prompt, { role: "assistant", content: text }]
        const example = fitDialogue(loaded.tokenizer, messages, length)
        if (example === undefined) {
          skipped.add({ what, ...whyUnfit(loaded.tokenizer, messages, length), id: idOf(index), row: { prompt, text } })
          return []
        }
        // A truncated answer has no closing tokens and is scored at its last token.
        return [{ index, tokens: finished ? example.tokens : example.tokens.slice(0, -closing) }]
      })
      yield* skipped.check(what, responses.length, maxShare)
      const values = yield* scoreAll(
        loaded,
        work.map((item) => item.tokens),
        options
      )
      const scores = new Array<number | undefined>(responses.length).fill(undefined)
      work.forEach(({ index }, i) => (scores[index] = values[i]!))
      const empty = responses.filter((response) => response.text.trim() === "").length
      return { scores, empty, unfit: responses.length - work.length - empty }
    })
  )

/** How to report completions that are skipped; any share may be. */
export const completionRows = (
  skipped: SkippedRows,
  completions: ReadonlyArray<Pick<Completion, "promptId" | "sample">>
): SkippableRows => ({ skipped, what: "completions", idOf: (index) => sampleId(completions[index]!), maxShare: anyShare })
