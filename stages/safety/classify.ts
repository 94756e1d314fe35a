/** Classifies prompts and completions: sets the is_safety tag of prompts (Llama 2 §3.2.3), and finds unsafe completions. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { SafetyClassifier } from "../../schemas/checkpoint.ts"
import { dataset } from "../../schemas/dataset.ts"
import { hyper } from "../../schemas/hyper.ts"
import { Completions, Prompts } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, promptLength, rowCount, sized } from "../common/cost/size.ts"
import { completionRows } from "../common/scoring.ts"
import { classifyingFields, classifyTexts, loadClassifier, type TextToClassify } from "./classifier.ts"
import { classifying } from "./cost.ts"

export const classifyPrompts = Stage.make("classify-prompts", {
  description: "§3.2.3 sets the safety tag of prompts (is_safety), and the risk category of unsafe ones, with the safety classifier",
  config: Schema.Struct({
    ...classifyingFields,
    keep: hyper("all", "which prompts to output: all, or only those classified as unsafe", ["all", "unsafe"])
  }),
  inputs: { classifier: SafetyClassifier, prompts: Prompts },
  output: Prompts,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("classify-prompts")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const { task, threshold, batchSize, precision: dtype } = config
    const loaded = yield* loadClassifier(inputs.classifier, task, ["prompt"], { device, dtype })
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const texts = prompts.map(({ messages }): TextToClassify => ({ kind: "prompt", messages }))
    const classified = { skipped, what: "prompts", idOf: (index: number) => prompts[index]!.id }
    const log = yield* openBatchLog({ checkpoints, progress })
    const classifications = yield* classifyTexts(loaded, texts, { task, threshold, batchSize, device, progress, log, rows: classified })
    // A safe prompt keeps its category: a topic, or "borderline".
    const rows = prompts.flatMap((prompt, i) => {
      const classification = classifications[i]
      return classification === undefined
        ? []
        : [{ ...prompt, safety: classification.unsafe, category: classification.unsafe ? classification.category : prompt.category }]
    })
    const unsafe = rows.filter((row) => row.safety)
    return yield* writeDataset(output, config.keep === "all" ? rows : unsafe, {
      metrics: { unsafe: unsafe.length, promptsTooLong: prompts.length - rows.length }
    })
  })
})

/** A classified completion. */
export const ClassifiedCompletion = Schema.Struct({
  promptId: Schema.String,
  sample: Schema.Number.annotate({ arrow: "int32" }).check(Schema.isInt()),
  /** Whether the prompt is meant to elicit something unsafe. */
  safety: Schema.Boolean,
  text: Schema.String,
  unsafe: Schema.Boolean,
  category: Schema.NullOr(Schema.String),
  /** P(unsafe). */
  probability: Schema.Number
})
export type ClassifiedCompletion = typeof ClassifiedCompletion.Type
export const ClassifiedCompletions = dataset(ClassifiedCompletion, "classified-completion/1")

export const classifyCompletions = Stage.make("classify-completions", {
  description:
    "classifies completions with the safety classifier: whether they are unsafe, with what probability, and which risk category applies",
  config: Schema.Struct(classifyingFields),
  inputs: { classifier: SafetyClassifier, completions: Completions },
  output: ClassifiedCompletions,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("classify-completions")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const { task, threshold, batchSize, precision: dtype } = config
    const loaded = yield* loadClassifier(inputs.classifier, task, ["response"], { device, dtype })
    const completions = yield* readRows(inputs.completions, Completions)
    const texts = completions.map(({ prompt, text }): TextToClassify => ({
      kind: "response",
      messages: [...prompt, { role: "assistant", content: text }]
    }))
    const classified = completionRows(skipped, completions)
    const log = yield* openBatchLog({ checkpoints, progress })
    const classifications = yield* classifyTexts(loaded, texts, { task, threshold, batchSize, device, progress, log, rows: classified })
    const rows = completions.flatMap(({ promptId, sample, safety, text }, i) => {
      const classification = classifications[i]
      return classification === undefined ? [] : [{ promptId, sample, safety, text, ...classification }]
    })
    return yield* writeDataset(output, rows, {
      metrics: { unsafe: rows.filter((row) => row.unsafe).length, tooLong: completions.length - rows.length }
    })
  })
})

export const classifyPromptsCost = costOf(classifyPrompts, {
  size: ({ config, inputs: { prompts } }) =>
    config.keep === "all" ? prompts : sized(prompts, { rows: Math.round(prompts.rows * prompts.safetyShare), safetyShare: 1 }),
  cost: ({ config, inputs }) =>
    classifying(inputs.classifier, rowCount(inputs.prompts, "prompts"), promptLength(inputs.prompts, "what is judged"), config)
})
export const classifyCompletionsCost = costOf(classifyCompletions, {
  size: ({ inputs }) => inputs.completions,
  cost: ({ config, inputs }) =>
    classifying(inputs.classifier, rowCount(inputs.completions, "completions"), dialogueLength(inputs.completions, "completions"), config)
})
