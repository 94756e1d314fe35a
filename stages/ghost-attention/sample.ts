/**
 * Ghost Attention's dialogues (Llama 2 §3.3), sampled turn by turn from the latest model: for training, with the instruction before every user message;
 * for evaluation, only before the first.
 *
 * Deviation: a dialogue ends before an answer that is truncated or empty, and before a question that no longer fits the context. Other stages would remove
 * the oldest turns then, but here the first turn contains the instruction.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { deriveSeed } from "../../engine/random.ts"
import { chatFault } from "../../models/chat.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { dataset } from "../../schemas/dataset.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyper } from "../../schemas/hyper.ts"
import type { Message } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { fitPrompt } from "../common/dialogues.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { sampleAll, samplingFields, type SamplingOptions, samplingPrecision } from "../common/sampling.ts"
import { conversing } from "./cost.ts"
import { GhostDialogue, GhostDialogues } from "./instructions.ts"

/**
 * Why a dialogue ended early: there was no space for another answer, or the answer was truncated, was empty, or contained tags of the chat format.
 */
const Ending = Schema.Literals(["too long", "unfinished", "empty", "format"])
type Ending = typeof Ending.Type

const instructed = (instruction: string, question: string): string => `${instruction} ${question}`

/** The dialogue up to question `turn` (from 0), with the instruction before every user message or only before the first. */
export const dialogueTo = (
  { questions }: Pick<GhostDialogue, "questions">,
  answers: ReadonlyArray<string>,
  turn: number,
  instruction: string,
  where: "every turn" | "first turn"
): Array<Message> =>
  questions
    .slice(0, turn + 1)
    .flatMap((question, i): Array<Message> => [
      { role: "user", content: where === "every turn" || i === 0 ? instructed(instruction, question) : question },
      ...(i < turn ? [{ role: "assistant" as const, content: answers[i]! }] : [])
    ])

/** The course of a dialogue: its answers, and why it ended early. */
interface Conversation {
  readonly answers: ReadonlyArray<string>
  readonly ended: Ending | null
}

/** Samples all dialogues, turn by turn: the answers of one turn are sampled together. */
export const converse = Effect.fn("converse")(function* (
  policy: Parameters<typeof sampleAll>[0],
  dialogues: ReadonlyArray<GhostDialogue>,
  options: SamplingOptions & { readonly where: "every turn" | "first turn"; readonly temperature: number; readonly seed: number }
): Effect.fn.Return<ReadonlyArray<Conversation>, ArtifactError> {
  const { model, tokenizer } = policy
  const maxPromptTokens = model.config.maxPositions - options.maxNewTokens
  const conversations = dialogues.map((dialogue) => ({ dialogue, answers: [] as Array<string>, ended: null as Ending | null }))
  const turns = Math.max(...dialogues.map(({ questions }) => questions.length))
  for (let turn = 0; turn < turns; turn++) {
    const open = conversations.flatMap((conversation) => {
      const { dialogue, answers } = conversation
      if (conversation.ended !== null || turn >= dialogue.questions.length) return []
      const messages = dialogueTo(dialogue, answers, turn, dialogue.instruction, options.where)
      const tokens = fitPrompt(tokenizer, messages, maxPromptTokens, "leave out")
      if (tokens !== undefined) return [{ conversation, messages, tokens }]
      conversation.ended = chatFault(tokenizer, messages) === undefined ? "too long" : "format"
      return []
    })
    const sampled = yield* sampleAll(
      policy,
      open.map(({ conversation, tokens }) => ({
        tokens,
        temperature: options.temperature,
        seed: deriveSeed(options.seed, "ghost", options.where, conversation.dialogue.id, turn)
      })),
      options
    )
    open.forEach(({ conversation, messages }, i) => {
      const { text, finished } = sampled[i]!
      if (!finished) conversation.ended = "unfinished"
      else if (text === "") conversation.ended = "empty"
      else if (chatFault(tokenizer, [...messages, { role: "assistant", content: text }]) !== undefined) conversation.ended = "format"
      else conversation.answers.push(text)
    })
  }
  return conversations
})

