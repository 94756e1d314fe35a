/**
 * Ghost Attention (Llama 2 §3.3): an instruction that holds for a whole dialogue. It is put in front of every user message to sample the dialogue from the
 * latest model; to train, it stays in the first turn only, and all tokens of previous turns, assistant messages included, carry no loss.
 *
 * Deviations: one row a turn (2 to n) unless asked otherwise, so that each turn is a last one; the paper does not say whether it does so or takes the whole
 * dialogue once. A dialogue ends before an answer that was cut off or is empty, and where the next question does not fit the context any more: elsewhere the
 * oldest turns are dropped then, but here the first holds the instruction.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../../data/dataset.ts"
import { grade, UnknownQuestionError } from "../../data/world/oracle.ts"
import { deriveSeed, Random } from "../../engine/random.ts"
import { fitsChatFormat } from "../../models/chat.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import { dataset } from "../../schemas/dataset.ts"
import { report } from "../../schemas/report.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type Demonstration, Demonstrations, type Message, Prompts } from "../../schemas/rows.ts"
import { fitPrompt } from "../common/dialogues.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { type NoRoomError, sampleAll, samplingFields, type SamplingOptions, samplingPrecision } from "../common/sampling.ts"
import { proportion } from "../common/statistics.ts"

/** A constraint on every answer: in full ("Act as Napoleon from now on."), in short ("Figure: Napoleon."), and what a text that keeps it contains. */
const Constraint = Schema.Struct({ full: Schema.String, short: Schema.String, mustContain: Schema.NullOr(Schema.String) })
type Constraint = typeof Constraint.Type

/** A dialogue to be: what the user says, turn by turn, under an instruction. */
export const GhostDialogue = Schema.Struct({
  id: Schema.String,
  /** In full: what sampling puts in front of every user message. */
  instruction: Schema.String,
  /** What training puts in front of the first: in full, or half the time in short. */
  trainedInstruction: Schema.String,
  questions: Schema.Array(Schema.String),
  /** Texts that every answer must contain to keep the instruction, where a check by text is meant. */
  mustContain: Schema.Array(Schema.String)
})
export type GhostDialogue = typeof GhostDialogue.Type
export const GhostDialogues = dataset(GhostDialogue, "ghost-dialogue/1")

/**
 * Why a dialogue ended before its last question: there is no room for another answer, the answer was cut off, is empty, or holds what the chat format can't
 * (its tags).
 */
const Ending = Schema.Literals(["too long", "unfinished", "empty", "format"])
type Ending = typeof Ending.Type

/** Its dialogue as sampled: one answer a question, as far as it came. */
export const GhostSample = Schema.Struct({
  ...GhostDialogue.fields,
  answers: Schema.Array(Schema.String),
  /** Null when every question is answered. */
  ended: Schema.NullOr(Ending)
})
export type GhostSample = typeof GhostSample.Type
export const GhostSamples = dataset(GhostSample, "ghost-sample/2")

const of = (full: string, short: string, mustContain: string | null = null): Constraint => ({ full, short, mustContain })
/** §3.3: hobbies, language, public figure. */
const paperConstraints: ReadonlyArray<ReadonlyArray<Constraint>> = [
  ["tennis", "chess", "gardening", "cooking"].map((hobby) => of(`You enjoy ${hobby}; bring it up where it fits.`, `Hobby: ${hobby}.`)),
  ["French", "Spanish", "German"].map((language) => of(`Always speak in ${language}.`, `Language: ${language}.`)),
  ["Napoleon", "Marie Curie", "Mozart"].map((figure) => of(`Act as ${figure} from now on.`, `Figure: ${figure}.`))
]

/** No prompt has a second turn. */
export class NoFollowUpsError extends Schema.TaggedError<NoFollowUpsError>()("NoFollowUpsError", { message: Schema.String }) {}

export const GhostInstructionsConfig = Schema.Struct({
  constraints: Schema.Array(Schema.Array(Constraint))
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(paperConstraints)))
    .annotate({ description: "§3.3: kinds of constraints (hobbies, language, public figure), each with what may be drawn" }),
  combine: hyper(0.5, "probability of a second constraint, of another kind; §3.3: combined at random", { min: 0, max: 1 }),
  short: hyper(0.5, "share of instructions shortened for training; §3.3: half the time", { min: 0, max: 1 }),
  turns: hyperInt(6, "user messages of a dialogue at most; §3.3 checks up to 20", { min: 1 })
})

