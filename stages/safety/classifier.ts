/**
 * Classifies prompts and responses with a safety classifier in the style of Llama Guard (Inan et al. 2023), a language model fine-tuned for this task.
 * It identifies adversarial prompts if the data has no tags (Llama 2 §3.2.3: is_safety) and counts violations.
 *
 *     P(unsafe | text) = p("unsafe" | text) / (p("unsafe" | text) + p("safe" | text))
 *     category         = argmax_c p("\n" code_c EOS | text, "unsafe")
 *
 * Both are computed from the log-probabilities of the given answers: nothing is generated.
 */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Device, noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { encodeDialogue, encodePrompt, formatOf } from "../../models/chat.ts"
import { type LoadedPolicy, loadPolicy } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type * as Stage from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import type { ArtifactError, ArtifactRef, Checkpoint } from "../../schemas/artifact.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import type { Message } from "../../schemas/rows.ts"
import { type BatchLog, withoutLog } from "../common/batch-log.ts"
import { chunks } from "../common/sequences.ts"
import type { SkippableRows } from "../common/unfit.ts"
import {
  type TextKind,
  safeVerdict,
  type SafetyTask,
  SafetyTaskField,
  taskHeader,
  taskText,
  unsafeVerdict,
  verdictText
} from "./classifier-task.ts"
import { ClassifierError, TasksFile, tasksFile } from "./classifier-tasks-file.ts"
import { schemaIssues } from "../../schemas/schema-issues.ts"

/** Tokens, of which the log-probabilities from `from` up to `to` are needed. */
export interface Continuation {
  readonly tokens: ReadonlyArray<number>
  readonly from: number
  readonly to: number
}

/** Summed log-probability of each continuation given the tokens before it, in one forward pass for all. The softmax and the sums are in float32. */
export const continuationLogProbabilities = (
  model: Llama,
  continuations: ReadonlyArray<Continuation>,
  options: { readonly padId: number; readonly device: Device }
): Array<number> => {
  const { device, padId } = options
  const length = Math.max(...continuations.map(({ tokens }) => tokens.length)) // T
  const ids = new Int32Array(continuations.length * length).fill(padId)
  const positions: Array<number> = []
  const targets: Array<number> = []
  continuations.forEach(({ tokens, from, to }, row) => {
    ids.set(tokens, row * length)
    for (let at = from; at < to; at++) {
      positions.push(row * length + at - 1) // the position before a token predicts it
      targets.push(tokens[at]!)
    }
  })
  const picked = scoped(() =>
    noGrad(() => {
      // Causal: the padding on the right does not affect the positions that are read.
      const hidden = model.hidden(tensor(ids, { shape: [continuations.length, length], dtype: "int64", device })) // (B, T, D)
      const states = hidden.reshape(-1, hidden.size(-1)).indexSelect(0, tensor(Int32Array.from(positions), { dtype: "int64", device })) // (N, D)
      const target = tensor(Int32Array.from(targets), { dtype: "int64", device }).unsqueeze(1) // (N, 1)
      return model.logits(states).logSoftmax(1, "float32").gather(1, target).squeeze(1).toNumbers()
    })
  )
  let at = 0
  return continuations.map(({ from, to }) => {
    let sum = 0
    for (let i = from; i < to; i++) sum += picked[at++]!
    return sum
  })
}

/** A question of the classifier with a given answer; `to` is after the answer's EOS, or after its last word. */
const continuationOf = (tokenizer: Tokenizer, question: string, answer: string, end: "eos" | "word"): Continuation => {
  const asked: Message = { role: "user", content: question }
  const { tokens } = encodeDialogue(tokenizer, [asked, { role: "assistant", content: answer }])
  const from = encodePrompt(tokenizer, [asked]).length
  const to = end === "eos" ? tokens.length : tokens.length - formatOf(tokenizer).closing
  return { tokens: tokens.slice(0, to), from, to }
}

