/**
 * Ghost Attention (Llama 2 §3.3): an instruction that holds for a whole dialogue. It is put in front of every user message to sample the dialogue from the
 * latest model; to train, it stays in the first turn only, and all tokens of previous turns, assistant messages included, carry no loss.
 *
 * Deviations: one row a turn (2 to n) instead of the whole dialogue once, so that each turn is a last one; the paper does not say which it does. An answer that was
 * cut off or is empty ends its dialogue there.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../data/dataset.ts"
import { grade } from "../data/world/oracle.ts"
import { deriveSeed, Random } from "../engine/random.ts"
import { loadPolicy } from "../models/checkpoint.ts"
import * as Stage from "../runtime/stage.ts"
import { dataset, report } from "../schemas/artifact.ts"
import { Policy } from "../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../schemas/hyper.ts"
import { EstimateSchema } from "../schemas/metrics.ts"
import { type Demonstration, Demonstrations, type Message, Prompts } from "../schemas/rows.ts"
import { EmptyDatasetError } from "./shared/errors.ts"
import { sampleAll, samplingFields, type SamplingOptions, samplingPrecision } from "./shared/sampling.ts"
import { proportion } from "./shared/statistics.ts"

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

/** Its dialogue as sampled: one answer a question, as far as it came. */
export const GhostSample = Schema.Struct({ ...GhostDialogue.fields, answers: Schema.Array(Schema.String) })
export type GhostSample = typeof GhostSample.Type
export const GhostSamples = dataset(GhostSample, "ghost-sample/1")

const of = (full: string, short: string, mustContain: string | null = null): Constraint => ({ full, short, mustContain })
/** §3.3: hobbies, language, public figure. */
const paperConstraints: ReadonlyArray<ReadonlyArray<Constraint>> = [
  ["tennis", "chess", "gardening", "cooking"].map((hobby) => of(`You enjoy ${hobby}; bring it up where it fits.`, `Hobby: ${hobby}.`)),
  ["French", "Spanish", "German"].map((language) => of(`Always speak in ${language}.`, `Language: ${language}.`)),
  ["Napoleon", "Marie Curie", "Mozart"].map((figure) => of(`Act as ${figure} from now on.`, `Figure: ${figure}.`))
]

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
    const single = prompts.filter(({ messages }) => messages.length === 1 && messages[0]!.role === "user")
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

/** Samples dialogues turn by turn, all of them side by side. Gives each dialogue's answers, as far as it came. */
const converse = Effect.fn("converse")(function* (
  policy: Parameters<typeof sampleAll>[0],
  dialogues: ReadonlyArray<GhostDialogue>,
  options: SamplingOptions & {
    readonly where: "every turn" | "first turn"
    readonly instructionOf: (dialogue: GhostDialogue) => string
    readonly temperature: number
    readonly seed: number
  }
) {
  const answers = dialogues.map((): Array<string> => [])
  const turns = Math.max(...dialogues.map(({ questions }) => questions.length))
  for (let turn = 0; turn < turns; turn++) {
    const going = dialogues.flatMap((dialogue, i) =>
      answers[i]!.length === turn && turn < dialogue.questions.length ? [{ dialogue, i }] : []
    )
    if (going.length === 0) break
    const sampled = yield* sampleAll(
      policy,
      going.map(({ dialogue, i }) => ({
        messages: dialogueTo(dialogue, answers[i]!, turn, options.instructionOf(dialogue), options.where),
        temperature: options.temperature,
        seed: deriveSeed(options.seed, "ghost", options.where, dialogue.id, turn)
      })),
      options
    )
    sampled.forEach((found, j) => {
      if (found !== undefined && found.finished && found.text !== "") answers[going[j]!.i]!.push(found.text)
    })
  }
  return answers
})

const SamplingConfig = {
  temperature: hyper(1, "of sampling; §3.3 names none", { min: 0 }),
  ...samplingFields,
  precision: samplingPrecision
}

