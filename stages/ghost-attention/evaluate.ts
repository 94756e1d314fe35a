/** How long models keep an instruction (Llama 2 §3.3, table 30): dialogues with the instruction only in the first turn, checked turn by turn. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { Report } from "../../schemas/artifact.ts"
import { report } from "../../schemas/report.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { unknownSize } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { proportion } from "../common/statistics.ts"
import { conversing } from "./cost.ts"
import { type GhostDialogue, GhostDialogues } from "./instructions.ts"
import { converse, dialogueSamplingFields, endingsOf, noAnswers } from "./sample.ts"

const GhostAttention = Schema.Struct({
  dialogues: Schema.Number,
  /** Dialogues left out because their instruction has no text that an answer must contain. */
  unchecked: Schema.Number,
  /** By turn (from 1): the share of the dialogues that reached it whose answer keeps the instruction of the first turn (table 30), with its 95% interval. */
  byTurn: Schema.Array(Schema.Struct({ turn: Schema.Number, dialogues: Schema.Number, kept: EstimateSchema })),
  /** Dialogues that ended before their last question, which are not in byTurn from there on. */
  endedEarly: Schema.Struct({ tooLong: Schema.Number, unfinished: Schema.Number, empty: Schema.Number, format: Schema.Number }),
  /** For each dialogue, whether each of its answers keeps the instruction. */
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

/** It cannot be determined whether an answer keeps its instruction. */
export class InstructionCheckError extends Schema.TaggedError<InstructionCheckError>()("InstructionCheckError", {
  dialogue: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** Decides whether an answer keeps its dialogue's instruction. */
export interface InstructionChecker {
  /** Whether it can decide for this dialogue; other dialogues are left out and counted. */
  readonly canTell: (dialogue: GhostDialogue) => boolean
  /** Whether the answer of a turn (from 0) keeps the instruction. Throws InstructionCheckError if that cannot be determined. */
  readonly isKept: (dialogue: GhostDialogue, answers: ReadonlyArray<string>, turn: number) => boolean
}

const ports = { policy: Policy, dialogues: GhostDialogues }
const GhostEvaluationConfig = Schema.Struct({
  examples: hyperInt(3, "number of dialogues quoted in the report", { min: 0 }),
  ...dialogueSamplingFields
})

/** The stage's definition for a checker of answers. */
export const evaluationStage = (checker: InstructionChecker) => ({
  description: "§3.3, table 30: how often answers keep the instruction of the first turn, by turn",
  config: GhostEvaluationConfig,
  inputs: ports,
  output: GhostAttentionReport,
  resources: { tensors: true, ranks: "batches" as const },
  run: Effect.fn("evaluate-ghost-attention")(function* ({
    config,
    inputs,
    output,
    seed,
    device,
    progress,
    checkpoints
  }: Stage.Context<typeof GhostEvaluationConfig, typeof ports, Report<typeof GhostAttention.Type>>) {
    const { temperature, topP, topK, maxNewTokens, batchSize, batchInvariant, precision } = config
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: precision })
    const all = yield* readRows(inputs.dialogues, GhostDialogues)
    const dialogues = all.filter(checker.canTell)
    if (dialogues.length === 0)
      return yield* EmptyDatasetError.of("check instructions in", `${all.length} dialogues, none with a text that answers must contain`)
    const log = yield* openBatchLog({ checkpoints, progress })
    const conversations = yield* converse(policy, dialogues, {
      ...{ temperature, topP, topK, maxNewTokens, batchSize, batchInvariant, seed, progress, log },
      where: "first turn"
    })
    if (conversations.every(({ answers }) => answers.length === 0)) return yield* noAnswers("check instructions in", conversations)
    const kept = yield* Effect.try({
      try: () =>
        dialogues.map((dialogue, i) => {
          const { answers } = conversations[i]!
          return answers.map((_, turn) => checker.isKept(dialogue, answers, turn))
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

/** Whether an answer contains every required text of its instruction, ignoring case. */
export const keepsByText = (mustContain: ReadonlyArray<string>, answer: string): boolean =>
  mustContain.every((text) => answer.toLowerCase().includes(text.toLowerCase()))

export const evaluateGhostAttention = Stage.make(
  "evaluate-ghost-attention",
  evaluationStage({
    // An instruction without a text to search for is not counted.
    canTell: ({ mustContain }) => mustContain.length > 0,
    isKept: ({ mustContain }, answers, turn) => keepsByText(mustContain, answers[turn]!)
  })
)

export const evaluateGhostAttentionCost = costOf(evaluateGhostAttention, {
  size: () => unknownSize,
  cost: ({ config, expected, inputs }) => conversing(inputs.policy, inputs.dialogues, config, expected)
})