export interface TextToClassify {
  readonly kind: TextKind
  /** Ends with the message to classify. */
  readonly messages: ReadonlyArray<Message>
}

/** The classifier's question about a text, without its oldest messages if necessary to fit the context; undefined if it never fits. */
export const fitTask = (tokenizer: Tokenizer, task: SafetyTask, text: TextToClassify, length: number): string | undefined => {
  const answers = [safeVerdict, unsafeVerdict, ...task.categories.map(({ category }) => verdictText(task, true, category))]
  const least = text.kind === "prompt" ? 1 : Math.min(2, text.messages.length)
  const most = task.messages === 0 ? text.messages.length : Math.min(task.messages, text.messages.length)
  for (let shown = most; shown >= Math.min(least, most); shown--) {
    const question = taskText(task, text.kind, text.messages.slice(-shown))
    if (answers.every((answer) => continuationOf(tokenizer, question, answer, "eos").to <= length)) return question
  }
  return undefined
}

export interface Classification {
  /** P(unsafe), relative to "safe" and "unsafe". */
  readonly probability: number
  /** Whether the probability is above the threshold. */
  readonly unsafe: boolean
  /** The most likely category of an unsafe text; null for a safe one, or if the task has no categories. */
  readonly category: string | null
}

export const classifyingFields = {
  task: SafetyTaskField,
  threshold: hyper(0.5, "probability above which a text counts as unsafe; Llama Guard uses the more likely answer: 0.5", {
    min: 0,
    max: 1
  }),
  batchSize: hyperInt(32, "number of texts classified in parallel", { min: 1 }),
  precision: hyper("float32", "dtype of the model's weights and activations; probabilities are always float32", ["float32", "bfloat16"])
}

/** p(unsafe) from the two log-probabilities: the sigmoid of their difference. */
export const unsafeProbability = (logSafe: number, logUnsafe: number): number => 1 / (1 + Math.exp(logSafe - logUnsafe))

const argmax = (values: ReadonlyArray<number>): number => values.reduce((best, value, i) => (value > values[best]! ? i : best), 0)