export const ghostSample = Stage.make("ghost-sample", {
  description: "§3.3 dialogues sampled with the instruction in front of every user message",
  config: Schema.Struct(SamplingConfig),
  inputs: { policy: Policy, dialogues: GhostDialogues },
  output: GhostSamples,
  resources: { tensors: true },
  run: Effect.fn("ghost-sample")(function* ({ config, inputs, output, seed, device, progress }) {
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const dialogues = yield* readRows(inputs.dialogues, GhostDialogues)
    if (dialogues.length === 0) return yield* EmptyDatasetError.of("sample dialogues of", "no dialogues")
    const { temperature, topP, topK, maxNewTokens, batchSize } = config
    const answers = yield* converse(policy, dialogues, {
      ...{ temperature, topP, topK, maxNewTokens, batchSize, seed, progress },
      where: "every turn",
      instructionOf: ({ instruction }) => instruction
    })
    const rows = dialogues.map((dialogue, i): GhostSample => ({ ...dialogue, answers: answers[i]! }))
    const whole = rows.filter((row) => row.answers.length === row.questions.length).length
    return yield* writeDataset(output, rows, { metrics: { dialogues: rows.length, whole, endedEarly: rows.length - whole } })
  })
})

/** The rows to train on: for each turn from the second on the dialogue to it, the instruction in the first turn alone, loss on the last answer alone. */
export const ghostRows = (samples: ReadonlyArray<GhostSample>): Array<Demonstration> =>
  samples.flatMap((sample) =>
    sample.answers.slice(1).map((answer, i) => ({
      id: `${sample.id}-${i + 2}`,
      messages: [
        ...dialogueTo(sample, sample.answers, i + 1, sample.trainedInstruction, "first turn"),
        { role: "assistant" as const, content: answer }
      ],
      loss: "last-answer" as const
    }))
  )

export const ghostTrainingData = Stage.make("ghost-training-data", {
  description: "§3.3 sampled dialogues with the instruction in the first turn alone, and no loss on previous turns",
  config: Schema.Struct({}),
  inputs: { samples: GhostSamples },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("ghost-training-data")(function* ({ inputs, output }) {
    const samples = yield* readRows(inputs.samples, GhostSamples)
    return yield* writeDataset(output, ghostRows(samples), { metrics: { dialogues: samples.length } })
  })
})

export const GhostAttention = Schema.Struct({
  dialogues: Schema.Number,
  /** Of the dialogues that came to a turn (from 1), the share whose answer there keeps the instruction of the first (table 30). */
  byTurn: Schema.Array(Schema.Struct({ turn: Schema.Number, dialogues: Schema.Number, kept: EstimateSchema })),
  examples: Schema.Array(
    Schema.Struct({
      instruction: Schema.String,
      questions: Schema.Array(Schema.String),
      answers: Schema.Array(Schema.String),
      kept: Schema.Array(Schema.Boolean)
    })
  )
})
export const GhostAttentionReport = report(GhostAttention, "ghost-attention/1")

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
  run: Effect.fn("evaluate-ghost-attention")(function* ({ config, inputs, output, seed, device, progress }) {
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const all = yield* readRows(inputs.dialogues, GhostDialogues)
    // An instruction that no text can be told by says nothing here.
    const dialogues = config.checker === "world" ? all : all.filter(({ mustContain }) => mustContain.length > 0)
    if (dialogues.length === 0)
      return yield* EmptyDatasetError.of("check instructions in", `${all.length} dialogues, none with a text that answers must contain`)
    const { temperature, topP, topK, maxNewTokens, batchSize } = config
    const answers = yield* converse(policy, dialogues, {
      ...{ temperature, topP, topK, maxNewTokens, batchSize, seed, progress },
      where: "first turn",
      instructionOf: ({ instruction }) => instruction
    })
    const keeps = (dialogue: GhostDialogue, i: number, turn: number): boolean => {
      const answer = answers[i]![turn]!
      if (config.checker === "contains") return dialogue.mustContain.every((text) => answer.toLowerCase().includes(text.toLowerCase()))
      const messages = dialogueTo(dialogue, answers[i]!, turn, dialogue.instruction, "first turn")
      return grade(messages, answer).keepsInstruction === true
    }
    const kept = dialogues.map((dialogue, i) => answers[i]!.map((_, turn) => keeps(dialogue, i, turn)))
    const turns = Math.max(...dialogues.map(({ questions }) => questions.length))
    return yield* writeReport(output, {
      dialogues: dialogues.length,
      byTurn: Array.from({ length: turns }, (_, turn) => kept.flatMap((flags) => flags[turn] ?? []))
        .map((flags, turn) => ({ turn: turn + 1, dialogues: flags.length, kept: proportion(flags.filter(Boolean).length, flags.length) }))
        .filter((row) => row.dialogues > 0),
      examples: dialogues
        .slice(0, config.examples)
        .map(({ instruction, questions }, i) => ({ instruction, questions, answers: answers[i]!, kept: kept[i]! }))
    })
  })
})
