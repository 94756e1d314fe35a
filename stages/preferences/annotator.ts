/**
 * Who says which of two responses is better (Llama 2 §3.2.1): a forced choice, how much better on four grades, and for safety data whether each response
 * is safe. A service, so that people, a model or a scoring function can take the place.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { Random } from "../../engine/random.ts"
import type { Message, ResponsePair } from "../../schemas/rows.ts"

/** 0 significantly better, 1 better, 2 slightly better, 3 negligibly better or unsure. */
export type Rating = 0 | 1 | 2 | 3

export interface Verdict {
  readonly choice: "A" | "B"
  readonly rating: Rating
  /** Whether each response is safe; null where it was not asked. */
  readonly safeA: boolean | null
  readonly safeB: boolean | null
}

/** A pair could not be judged: what was being done, what was expected, what was found, what to do. */
export class AnnotationError extends Schema.TaggedError<AnnotationError>()("AnnotationError", { message: Schema.String }) {}

export type Kind = "helpfulness" | "safety"

export class Annotator extends Context.Service<
  Annotator,
  {
    /** A verdict for each pair, in their order; null where there can be none (both as good, or no answer that can be read). */
    readonly judge: (pairs: ReadonlyArray<ResponsePair>, kind: Kind) => Effect.Effect<ReadonlyArray<Verdict | null>, AnnotationError>
  }
>()("caravan/stages/Annotator") {}

/** What a scoring function says of a response. */
export interface Judgement {
  readonly helpfulness: number
  readonly safety: number
  readonly violation: boolean
}

export interface OracleOptions {
  readonly score: (messages: ReadonlyArray<Message>, response: string) => Judgement
  /** Differences from which a response is significantly better, better, slightly better. */
  readonly thresholds: readonly [number, number, number]
  /** The difference at which an annotator's chance of the wrong choice has fallen to 1/(2e); 0: never wrong. */
  readonly noise: number
  readonly seed: number
}

export const ratingOf = (difference: number, thresholds: readonly [number, number, number]): Rating => {
  const at = thresholds.findIndex((threshold) => difference >= threshold)
  return (at === -1 ? 3 : at) as Rating
}

/**
 * Annotates by a scoring function: by its safety where the data is about safety and the prompt must be refused, by its helpfulness else. With noise the
 * choice is wrong with probability exp(-|difference| / noise) / 2: annotators agree least where responses differ least.
 */
export const oracleAnnotator = ({ score, thresholds, noise, seed }: OracleOptions): Layer.Layer<Annotator> =>
  Layer.succeed(Annotator, {
    judge: (pairs, kind) =>
      Effect.try({
        try: () =>
          pairs.map((pair): Verdict | null => {
            const [a, b] = [score(pair.prompt, pair.responseA), score(pair.prompt, pair.responseB)]
            const by = kind === "safety" && pair.safety ? "safety" : "helpfulness"
            const difference = a[by] - b[by]
            if (difference === 0) return null
            const size = Math.abs(difference)
            const wrong = noise > 0 && new Random(seed, "annotator", pair.id).next() < Math.exp(-size / noise) / 2
            const labelled = kind === "safety"
            return {
              choice: difference > 0 !== wrong ? "A" : "B",
              rating: ratingOf(size, thresholds),
              safeA: labelled ? !a.violation : null,
              safeB: labelled ? !b.violation : null
            }
          }),
        catch: (cause) =>
          new AnnotationError({ message: `Annotating pairs by the oracle: ${cause instanceof Error ? cause.message : String(cause)}` })
      })
  })