/** Classifies texts, in order; undefined for a text that does not fit the context, which is skipped. An empty response is safe, since it has no content. */
export const classifyTexts = Effect.fn("classifyTexts")(function* (
  { model, tokenizer }: LoadedPolicy,
  texts: ReadonlyArray<TextToClassify>,
  options: {
    readonly task: SafetyTask
    readonly threshold: number
    readonly batchSize: number
    readonly device: Device
    readonly progress: Stage.Context["progress"]
    /** Where finished batches are stored; undefined: nowhere. */
    readonly log?: BatchLog
    readonly rows: SkippableRows
  }
): Effect.fn.Return<ReadonlyArray<Classification | undefined>, ClassifierError | ArtifactError | StageError> {
  const { task, threshold, batchSize, device, log = withoutLog(options.progress) } = options
  const { idOf, skipped, what, maxShare } = options.rows
  const score = (continuations: ReadonlyArray<Continuation>) =>
    continuationLogProbabilities(model, continuations, { padId: tokenizer.padId, device })
  const out = new Array<Classification | undefined>(texts.length).fill(undefined)
  interface Item {
    readonly index: number
    readonly question: string
    readonly safe: Continuation
    readonly unsafe: Continuation
  }
  const work: Array<Item> = []
  texts.forEach((text, index) => {
    if (text.kind === "response" && text.messages.at(-1)!.content.trim() === "") {
      out[index] = { probability: 0, unsafe: false, category: null }
      return
    }
    const question = fitTask(tokenizer, task, text, model.config.maxPositions)
    if (question === undefined) {
      const reason = `that do not fit the classifier's ${model.config.maxPositions} tokens`
      skipped.add({ what, reason, id: idOf(index), row: text })
      return
    }
    const [safe, unsafe] = [safeVerdict, unsafeVerdict].map((answer) => continuationOf(tokenizer, question, answer, "word"))
    work.push({ index, question, safe: safe!, unsafe: unsafe! })
  })
  yield* skipped.check(what, texts.length, maxShare)
  // Texts of similar length share a batch to reduce padding.
  work.sort((a, b) => a.unsafe.to - b.unsafe.to || a.index - b.index)
  const classifyBatch = Effect.fnUntraced(function* (batch: ReadonlyArray<Item>): Effect.fn.Return<Array<Classification>, ClassifierError> {
    const verdicts = score(batch.flatMap(({ safe, unsafe }) => [safe, unsafe]))
    const probabilities = batch.map((_, i) => unsafeProbability(verdicts[2 * i]!, verdicts[2 * i + 1]!))
    const found = batch.filter((_, i) => probabilities[i]! > threshold)
    const named = found.flatMap((item) =>
      task.categories.map(({ category }): Continuation => {
        const whole = continuationOf(tokenizer, item.question, verdictText(task, true, category), "eos")
        return { ...whole, from: item.unsafe.to }
      })
    )
    const broken = named.findIndex(({ tokens }, i) => {
      const { unsafe } = found[Math.floor(i / task.categories.length)]!
      return unsafe.tokens.some((token, at) => tokens[at] !== token)
    })
    if (broken !== -1)
      return yield* ClassifierError.of({
        doing: "Comparing categories",
        expected: 'a tokenizer with a boundary after the word "unsafe"',
        found: "a tokenizer that joins it to the following line break",
        hint: "Use a model whose tokenizer keeps line breaks separate."
      })
    const scores = named.length === 0 ? [] : score(named)
    return batch.map((item, i) => {
      const probability = probabilities[i]!
      const at = found.indexOf(item)
      if (at === -1) return { probability, unsafe: false, category: null }
      const own = scores.slice(at * task.categories.length, (at + 1) * task.categories.length)
      return { probability, unsafe: true, category: own.length === 0 ? null : task.categories[argmax(own)]!.category }
    })
  })
  let done = 0
  const batches = chunks(work, batchSize).map((batch) => {
    const step = (done += batch.length)
    return {
      name: `classifications of ${batch.length} texts, the first number ${batch[0]!.index}`,
      compute: classifyBatch(batch),
      progressOf: () => ({ step, total: work.length, tokens: batch.reduce((sum, item) => sum + item.safe.to + item.unsafe.to, 0) })
    }
  })
  const classifications = (yield* log.all(batches)).flat()
  work.forEach(({ index }, i) => (out[index] = classifications[i]))
  return out
})

/** Loads a classifier after checking that it was trained for this task. */
export const loadClassifier = Effect.fn("loadClassifier")(function* (
  ref: ArtifactRef<Checkpoint<"safety-classifier">>,
  task: SafetyTask,
  kinds: ReadonlyArray<TextKind>,
  options: { readonly device: Device; readonly dtype: "float32" | "bfloat16" }
) {
  const path = join(ref.path, tasksFile)
  const doing = "Reading a safety classifier"
  const text = yield* Effect.tryPromise({
    try: () => readFile(path, "utf8"),
    catch: () =>
      ClassifierError.of({
        doing,
        expected: `the tasks that the classifier was trained for in ${path}`,
        found: "no such file",
        hint: "Train it with the stage safetyClassifier."
      })
  })
  const { tasks } = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(TasksFile))(text).pipe(
    Effect.mapError((error) =>
      ClassifierError.of({
        doing,
        expected: `a list of tasks in ${path}`,
        found: schemaIssues(error.message),
        hint: "Train the classifier again."
      })
    )
  )
  for (const each of kinds) {
    const header = taskHeader(task, each)
    if (!tasks.includes(header))
      return yield* ClassifierError.of({
        doing,
        expected: `a classifier trained for the task ${JSON.stringify(header)}`,
        found: `a classifier trained for ${tasks.map((known) => JSON.stringify(known)).join(" and ")}`,
        hint: `Use the same task in safetyClassifierData and here, with examples of ${each}s.`
      })
  }
  return yield* loadPolicy(ref, options)
})