/** Number of dialogues that ended early, by reason. */
export const endingsOf = (conversations: ReadonlyArray<Pick<Conversation, "ended">>) => {
  const count = (why: Ending) => conversations.filter(({ ended }) => ended === why).length
  return { tooLong: count("too long"), unfinished: count("unfinished"), empty: count("empty"), format: count("format") }
}

export const noAnswers = (doing: string, conversations: ReadonlyArray<Conversation>) => {
  const endings = endingsOf(conversations)
  const { tooLong, unfinished, empty, format } = endings
  const [most] = (Object.keys(endings) as Array<keyof typeof endings>).sort((a, b) => endings[b] - endings[a])
  return EmptyDatasetError.of(
    doing,
    `${conversations.length} dialogues, none with an answer to its first question (${tooLong} leave no space for maxNewTokens in the model's context, ${unfinished} answers are truncated at maxNewTokens, ${empty} are empty, ${format} cannot be represented in the chat format)`,
    endingAdvice[most!]
  )
}

/** What to do about the most frequent reason. */
const endingAdvice: Readonly<Record<keyof ReturnType<typeof endingsOf>, string>> = {
  tooLong: "Lower maxNewTokens, or use a model with a longer context.",
  unfinished: "Raise maxNewTokens; if the answers never end, train the model for more steps.",
  empty: "The model is probably trained too little: train it for more steps.",
  format: "Read the answers: a model that writes tags of the chat format is probably trained too little."
}

/** Sampling settings of dialogues, for training and evaluation. */
export const dialogueSamplingFields = {
  temperature: hyper(1, "sampling temperature; §3.3 gives none", { min: 0 }),
  ...samplingFields,
  precision: samplingPrecision
}

/** A sampled dialogue: one answer per question, up to the turn at which it ended. */
export const GhostSample = Schema.Struct({
  ...GhostDialogue.fields,
  answers: Schema.Array(Schema.String),
  /** Null if every question is answered. */
  ended: Schema.NullOr(Ending)
})
export type GhostSample = typeof GhostSample.Type
export const GhostSamples = dataset(GhostSample, "ghost-sample/2")

export const ghostSample = Stage.make("ghost-sample", {
  description: "§3.3 samples dialogues with the instruction before every user message",
  config: Schema.Struct({
    instruction: hyper(
      "every turn",
      "position of the instruction: before every user message, for training; or only before the first, for evaluation by a judge",
      ["every turn", "first turn"]
    ),
    endedEarly: hyper(
      "keep",
      "what to do with dialogues that end before their last question: keep the answered turns, or drop the dialogue",
      ["keep", "drop"]
    ),
    ...dialogueSamplingFields
  }),
  inputs: { policy: Policy, dialogues: GhostDialogues },
  output: GhostSamples,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("ghost-sample")(function* ({ config, inputs, output, seed, device, progress, checkpoints }) {
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const dialogues = yield* readRows(inputs.dialogues, GhostDialogues)
    if (dialogues.length === 0) return yield* EmptyDatasetError.of("sample dialogues of", "no dialogues")
    const { temperature, topP, topK, maxNewTokens, batchSize, batchInvariant } = config
    const log = yield* openBatchLog({ checkpoints, progress })
    const conversations = yield* converse(policy, dialogues, {
      ...{ temperature, topP, topK, maxNewTokens, batchSize, batchInvariant, seed, progress, log },
      where: config.instruction
    })
    if (conversations.every(({ answers }) => answers.length === 0)) return yield* noAnswers("sample dialogues of", conversations)
    const rows = dialogues
      .map((dialogue, i): GhostSample => ({ ...dialogue, answers: conversations[i]!.answers, ended: conversations[i]!.ended }))
      .filter(({ ended }) => ended === null || config.endedEarly === "keep")
    const whole = conversations.filter(({ ended }) => ended === null).length
    return yield* writeDataset(output, rows, { metrics: { dialogues: dialogues.length, whole, ...endingsOf(conversations) } })
  })
})

export const ghostSampleCost = costOf(ghostSample, {
  size: ({ config, expected, inputs }) => sized(inputs.dialogues, { responseTokens: expected.responseTokens ?? config.maxNewTokens }),
  cost: ({ config, expected, inputs }) => conversing(inputs.policy, inputs.dialogues, config, expected)
})
