/** The row schemas of the datasets that stages exchange. Arrow types follow from them (arrow.ts); numbers are float64 unless annotated. */
import * as Schema from "effect/Schema"
import { dataset } from "./dataset.ts"

const int32 = Schema.Number.annotate({ arrow: "int32" }).check(Schema.isInt())
const float32 = Schema.Number.annotate({ arrow: "float32" })
const uint8 = Schema.Number.annotate({ arrow: "uint8" }).check(Schema.isInt())

export const Message = Schema.Struct({ role: Schema.Literals(["system", "user", "assistant"]), content: Schema.String })
export type Message = typeof Message.Type

/** A prompt for a model: a dialogue that ends with the user's message. */
export const Prompt = Schema.Struct({
  id: Schema.String,
  messages: Schema.Array(Message),
  /** Whether the prompt is meant to elicit something unsafe (§3.2.3: is_safety). */
  safety: Schema.Boolean,
  /** The kind of prompt, if known: a risk category (§4.2), "borderline", a topic. */
  category: Schema.NullOr(Schema.String),
  /** The user's next messages, one per turn, regardless of the model's answers: dialogues are extended with these (§3.2.1, A.3.1). */
  followUps: Schema.Array(Schema.String)
})
export type Prompt = typeof Prompt.Type

/** A dialogue that ends with the answer to learn from. */
export const Demonstration = Schema.Struct({
  id: Schema.String,
  messages: Schema.Array(Message),
  /** Which answers contribute to the loss: all of them, or only the last (Ghost Attention, §3.3: zero on all tokens of previous turns). */
  loss: Schema.Literals(["answers", "last-answer"])
})
export type Demonstration = typeof Demonstration.Type

/** Two responses to one prompt, one chosen over the other (§3.2.1). */
export const Preference = Schema.Struct({
  id: Schema.String,
  prompt: Schema.Array(Message),
  chosen: Schema.String,
  rejected: Schema.String,
  /** How much better `chosen` is: 0 significantly, 1 better, 2 slightly, 3 negligibly or unsure; null if the annotators gave no rating. */
  rating: Schema.NullOr(Schema.Number.annotate({ arrow: "int32" }).check(Schema.isInt(), Schema.isBetween({ minimum: 0, maximum: 3 }))),
  chosenSafe: Schema.NullOr(Schema.Boolean),
  rejectedSafe: Schema.NullOr(Schema.Boolean),
  source: Schema.String
})
export type Preference = typeof Preference.Type

/** Two answers to one prompt for an annotator to compare (§3.2.1: from two model variants, at different temperatures). */
export const ResponsePair = Schema.Struct({
  id: Schema.String,
  prompt: Schema.Array(Message),
  safety: Schema.Boolean,
  category: Schema.NullOr(Schema.String),
  followUps: Schema.Array(Schema.String),
  responseA: Schema.String,
  responseB: Schema.String,
  /** Content digests of the checkpoints that generated the answers. */
  policyA: Schema.String,
  policyB: Schema.String,
  temperatureA: Schema.Number,
  temperatureB: Schema.Number
})
export type ResponsePair = typeof ResponsePair.Type

/** One sampled answer, with the log-probability of each of its tokens under the sampling distribution. */
export const Completion = Schema.Struct({
  promptId: Schema.String,
  prompt: Schema.Array(Message),
  /** Whether the prompt is meant to elicit something unsafe (§3.2.3: is_safety). */
  safety: Schema.Boolean,
  /** Index among the prompt's K samples. */
  sample: int32,
  text: Schema.String,
  /** Includes the end-of-sequence token if it was reached. */
  tokens: Schema.Array(int32),
  logProbabilities: Schema.Array(float32),
  /** Whether the answer ended with the end-of-sequence token. */
  finished: Schema.Boolean,
  temperature: Schema.Number,
  /** Content digest of the checkpoint that sampled it. */
  policy: Schema.String
})
export type Completion = typeof Completion.Type

export const ScoredCompletion = Schema.Struct({
  ...Completion.fields,
  /** The quantity to maximise: a reward model's scalar before the sigmoid, or logit(R_c) of two reward models. */
  reward: Schema.Number,
  /** R_h and R_s in (0, 1), if that reward model was evaluated (§3.2.3). */
  helpfulnessScore: Schema.NullOr(Schema.Number),
  safetyScore: Schema.NullOr(Schema.Number)
})
export type ScoredCompletion = typeof ScoredCompletion.Type

/** The scores of both responses of a pair. */
export const PairScore = Schema.Struct({
  id: Schema.String,
  rating: Schema.NullOr(int32),
  source: Schema.String,
  chosenReward: Schema.Number,
  rejectedReward: Schema.Number,
  chosenCharacters: int32,
  rejectedCharacters: int32
})
export type PairScore = typeof PairScore.Type

/** A packed training row. */
export const TokenSequence = Schema.Struct({ tokens: Schema.Array(int32), lossMask: Schema.Array(uint8), segments: Schema.Array(int32) })
export type TokenSequence = typeof TokenSequence.Type

export const Text = Schema.Struct({ text: Schema.String })

export const Prompts = dataset(Prompt, "prompt/2")
export const Demonstrations = dataset(Demonstration, "demonstration/2")
export const Preferences = dataset(Preference, "preference/1")
export const ResponsePairs = dataset(ResponsePair, "response-pair/1")
export const Completions = dataset(Completion, "completion/2")
export const ScoredCompletions = dataset(ScoredCompletion, "scored-completion/2")
export const PairScores = dataset(PairScore, "pair-score/1")
export const TokenSequences = dataset(TokenSequence, "token-sequence/1")
export const Texts = dataset(Text, "text/1")