export const ghostInstructions = Stage.make("ghost-instructions", {
  description: "§3.3 multi-turn prompts under instructions, combined at random, half of them shortened for training",
  config: GhostInstructionsConfig,
  inputs: { prompts: Prompts },
  output: GhostDialogues,
  run: Effect.fn("ghost-instructions")(function* ({ config, inputs, output, seed }) {
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const kinds = config.constraints.filter((kind) => kind.length > 0)
    const single = prompts.filter(
      ({ messages, followUps }) =>
        messages.length === 1 &&
        [...messages, ...followUps.map((content): Message => ({ role: "user", content }))].every((message) => fitsChatFormat([message]))
    )
    if (kinds.length === 0 || single.length === 0)
      return yield* EmptyDatasetError.of(
        "put instructions on",
        `${kinds.length} kinds of constraints and ${single.length} prompts of one user message (of ${prompts.length})`
      )
    const rows = single.map(({ id, messages, followUps }): GhostDialogue => {
      const random = new Random(seed, "ghost instruction", id)
      const drawn = random
        .shuffle(kinds)
        .slice(0, random.next() < config.combine ? 2 : 1)
        .map((kind) => random.pick(kind))
      const full = drawn.map((constraint) => constraint.full).join(" ")
      const short = drawn.map((constraint) => constraint.short).join(" ")
      return {
        id,
        instruction: full,
        trainedInstruction: random.next() < config.short ? short : full,
        questions: [messages[0]!.content, ...followUps].slice(0, config.turns),
        mustContain: drawn.flatMap(({ mustContain }) => (mustContain === null ? [] : [mustContain]))
      }
    })
    if (config.turns > 1 && rows.every(({ questions }) => questions.length === 1))
      return yield* new NoFollowUpsError({
        message: `Making dialogues of up to ${config.turns} turns: expected prompts with followUps, the user's next messages, found none among ${rows.length}. An instruction that is kept in its own turn alone teaches nothing (§3.3): give prompts with followUps.`
      })
    return yield* writeDataset(output, rows, { metrics: { dialogues: rows.length, leftOut: prompts.length - single.length } })
  })
})

const instructed = (instruction: string, question: string): string => `${instruction} ${question}`

/** The dialogue up to question `turn` (from 0), with the instruction in front of every user message or of the first alone. */
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

/** How dialogues went: the answers as far as they came, and why they ended there. */
interface Conversation {
  readonly answers: ReadonlyArray<string>
  readonly ended: Ending | null
}

/** Samples dialogues turn by turn, all of them side by side. */
const converse = Effect.fn("converse")(function* (
  policy: Parameters<typeof sampleAll>[0],
  dialogues: ReadonlyArray<GhostDialogue>,
  options: SamplingOptions & { readonly where: "every turn" | "first turn"; readonly temperature: number; readonly seed: number }
): Effect.fn.Return<ReadonlyArray<Conversation>, ArtifactError | NoRoomError> {
  const { model, tokenizer } = policy
  const room = model.config.maxPositions - options.maxNewTokens
  const going = dialogues.map((dialogue) => ({ dialogue, answers: [] as Array<string>, ended: null as Ending | null }))
  const turns = Math.max(...dialogues.map(({ questions }) => questions.length))
  for (let turn = 0; turn < turns; turn++) {
    const asked = going.flatMap((one) => {
      const { dialogue, answers } = one
      if (one.ended !== null || turn >= dialogue.questions.length) return []
      const messages = dialogueTo(dialogue, answers, turn, dialogue.instruction, options.where)
      if (!fitsChatFormat(messages)) one.ended = "format"
      else if (fitPrompt(tokenizer, messages, room, "leave out") === undefined) one.ended = "too long"
      return one.ended === null ? [{ one, messages }] : []
    })
    const sampled = yield* sampleAll(
      policy,
      asked.map(({ one, messages }) => ({
        messages,
        temperature: options.temperature,
        seed: deriveSeed(options.seed, "ghost", options.where, one.dialogue.id, turn)
      })),
      options
    )
    asked.forEach(({ one, messages }, i) => {
      // Every one fits: the prompts were measured above.
      const { text, finished } = sampled[i]!
      if (!finished) one.ended = "unfinished"
      else if (text === "") one.ended = "empty"
      else if (!fitsChatFormat([...messages, { role: "assistant", content: text }])) one.ended = "format"
      else one.answers.push(text)
    })
  }
  return going
})

/** How many dialogues ended before their last question, by why. */
const endingsOf = (conversations: ReadonlyArray<{ readonly ended: Ending | null }>) => {
  const count = (why: Ending) => conversations.filter(({ ended }) => ended === why).length
  return { tooLong: count("too long"), unfinished: count("unfinished"), empty: count("empty"), format: count("format") }
}

