/** The contents of results: rows, answers side by side, tokens. */
import * as Schema from "effect/Schema"
import { HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { readErrors as error } from "./errors.ts"
import { AnyNumber, Count, Digest, list, Message, RunId } from "./values.ts"

/** Results that a run has made or reused, by node. */
export const ResultLine = Schema.Struct({
  node: Schema.String,
  stage: Schema.String,
  type: Schema.String,
  digest: Schema.String,
  isThere: Schema.Boolean
})
export type ResultLine = typeof ResultLine.Type

const AnyRow = Schema.Record(Schema.String, Schema.Unknown)
export const RowsPart = Schema.Struct({
  type: Schema.String,
  name: Schema.String,
  total: Schema.Finite,
  rows: list(Schema.Struct({ index: Schema.Finite, row: AnyRow })),
  /** The row to continue from; null at the end. */
  next: Schema.NullOr(Schema.Finite)
})
export type RowsPart = typeof RowsPart.Type

const OneAnswer = Schema.Struct({
  text: Schema.String,
  reward: Schema.NullOr(AnyNumber),
  helpfulness: Schema.NullOr(AnyNumber),
  safety: Schema.NullOr(AnyNumber),
  finished: Schema.Boolean,
  /** null: not a refusal. */
  refusal: Schema.NullOr(Schema.String),
  /** The set has scores, but none of this answer: the text is from the completions that were scored. */
  isUnscored: Schema.Boolean
})
export type OneAnswer = typeof OneAnswer.Type
export const AnswersPart = Schema.Struct({
  /** Number of rows read per set; fewer than its total if it is too large to compare completely. */
  read: list(Schema.Struct({ digest: Schema.String, rows: Schema.Finite, total: Schema.Finite })),
  categories: list(Schema.String),
  total: Schema.Finite,
  prompts: list(
    Schema.Struct({
      id: Schema.String,
      sample: Schema.Finite,
      prompt: list(Message),
      isSafety: Schema.Boolean,
      category: Schema.NullOr(Schema.String),
      /** In the order of the requested sets; null if a set has no answer. */
      answers: list(Schema.NullOr(OneAnswer))
    })
  )
})
export type AnswersPart = typeof AnswersPart.Type

export const TokensView = Schema.Struct({
  tokens: list(
    Schema.Struct({
      text: Schema.String,
      /** Whether it contributes to the loss. */
      trained: Schema.Boolean,
      /** Natural logarithm of its probability given the preceding tokens. */
      logProbability: Schema.NullOr(AnyNumber),
      reference: Schema.NullOr(AnyNumber)
    })
  ),
  /** What can't be shown, and why. */
  note: Schema.String
})
export type TokensView = typeof TokensView.Type

export class Reading extends HttpApiGroup.make("reading", { topLevel: true }).add(
  HttpApiEndpoint.get("results", "/api/results", { query: { run: RunId }, success: list(ResultLine), error }),
  HttpApiEndpoint.get("rows", "/api/rows", {
    query: { digest: Digest, from: Schema.optional(Count), limit: Schema.optional(Count), search: Schema.optional(Schema.String) },
    success: RowsPart,
    error
  }),
  HttpApiEndpoint.get("answers", "/api/answers", {
    query: {
      run: RunId,
      /** Digests of completions, separated by commas. */
      sets: Schema.String,
      search: Schema.optional(Schema.String),
      category: Schema.optional(Schema.String),
      /** "refused": at least one answer to the prompt is a refusal; "answered": none is; "differing": some are. */
      refusal: Schema.optional(Schema.Literals(["refused", "answered", "differing"])),
      from: Schema.optional(Count),
      limit: Schema.optional(Count)
    },
    success: AnswersPart,
    error
  }),
  HttpApiEndpoint.get("tokens", "/api/tokens", {
    query: {
      digest: Digest,
      row: Count,
      /** A checkpoint or a tokenizer. */
      model: Digest,
      /** Whether to compute the model's log-probabilities, and with which reference model. */
      score: Schema.optional(Schema.Literals(["yes"])),
      reference: Schema.optional(Digest),
      /** For a pair: which of its answers. */
      side: Schema.optional(Schema.Literals(["chosen", "rejected", "responseA", "responseB"]))
    },
    success: TokensView,
    error
  })
) {}