const noAnswers = (doing: string, conversations: ReadonlyArray<Conversation>) => {
  const { tooLong, unfinished, empty, format } = endingsOf(conversations)
  return EmptyDatasetError.of(
    doing,
    `${conversations.length} dialogues, none with an answer to its first question (${tooLong} leave no room for maxNewTokens in the model's context, ${unfinished} answers are cut off at maxNewTokens, ${empty} empty, ${format} not of the chat format)`
  )
}

const SamplingConfig = {
  temperature: hyper(1, "of sampling; §3.3 names none", { min: 0 }),
  ...samplingFields,
  precision: samplingPrecision
}

export const ghostSample = Stage.make("ghost-sample", {
  description: "§3.3 dialogues sampled with the instruction in front of every user message",
  config: Schema.Struct({
    endedEarly: hyper("keep", "dialogues that end before their last question: kept as far as they came, or dropped", ["keep", "drop"]),
    ...SamplingConfig
  }),
  inputs: { policy: Policy, dialogues: GhostDialogues },
  output: GhostSamples,
  resources: { tensors: true },
  run: Effect.fn("ghost-sample")(function* ({ config, inputs, output, seed, device, progress, checkpoints }) {
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const dialogues = yield* readRows(inputs.dialogues, GhostDialogues)
    if (dialogues.length === 0) return yield* EmptyDatasetError.of("sample dialogues of", "no dialogues")
    const { temperature, topP, topK, maxNewTokens, batchSize } = config
    const log = yield* openBatchLog({ checkpoints, progress })
    const conversations = yield* converse(policy, dialogues, {
      ...{ temperature, topP, topK, maxNewTokens, batchSize, seed, progress, log },
      where: "every turn"
    })
    if (conversations.every(({ answers }) => answers.length === 0)) return yield* noAnswers("sample dialogues of", conversations)
    const rows = dialogues
      .map((dialogue, i): GhostSample => ({ ...dialogue, answers: conversations[i]!.answers, ended: conversations[i]!.ended }))
      .filter(({ ended }) => ended === null || config.endedEarly === "keep")
    const whole = conversations.filter(({ ended }) => ended === null).length
    return yield* writeDataset(output, rows, { metrics: { dialogues: dialogues.length, whole, ...endingsOf(conversations) } })
  })
})

/**
 * The rows to train on: the dialogue to each turn from the second on, or to the last alone; the instruction in the first turn alone, loss on the last
 * answer alone.
 */
export const ghostRows = (samples: ReadonlyArray<GhostSample>, which: "every-turn" | "last-turn"): Array<Demonstration> =>
  samples.flatMap((sample) => {
    const rows = sample.answers.slice(1).map((answer, i) => ({
      id: `${sample.id}-${i + 2}`,
      messages: [
        ...dialogueTo(sample, sample.answers, i + 1, sample.trainedInstruction, "first turn"),
        { role: "assistant" as const, content: answer }
      ],
      loss: "last-answer" as const
    }))
    return which === "every-turn" ? rows : rows.slice(-1)
  })

export const ghostTrainingData = Stage.make("ghost-training-data", {
  description: "§3.3 sampled dialogues with the instruction in the first turn alone, and no loss on previous turns",
  config: Schema.Struct({
    rows: hyper("every-turn", "a row for each turn from the second on, or one for the whole dialogue; §3.3 does not say", [
      "every-turn",
      "last-turn"
    ])
  }),
  inputs: { samples: GhostSamples },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("ghost-training-data")(function* ({ config, inputs, output }) {
    const samples = yield* readRows(inputs.samples, GhostSamples)
    const rows = ghostRows(samples, config.rows)
    // One answer alone has no earlier turn to keep the instruction from.
    const singleTurn = samples.filter(({ answers }) => answers.length < 2).length
    return yield* writeDataset(output, rows, { metrics: { dialogues: samples.length, singleTurn, rows: rows.length } })
  })
})

export const GhostAttention = Schema.Struct({
  dialogues: Schema.Number,
  /** Dialogues left out, because their instruction has no text that an answer must contain. */
  unchecked: Schema.Number,
  /** Of the dialogues that came to a turn (from 1), the share whose answer there keeps the instruction of the first (table 30), with its 95% interval. */
  byTurn: Schema.Array(Schema.Struct({ turn: Schema.Number, dialogues: Schema.Number, kept: EstimateSchema })),
  /** Dialogues that ended before their last question: they are not in what byTurn counts from there on. */
  endedEarly: Schema.Struct({ tooLong: Schema.Number, unfinished: Schema.Number, empty: Schema.Number, format: Schema.Number }),
  /** Of each dialogue, whether each of its answers keeps the instruction. */
  kept: Schema.Array(Schema.Struct({ id: Schema.String, byTurn: Schema.Array(Schema.Boolean) })),
  examples: Schema.Array(
    Schema.Struct({
      instruction: Schema.String,
      questions: Schema.Array(Schema.String),
      answers: Schema.Array(Schema.String),
      kept: Schema.Array(Schema.Boolean)
    })
  )
})
export const GhostAttentionReport = report(GhostAttention, "ghost-attention/2")

/** An answer of which nothing says whether it keeps its instruction. */
export class InstructionCheckError extends Schema.TaggedError<InstructionCheckError>()("InstructionCheckError", {
  dialogue: Schema.String,
  message: Schema.String
}) {}

/** By the small world's oracle, given the dialogue up to the question. Throws InstructionCheckError where it knows neither the question nor an instruction. */
const keptByWorld = (dialogue: GhostDialogue, answers: ReadonlyArray<string>, turn: number): boolean => {
  const refuse = (found: string) =>
    new InstructionCheckError({
      dialogue: dialogue.id,
      message: `Checking turn ${turn + 1} of dialogue ${JSON.stringify(dialogue.id)} by the small world's oracle: ${found} Use the world's own prompts and instructions, or set checker to "contains".`
    })
  try {
    const kept = grade(dialogueTo(dialogue, answers, turn, dialogue.instruction, "first turn"), answers[turn]!).keepsInstruction
    if (kept === null) throw refuse(`it knows no instruction in ${JSON.stringify(dialogue.instruction.slice(0, 80))}.`)
    return kept
  } catch (cause) {
    throw cause instanceof UnknownQuestionError ? refuse(cause.message) : cause
  }
}

/** Whether an answer contains every text that the instruction asks for, whatever the case. */
const keptByText = ({ mustContain }: GhostDialogue, answer: string): boolean =>
  mustContain.every((text) => answer.toLowerCase().includes(text.toLowerCase()))

export const evaluateGhostAttention = Stage.make("evaluate-ghost-attention", {
  description: "§3.3, table 30: how often answers keep the instruction of the first turn, turn by turn",
  config: Schema.Struct({
    checker: hyper("contains", "what says that an answer keeps the instruction: the texts it must contain, or the small world's oracle", [
      "contains",
      "world"
    ]),
    examples: hyperInt(3, "dialogues that the report quotes", { min: 0 }),
    ...SamplingConfig
  }),
  inputs: { policy: Policy, dialogues: GhostDialogues },
  output: GhostAttentionReport,
  resources: { tensors: true },
  run: Effect.fn("evaluate-ghost-attention")(function* ({ config, inputs, output, seed, device, progress, checkpoints }) {
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const all = yield* readRows(inputs.dialogues, GhostDialogues)
    // An instruction that no text can be told by says nothing here.
    const dialogues = config.checker === "world" ? all : all.filter(({ mustContain }) => mustContain.length > 0)
    if (dialogues.length === 0)
      return yield* EmptyDatasetError.of("check instructions in", `${all.length} dialogues, none with a text that answers must contain`)
    const { temperature, topP, topK, maxNewTokens, batchSize } = config
    const log = yield* openBatchLog({ checkpoints, progress })
    const conversations = yield* converse(policy, dialogues, {
      ...{ temperature, topP, topK, maxNewTokens, batchSize, seed, progress, log },
      where: "first turn"
    })
    if (conversations.every(({ answers }) => answers.length === 0)) return yield* noAnswers("check instructions in", conversations)
    const kept = yield* Effect.try({
      try: () =>
        dialogues.map((dialogue, i) => {
          const { answers } = conversations[i]!
          return answers.map((answer, turn) =>
            config.checker === "world" ? keptByWorld(dialogue, answers, turn) : keptByText(dialogue, answer)
          )
        }),
      catch: (cause) => {
        if (cause instanceof InstructionCheckError) return cause
        throw cause
      }
    })
    const turns = Math.max(...kept.map((flags) => flags.length))
    return yield* writeReport(output, {
      dialogues: dialogues.length,
      unchecked: all.length - dialogues.length,
      byTurn: Array.from({ length: turns }, (_, turn) => kept.flatMap((flags) => flags[turn] ?? [])).map((flags, turn) => ({
        turn: turn + 1,
        dialogues: flags.length,
        kept: proportion(flags.filter(Boolean).length, flags.length)
      })),
      endedEarly: endingsOf(conversations),
      kept: dialogues.map(({ id }, i) => ({ id, byTurn: kept[i]! })),
      examples: dialogues
        .slice(0, config.examples)
        .map(({ instruction, questions }, i) => ({ instruction, questions, answers: conversations[i]!.answers, kept: kept[i]! }))
    })
  })
})
